// Multi-head latent attention over a cache of e4m3 latents, against its absorbed definition in
// float64, rounded where docs/numerics.md says.
#include <algorithm>

#include "ops/fp8_cache_inputs.h"
#include "ops/op_builders.h"
#include "ops/op_inputs.h"
#include "ops/op_loops.h"
#include "ops/paged_batch.h"

namespace fathom::testing {
namespace {

constexpr int32_t kNope = 128;
constexpr int32_t kRope = 64;
constexpr int32_t kValue = 128;
constexpr int32_t kLora = 512;
constexpr int32_t kEntry = kLora + kRope;
constexpr Numerics kNative = Numerics::kNative;
const Fp8Entries kEntries{kEntry, kLora, Fp8LatentLayout::kGroup};

struct Inputs {
  PagedBatch batch;
  HostMatrix q;        // [tokens, heads * (nope + rope)]
  HostMatrix kv_a;     // [tokens, lora + rope]
  HostMatrix kv_norm;  // [1, lora]
  StoredWeight kv_b;   // [heads * (nope + value), lora]
  Angles angles;
  HostMatrix cache;  // its first numbers, one period
};

Inputs make_inputs(const AttentionShape& s) {
  Inputs in;
  in.batch = paged_batch(s.rows, s.block_tokens, s.padding_row);
  const uint32_t seed = 300000 + 100 * s.seed;
  const int64_t tokens = in.batch.arrays.shape.tokens;
  in.q = rounded_to_bf16(random_matrix(tokens, int64_t{s.heads} * (kNope + kRope), seed, 3.0F));
  in.kv_a = rounded_to_bf16(random_matrix(tokens, kEntry, seed + 1));
  in.kv_norm = random_matrix(1, kLora, seed + 2, 0.25F);
  for (float& x : in.kv_norm.values) x += 1.0F;
  const float spread = 2.0F / std::sqrt(static_cast<float>(kLora));
  in.kv_b = random_bf16(int64_t{s.heads} * (kNope + kValue), kLora, seed + 3, spread);
  in.angles = angles_of(in.batch, kRope / 2);
  in.cache = random_matrix(1, kCachePeriod, seed + 5, 1.5F);
  return in;
}

// Interleaved pairs of the last kRope of `x`, turned by a position's angles.
void turn(const Inputs& in, int32_t position, double* x) {
  for (int64_t i = 0; i < kRope / 2; ++i) {
    const double c = in.angles.cosines.at(position, i);
    const double s = in.angles.sines.at(position, i);
    const double even = x[2 * i];
    x[2 * i] = even * c - x[2 * i + 1] * s;
    x[2 * i + 1] = x[2 * i + 1] * c + even * s;
  }
}

// The step's entries before they are quantized.
std::vector<double> written_entries(const Inputs& in) {
  std::vector<double> all(in.kv_a.values.begin(), in.kv_a.values.end());
  for (int64_t t = 0; t < in.kv_a.rows; ++t) {
    double* entry = all.data() + t * kEntry;
    double squares = 0.0;
    for (int64_t k = 0; k < kLora; ++k) squares += entry[k] * entry[k];
    const double scale = 1.0 / std::sqrt(squares / kLora + 1e-6);
    for (int64_t k = 0; k < kLora; ++k) entry[k] *= scale * in.kv_norm.values[k];
    turn(in, in.batch.arrays.positions[t], entry + kLora);
  }
  return rounded(std::move(all), kNative);
}

// One head's query in the space of the entries.
std::vector<double> absorbed_query(const AttentionShape& s, const Inputs& in, int64_t t,
                                   int64_t h) {
  std::vector<double> query(kEntry, 0.0);
  const int64_t from = t * s.heads * (kNope + kRope) + h * (kNope + kRope);
  for (int64_t d = 0; d < kNope; ++d) {
    const double x = in.q.values[from + d];
    for (int64_t k = 0; k < kLora; ++k)
      query[k] += x * in.kv_b.matrix.at(h * (kNope + kValue) + d, k);
  }
  for (int64_t i = 0; i < kRope; ++i) query[kLora + i] = in.q.values[from + kNope + i];
  turn(in, in.batch.arrays.positions[t], query.data() + kLora);
  return rounded(std::move(query), kNative);
}

void attend(const AttentionShape& s, const Inputs& in, const std::vector<double>& cache, int64_t t,
            int64_t h, float* out) {
  const HostBatch& b = in.batch.arrays;
  const std::vector<double> query = absorbed_query(s, in, t, h);
  const int32_t slot = b.row_slot[b.token_row[t]];
  const int32_t* table = in.batch.block_table.data() +
                         int64_t{kPagedGroup * in.batch.slots + slot} * in.batch.blocks_max;
  std::vector<const double*> entries;
  std::vector<double> weights;
  for (int32_t p = 0; p <= b.positions[t]; ++p) {
    // `cache` begins behind block 0.
    const int64_t at = int64_t{table[p / s.block_tokens] - 1} * s.block_tokens + p % s.block_tokens;
    entries.push_back(cache.data() + at * kEntry);
    double dot = 0.0;
    for (int64_t k = 0; k < kEntry; ++k) dot += query[k] * entries.back()[k];
    weights.push_back(dot / std::sqrt(static_cast<double>(kNope + kRope)));
  }
  // Weights are rounded relative to a whole power of two; their sum takes them before that.
  const double ln2 = std::log(2.0);
  const double peak = std::ceil(*std::max_element(weights.begin(), weights.end()) / ln2);
  double total = 0.0;
  for (double& w : weights) {
    w = std::exp(w - peak * ln2);
    total += w;
    w = round_to_bf16(static_cast<float>(w));
  }
  std::vector<double> latent(kLora, 0.0);
  for (size_t i = 0; i < weights.size(); ++i)
    for (int64_t k = 0; k < kLora; ++k) latent[k] += weights[i] / total * entries[i][k];
  latent = rounded(std::move(latent), kNative);
  for (int64_t v = 0; v < kValue; ++v) {
    double sum = 0.0;
    for (int64_t k = 0; k < kLora; ++k)
      sum += latent[k] * in.kv_b.matrix.at(h * (kNope + kValue) + kNope + v, k);
    out[v] = round_to_bf16(static_cast<float>(sum));
  }
}

ExpectedValues expected_values(const AttentionShape& s, const Inputs& in) {
  const std::vector<double> cache = kEntries.values(cache_values(
      in.batch, s.block_tokens, kEntry, in.cache.values, kNative, written_entries(in)));
  std::vector<double> out;
  std::vector<float> head(kValue);
  for (int64_t t = 0; t < in.batch.arrays.shape.tokens; ++t) {
    if (in.batch.entry_of[t] < 0) continue;
    for (int64_t h = 0; h < s.heads; ++h) {
      attend(s, in, cache, t, h, head.data());
      out.insert(out.end(), head.begin(), head.end());
    }
  }
  return {std::move(out)};
}

struct Call {
  BatchView batch;
  KvView cache;
  Tensor q, kv_a;
  MlaParams params;
};

Call prepare_call(Ops& ops, const AttentionShape& s, const Inputs& in) {
  Call call;
  SlotTable table;
  table.block_table = place_table(ops, in.batch);
  call.batch = place_batch(ops, in.batch.arrays, table);
  call.cache = {
      place_fp8_latents(ops, {kLora, kRope}, in.batch.blocks, s.block_tokens, in.cache.values),
      kPagedGroup, s.block_tokens};
  call.q = place(ops, in.q);
  call.kv_a = place(ops, in.kv_a);
  MlaParams& p = call.params;
  p.heads = s.heads;
  p.softmax_scale = 1.0F / std::sqrt(static_cast<float>(kNope + kRope));
  p.kv_norm = place_floats(ops, in.kv_norm.values);
  p.up = ops.prepare_kv_b(in.kv_b.stored, s.heads, kNope, kValue).value();
  p.rope = place_angles(ops, in.angles);
  p.out = {s.out, false, 0};
  return call;
}

OpCase make_case(const AttentionShape& s) {
  const auto inputs = Lazy<Inputs>([=] { return make_inputs(s); });
  const auto prepare = [=](Ops& ops) {
    const auto call = std::make_shared<Call>(prepare_call(ops, s, inputs.get()));
    const std::vector<int64_t> padding = inputs.get().batch.padding;
    return PreparedOp{[=, &ops]() -> std::vector<OpOutput> {
      const Act out = ops.mla_attention(call->batch, call->cache, call->q, call->kv_a, call->params,
                                        MlaForm::kChosen);
      return {{"out", out, false, padding}};
    }};
  };
  return {"mla_attention",
          std::string("FP8 cache, ") + s.name + ", " + std::to_string(s.heads) + " heads",
          kNative,
          Precision::kFp8Chain,
          prepare,
          [=](const GoldenVectors&) { return expected_values(s, inputs.get()); }};
}

}  // namespace

std::vector<OpCase> fp8_latent_cases() {
  const auto decode = [](int32_t context) { return AttentionRow{context, 1, 1, false}; };
  std::vector<OpCase> cases;
  AttentionShape few;
  few.name = "decode and verify";
  few.rows = {decode(0), decode(63), decode(64), {130, 3, 4}, {5, 2, 4}};
  few.padding_row = true;
  cases.push_back(make_case(few));
  AttentionShape mixed;
  mixed.name = "mixed";
  mixed.heads = 4;
  mixed.rows = {decode(200), {70, 9, 9, true}, {0, 3, 4, true}};
  mixed.seed = 2;
  cases.push_back(make_case(mixed));
  AttentionShape tails;
  tails.name = "prompts of all tails";
  tails.heads = 2;
  tails.rows = {{0, 1, 1, true},      {0, 63, 64, true}, {64, 64, 64, true},
                {130, 129, 140, true}, {70, 0, 5, true},  {127, 1, 1, true}};
  tails.seed = 3;
  cases.push_back(make_case(tails));
  AttentionShape prefix;
  prefix.name = "prompts on a long prefix beside decode rows";
  prefix.heads = 2;
  prefix.rows = {{5, 1, 1}, {300, 2, 2}, {700, 33, 33, true}, {0, 9, 9, true}};
  prefix.padding_row = true;
  prefix.seed = 4;
  cases.push_back(make_case(prefix));
  return cases;
}

}  // namespace fathom::testing
