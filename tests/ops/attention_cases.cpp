// Multi-head latent attention over a paged cache. Expected values come from PyTorch; the numbers of
// a case are made again there.
#include <algorithm>

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

struct Inputs {
  PagedBatch batch;
  HostMatrix q;        // [tokens, heads * (nope + rope)]
  HostMatrix kv_a;     // [tokens, lora + rope]
  HostMatrix kv_norm;  // [1, lora]
  StoredWeight kv_b;
  Angles angles;
  HostMatrix cache;  // its first numbers, one period
};

Inputs make_inputs(const AttentionShape& s) {
  Inputs in;
  in.batch = paged_batch(s.rows, s.block_tokens, s.padding_row);
  const uint32_t seed = 1000 + 100 * s.seed;
  const int64_t tokens = in.batch.arrays.shape.tokens;
  in.q = random_matrix(tokens, int64_t{s.heads} * (kNope + kRope), seed, 3.0F);
  in.kv_a = random_matrix(tokens, kEntry, seed + 1);
  in.kv_norm = random_matrix(1, kLora, seed + 2, 0.25F);
  for (float& x : in.kv_norm.values) x += 1.0F;
  const float spread = 2.0F / std::sqrt(static_cast<float>(kLora));
  in.kv_b =
      random_weight(int64_t{s.heads} * (kNope + kValue), kLora, s.up_format, seed + 3, spread);
  in.angles = angles_of(in.batch, kRope / 2);
  in.cache = random_matrix(1, kCachePeriod, seed + 5, 1.5F);
  return in;
}

struct Call {
  BatchView batch;
  KvView cache;
  Tensor q, kv_a;
  MlaParams params;
  MlaForm form;
};

Call prepare_call(Ops& ops, const AttentionShape& s, const Inputs& in, MlaForm form) {
  Call call;
  call.form = form;
  SlotTable table;
  table.block_table = place_table(ops, in.batch);
  call.batch = place_batch(ops, in.batch.arrays, table);
  call.cache = {place_cache(ops, in.batch, s.block_tokens, kEntry, in.cache.values), kPagedGroup,
                s.block_tokens};
  call.q = place(ops, in.q);
  call.kv_a = place(ops, in.kv_a);
  MlaParams& p = call.params;
  p.heads = s.heads;
  p.softmax_scale = 1.0F / std::sqrt(static_cast<float>(kNope + kRope));
  p.kv_norm = place_floats(ops, in.kv_norm.values);
  p.up = ops.prepare_kv_b(in.kv_b.stored, s.heads, kNope, kValue).value();
  p.rope = place_angles(ops, in.angles);
  if (ops.numerics() == Numerics::kNative) p.out = {s.out, false, 0};
  return call;
}

// The golden outputs, and the cache as it was with the golden entries in their places.
ExpectedValues expected_values(const AttentionShape& s, const Inputs& in, Numerics numerics,
                               const GoldenVectors& vectors) {
  const std::string name =
      std::string("mla ") + s.name + (numerics == Numerics::kReference ? " reference" : " native");
  const std::vector<double> golden = golden_vector(vectors, name + " out");
  const int64_t columns = int64_t{s.heads} * kValue;
  HostMatrix out{0, columns, {}};
  for (int64_t t = 0; t < in.batch.arrays.shape.tokens; ++t) {
    if (in.batch.entry_of[t] < 0) continue;
    ++out.rows;
    for (int64_t k = 0; k < columns; ++k) {
      out.values.push_back(static_cast<float>(golden[t * columns + k]));
    }
  }
  if (numerics == Numerics::kNative && s.out == ActFormat::kFp8Block) {
    out = quantized_rows(out, 0, false).matrix;
  }
  return {{out.values.begin(), out.values.end()},
          cache_values(in.batch, s.block_tokens, kEntry, in.cache.values, numerics,
                       golden_vector(vectors, name + " entries"))};
}

// Every row's context once, the new entries, the up-projections, queries and outputs.
int64_t least_bytes(const AttentionShape& s, Numerics numerics) {
  const int64_t number = numerics == Numerics::kReference ? 4 : 2;
  int64_t entries = 0;
  int64_t tokens = 0;
  for (const AttentionRow& row : s.rows) {
    entries += row.context + row.query;
    tokens += row.query;
  }
  const int64_t up = int64_t{s.heads} * (kNope + kValue) * kLora;
  const int64_t in_and_out = tokens * (int64_t{s.heads} * (kNope + kRope + kValue) + kEntry);
  return number * (entries * kEntry + up + in_and_out);
}

std::vector<AttentionShape> shapes() {
  constexpr WeightFormat kBF16 = WeightFormat::kBF16;
  constexpr WeightFormat kFp8 = WeightFormat::kFp8Block;
  const auto decode = [](int32_t context) { return AttentionRow{context, 1, 1, false}; };
  return {
      {"decode",
       16,
       {decode(0), decode(1), decode(63), decode(64), decode(65), decode(130), decode(411)},
       true,
       kBF16,
       ActFormat::kBF16,
       64,
       1},
      {"verify",
       4,
       {{70, 3, 3}, {126, 1, 3}, {5, 2, 3}, {40, 0, 3}, {62, 3, 3}},
       true,
       kBF16,
       ActFormat::kFp8Block,
       64,
       2},
      {"prefill",
       4,
       {{0, 21, 21, true}, {70, 20, 24, true}, {128, 5, 5, true}},
       false,
       kFp8,
       ActFormat::kBF16,
       64,
       3},
      {"mixed",
       16,
       {decode(33), {100, 2, 2}, decode(0), {20, 6, 6, true}, {0, 3, 3, true}},
       true,
       kFp8,
       ActFormat::kFp8Block,
       16,
       4},
      {"wide", 128, {decode(100), decode(7)}, false, kBF16, ActFormat::kBF16, 64, 5},
  };
}

}  // namespace

OpCase mla_attention_case(const AttentionShape& s, Numerics numerics, MlaForm form) {
  const auto inputs = Lazy<Inputs>([=] { return make_inputs(s); });
  const auto prepare = [=](Ops& ops) {
    const auto call = std::make_shared<Call>(prepare_call(ops, s, inputs.get(), form));
    const std::vector<int64_t> padding = inputs.get().batch.padding;
    return PreparedOp{[=, &ops]() -> std::vector<OpOutput> {
      const Act out = ops.mla_attention(call->batch, call->cache, call->q, call->kv_a, call->params,
                                        call->form);
      const Tensor& cache = call->cache.cache;
      const Tensor blocks =
          Tensor::of(cache.data, cache.dtype, {cache.shape[0], cache.shape[1] * cache.shape[2]});
      return {{"out", out, false, padding}, {"cache", {blocks, {}, {}}, false, {0}}};
    }};
  };
  const auto expected = [=](const GoldenVectors& vectors) {
    return expected_values(s, inputs.get(), numerics, vectors);
  };
  const bool native = numerics == Numerics::kNative;
  const bool codes = native && s.out == ActFormat::kFp8Block;
  std::string shape = std::string(s.name) + ", " + std::to_string(s.heads) + " heads";
  if (form == MlaForm::kNaive) shape += ", naive";
  if (form == MlaForm::kAbsorbed) shape += ", absorbed";
  return {"mla_attention",
          shape,
          numerics,
          codes    ? Precision::kFp8Output
          : native ? Precision::kBF16Chain
                   : Precision::kFloat32,
          prepare,
          expected,
          [=] { return least_bytes(s, numerics); },
          form == MlaForm::kNaive};
}

std::vector<OpCase> attention_cases() {
  std::vector<OpCase> cases;
  for (const AttentionShape& s : shapes()) {
    cases.push_back(mla_attention_case(s, Numerics::kReference, MlaForm::kChosen));
    cases.push_back(mla_attention_case(s, Numerics::kReference, MlaForm::kNaive));
    cases.push_back(mla_attention_case(s, Numerics::kNative, MlaForm::kChosen));
    cases.push_back(mla_attention_case(s, Numerics::kNative, MlaForm::kAbsorbed));
  }
  return cases;
}

}  // namespace fathom::testing
