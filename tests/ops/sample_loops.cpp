#include "ops/sample_loops.h"

#include <algorithm>
#include <cmath>
#include <map>
#include <numeric>

#include "ops/cpu/philox.h"

namespace fathom::testing {
namespace {

constexpr double kNever = -INFINITY;

// Ids by value, largest first, lowest id first among equals.
std::vector<int32_t> ordered(const std::vector<double>& x, size_t count) {
  std::vector<int32_t> ids(count);
  std::iota(ids.begin(), ids.end(), 0);
  std::stable_sort(ids.begin(), ids.end(), [&](int32_t a, int32_t b) { return x[a] > x[b]; });
  return ids;
}

// Bias, penalties and masks: the values that temperature divides.
std::vector<double> adjusted(SlotState& s, int32_t slot, std::vector<double> x,
                             const std::vector<TokenId>& eos) {
  const SlotSampling& c = s.sampling[slot];
  for (int32_t i = 0; i < c.bias_count; ++i) {
    const int32_t id = s.row(s.bias_ids, slot)[i];
    x[id] += s.row(s.bias_values, slot)[i];
  }
  if (c.uses_penalties != 0) {
    std::map<int32_t, int32_t> answered;  // of every known token: its count in the answer
    for (int32_t i = 0; i < s.length[slot]; ++i) {
      answered[s.row(s.history, slot)[i]] += i >= c.prompt_tokens ? 1 : 0;
    }
    for (const auto& [id, count] : answered) {
      x[id] = x[id] > 0.0 ? x[id] / c.repetition_penalty : x[id] * c.repetition_penalty;
      x[id] -= c.frequency_penalty * count + (count > 0 ? c.presence_penalty : 0.0);
    }
  }
  if (s.length[slot] < c.min_total_tokens) {
    for (const TokenId id : eos) x[id] = c.ignore_eos != 0 ? x[id] : kNever;
    for (int32_t i = 0; i < c.stop_id_count; ++i) x[c.stop_ids[i]] = kNever;
  }
  return x;
}

TokenId choose(SlotState& s, int32_t slot, const std::vector<double>& logits,
               const std::vector<TokenId>& eos) {
  const SlotSampling& c = s.sampling[slot];
  const std::vector<double> x = adjusted(s, slot, logits, eos);
  const std::vector<int32_t> ids = ordered(x, static_cast<size_t>(s.limits.vocab));
  if (c.temperature <= 0.0F) return ids[0];
  const double temperature = std::max(c.temperature, 1e-5F);
  std::vector<double> p;  // by rank
  for (const int32_t id : ids) p.push_back(std::exp((x[id] - x[ids[0]]) / temperature));
  size_t kept = p.size();
  if (c.top_k > 0) kept = std::min(kept, static_cast<size_t>(c.top_k));
  const double total = std::accumulate(p.begin(), p.begin() + static_cast<int64_t>(kept), 0.0);
  if (c.top_p < 1.0F) {
    double sum = 0.0;
    size_t n = 0;
    while (n < kept && (n == 0 || sum < c.top_p * total)) sum += p[n++];
    kept = n;
  }
  std::map<int32_t, double> by_id;
  double mass = 0.0;
  for (size_t i = 0; i < kept; ++i) {
    if (p[i] < c.min_p) continue;
    by_id[ids[i]] = p[i];
    mass += p[i];
  }
  const double target =
      mass * uniform_draw(c.seed_low, c.seed_high, s.length[slot], DrawPurpose::kToken);
  double sum = 0.0;
  for (const auto& [id, weight] : by_id) {
    sum += weight;
    if (sum > target) return id;
  }
  return by_id.rbegin()->first;
}

// One call's inputs and outputs.
struct Call {
  SlotState& slots;
  const HostBatch& batch;
  const std::vector<float>& logits;
  const std::vector<TokenId>& eos;
  SampledRows& out;

  std::vector<double> row_logits(int64_t at) const {
    const int64_t columns = slots.limits.vocab_padded;
    const auto from = logits.begin() + at * columns;
    return {from, from + columns};
  }
};

void store_logprobs(const Call& call, int32_t slot, int64_t at, TokenId token) {
  const std::vector<double> x = call.row_logits(at);
  const double peak = *std::max_element(x.begin(), x.end());
  double sum = 0.0;
  for (const double v : x) sum += std::exp(v - peak);
  const double norm = peak + std::log(sum);
  call.out.logprob[at] = x[token] - norm;
  const std::vector<int32_t> ids = ordered(x, static_cast<size_t>(call.slots.limits.vocab));
  for (int32_t i = 0; i < call.slots.sampling[slot].logprobs; ++i) {
    call.out.top_ids[at * kLogprobsMax + i] = ids[i];
    call.out.top_logprobs[at * kLogprobsMax + i] = x[ids[i]] - norm;
  }
}

TokenId sample_next(const Call& call, int32_t slot, int64_t at) {
  SlotState& s = call.slots;
  const SlotSampling& c = s.sampling[slot];
  const TokenId token = choose(s, slot, call.row_logits(at), call.eos);
  if (c.logprobs >= 0) store_logprobs(call, slot, at, token);
  s.row(s.history, slot)[s.length[slot]++] = token;
  const auto stops = [&](TokenId id) { return id == token; };
  const bool ends = (c.ignore_eos == 0 && std::any_of(call.eos.begin(), call.eos.end(), stops)) ||
                    std::any_of(c.stop_ids, c.stop_ids + c.stop_id_count, stops);
  if (ends) {
    s.finished[slot] = static_cast<uint8_t>(FinishReason::kStop);
  } else if (s.length[slot] >= c.total_tokens_max) {
    s.finished[slot] = static_cast<uint8_t>(FinishReason::kLength);
  }
  return token;
}

// Up to `count` positions, on while the draft there was right; returns how many.
int32_t verify(const Call& call, int32_t r, int32_t slot, int64_t at, int32_t count) {
  const auto width = static_cast<int64_t>(call.out.new_tokens.size()) / call.batch.shape.rows;
  for (int32_t i = 0;; ++i) {
    const TokenId token = sample_next(call, slot, at + i);
    call.out.new_tokens[r * width + i] = token;
    const bool on = i + 1 < count && call.slots.row(call.slots.drafts, slot)[i] == token &&
                    call.slots.finished[slot] == 0;
    if (!on) return i + 1;
  }
}

void sample_row(const Call& call, int32_t r, int64_t at, int64_t wanted) {
  SlotState& s = call.slots;
  const HostBatch& b = call.batch;
  const int32_t slot = b.row_slot[r];
  const int32_t query = b.row_query[r];
  const bool prefill = b.row_kind[r] == static_cast<int32_t>(RowKind::kPrefill);
  int32_t accepted = query;
  int32_t fresh = 0;
  if (query > 0 && !prefill) fresh = accepted = verify(call, r, slot, at, query);
  if (query > 0 && prefill && wanted > 0) {
    const int32_t length = s.length[slot];
    const bool all = s.sampling[slot].prompt_logprobs != 0;
    for (int32_t i = 0; all && i < query && b.row_context[r] + i + 1 < length; ++i) {
      store_logprobs(call, slot, at + i, s.row(s.history, slot)[b.row_context[r] + i + 1]);
    }
    if (b.row_context[r] + query == length) {
      fresh = verify(call, r, slot, at + (all ? query - 1 : 0), 1);
    }
  }
  if (query > 0) {
    s.computed[slot] += accepted;
    s.draft_count[slot] = 0;
  }
  call.out.accepted[r] = accepted;
  call.out.new_count[r] = fresh;
  call.out.drafted[r] =
      b.row_kind[r] == static_cast<int32_t>(RowKind::kVerify) ? std::max(query - 1, 0) : 0;
  call.out.finish[r] = fresh > 0 ? s.finished[slot] : 0;
}

}  // namespace

SampledRows sample_by_definition(SlotState& slots, const HostBatch& batch,
                                 const std::vector<float>& logits,
                                 const std::vector<TokenId>& eos) {
  const auto rows = static_cast<size_t>(batch.shape.rows);
  const auto samples = static_cast<size_t>(batch.shape.sample_rows);
  SampledRows out;
  out.accepted.resize(rows);
  out.new_count.resize(rows);
  out.new_tokens.resize(rows * static_cast<size_t>(slots.limits.drafts_max + 1));
  out.drafted.resize(rows);
  out.draft_count.resize(rows);
  out.finish.resize(rows);
  out.logprob.resize(samples);
  out.top_ids.resize(samples * kLogprobsMax);
  out.top_logprobs.resize(samples * kLogprobsMax);
  const Call call{slots, batch, logits, eos, out};
  int64_t at = 0;
  for (int32_t r = 0; r < batch.shape.rows; ++r) {
    const auto wanted = std::count(batch.sample_row.begin(), batch.sample_row.end(), r);
    sample_row(call, r, at, wanted);
    at += wanted;
  }
  return out;
}

}  // namespace fathom::testing
