// Sampling of a step's rows: logprobs, tokens, draft verification, and what they do to the slots.
#include <algorithm>
#include <span>

#include "ops/cpu/cpu_ops_impl.h"
#include "ops/cpu/sampler.h"
#include "ops/cpu/slot_row.h"

namespace fathom {
namespace {

// One call's inputs and outputs.
struct Call {
  const SlotTable& slots;
  const BatchView& batch;
  const Tensor& logits;
  std::span<const TokenId> eos;
  SampleOutput& out;

  float* row_logits(int64_t sample_row) const {
    return logits.as<float>() + sample_row * logits.stride[0];
  }
};

// Raw logprobs of sample row `s`: of `token`, and of the most likely tokens.
void store_logprobs(const Call& call, const SlotSampling& sampling, int64_t s, TokenId token,
                    float norm) {
  const float* logits = call.row_logits(s);
  call.out.logprob.as<float>()[s] = logits[token] - norm;
  const int32_t count = std::max(sampling.logprobs, 0);
  if (count == 0) return;
  top_entries(logits, call.slots.limits.vocab, count, norm,
              call.out.top_ids.as<int32_t>() + s * call.out.top_ids.stride[0],
              call.out.top_logprobs.as<float>() + s * call.out.top_logprobs.stride[0]);
}

// The prompt's own logprobs: of the token after each of the row's tokens, as far as it is known.
void store_prompt_logprobs(const Call& call, const SlotRow& slot, int32_t context, int32_t query,
                           int64_t first_sample, const SampleScratch& scratch) {
  const int32_t vocab = call.slots.limits.vocab_padded;
  for (int32_t i = 0; i < query && context + i + 1 < slot.length(); ++i) {
    const int64_t s = first_sample + i;
    const float norm = log_sum_exp(call.row_logits(s), vocab, scratch.probabilities);
    store_logprobs(call, slot.sampling(), s, slot.history()[context + i + 1], norm);
  }
}

// Samples the token after the slot's last and appends it; returns it.
TokenId sample_next(const Call& call, const SlotRow& slot, int64_t s,
                    const SampleScratch& scratch) {
  const SlotLimits& limits = call.slots.limits;
  const SlotSampling& sampling = slot.sampling();
  const SampleContext context{sampling,        slot.history(),     slot.length(),
                              slot.bias_ids(), slot.bias_values(), call.eos,
                              limits.vocab,    limits.vocab_padded};
  float* logits = call.row_logits(s);
  TokenId token = 0;
  if (sampling.logprobs >= 0) {
    // The sampler overwrites the logits, and the raw ones are needed after it.
    const float norm = log_sum_exp(logits, limits.vocab_padded, scratch.probabilities);
    std::copy_n(logits, limits.vocab_padded, scratch.raw);
    token = sample_token(context, logits, scratch);
    std::copy_n(scratch.raw, limits.vocab_padded, logits);
    store_logprobs(call, sampling, s, token, norm);
  } else {
    token = sample_token(context, logits, scratch);
  }
  slot.history()[slot.length()++] = token;
  if (ends_sequence(sampling, call.eos, token)) {
    slot.finish(FinishReason::kStop);
  } else if (slot.length() >= sampling.total_tokens_max) {
    slot.finish(FinishReason::kLength);
  }
  return token;
}

// Decode and verify rows: samples position after position while the draft there was right.
int32_t verify(const Call& call, const SlotRow& slot, int32_t row, int32_t query,
               int64_t first_sample, const SampleScratch& scratch) {
  int32_t* tokens = call.out.new_tokens.as<int32_t>() + row * call.out.new_tokens.stride[0];
  for (int32_t i = 0;; ++i) {
    tokens[i] = sample_next(call, slot, first_sample + i, scratch);
    const bool on =
        i + 1 < query && slot.drafts()[i] == tokens[i] && slot.finished() == FinishReason::kNone;
    if (!on) return i + 1;
  }
}

// Sample rows [first_sample, first_sample + wanted) belong to row `r`.
void sample_row(const Call& call, int32_t r, int64_t first_sample, int64_t wanted,
                const SampleScratch& scratch) {
  const SlotRow slot(call.slots, call.batch.row_slot.as<int32_t>()[r]);
  const auto kind = static_cast<RowKind>(call.batch.row_kind.as<int32_t>()[r]);
  const int32_t query = call.batch.row_query.as<int32_t>()[r];
  const int32_t context = call.batch.row_context.as<int32_t>()[r];
  int32_t accepted = query;
  int32_t fresh = 0;
  if (query > 0 && kind != RowKind::kPrefill) {
    fresh = accepted = verify(call, slot, r, query, first_sample, scratch);
  } else if (query > 0 && wanted > 0) {
    const bool all = slot.sampling().prompt_logprobs != 0;
    const bool ends_prompt = context + query == slot.length();
    if (all) store_prompt_logprobs(call, slot, context, query, first_sample, scratch);
    if (ends_prompt) {
      fresh = verify(call, slot, r, 1, first_sample + (all ? query - 1 : 0), scratch);
    }
  }
  if (query > 0) {  // padding rows share slot 0
    slot.computed() += accepted;
    slot.draft_count() = 0;
  }
  SampleOutput& out = call.out;
  out.accepted.as<int32_t>()[r] = accepted;
  out.new_count.as<int32_t>()[r] = fresh;
  out.drafted.as<int32_t>()[r] = kind == RowKind::kVerify ? std::max(query - 1, 0) : 0;
  out.draft_count.as<int32_t>()[r] = 0;
  const FinishReason finish = fresh > 0 ? slot.finished() : FinishReason::kNone;
  out.finish.as<uint8_t>()[r] = static_cast<uint8_t>(finish);
}

}  // namespace

void CpuOps::sample(const SlotTable& slots, const BatchView& batch, const Tensor& logits,
                    const std::vector<TokenId>& eos, SampleOutput& out) {
  const int32_t rows = batch.shape.rows;
  const int64_t vocab = slots.limits.vocab_padded;
  FATHOM_CHECK(logits.shape[0] == batch.shape.sample_rows && logits.shape[1] == vocab,
               "logits have another shape than the batch's sample rows");
  ArenaScope scope(arena_);
  const Call call{slots, batch, logits, eos, out};
  const auto ints = [&](int64_t n) { return arena_.take(DType::kI32, {n}).as<int32_t>(); };
  int32_t* first = ints(rows + 1);  // sample rows of each row
  const int32_t* sample_rows = batch.sample_row.as<int32_t>();
  for (int32_t r = 0, s = 0; r <= rows; ++r) {
    while (s < batch.shape.sample_rows && sample_rows[s] < r) ++s;
    first[r] = s;
  }
  const int64_t workers = pool_.size();
  float* reals = floats(workers * 3 * vocab);
  int32_t* integers = ints(workers * 2 * vocab);
  std::fill_n(integers, workers * 2 * vocab, 0);
  const auto scratch_of = [&](int32_t worker) {
    float* f = reals + worker * 3 * vocab;
    int32_t* i = integers + worker * 2 * vocab;
    return SampleScratch{f, f + vocab, f + 2 * vocab, i, i + vocab};
  };
  constexpr int64_t kCostPerLogit = 16;
  pool_.split(rows, 1, batch.shape.sample_rows * vocab * kCostPerLogit,
              [&](int64_t begin, int64_t end, int32_t worker) {
                const SampleScratch scratch = scratch_of(worker);
                for (int64_t r = begin; r < end; ++r) {
                  sample_row(call, static_cast<int32_t>(r), first[r], first[r + 1] - first[r],
                             scratch);
                }
              });
}

}  // namespace fathom
