// Multi-head latent attention over a paged cache. Expected values of the absorbed form come from
// PyTorch, where the numbers of a case are made again; those of the naive form in native numerics,
// and of the absorbed one where there are no vectors, from their definitions in float64, rounded
// where docs/numerics.md says.
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

// The last `kRope` of `x`, pairs side by side, turned by the position's angle.
void turn(const Inputs& in, int32_t position, double* x) {
  for (int64_t i = 0; i < kRope / 2; ++i) {
    const double c = in.angles.cosines.at(position, i);
    const double sine = in.angles.sines.at(position, i);
    const double even = x[2 * i];
    x[2 * i] = even * c - x[2 * i + 1] * sine;
    x[2 * i + 1] = even * sine + x[2 * i + 1] * c;
  }
}

// The tokens' cache entries.
std::vector<double> entries_by_definition(const Inputs& in) {
  const HostMatrix kv_a = rounded_to_bf16(in.kv_a);
  HostMatrix latents{kv_a.rows, kLora, {}};
  for (int64_t t = 0; t < kv_a.rows; ++t) {
    const auto row = kv_a.values.begin() + t * kEntry;
    latents.values.insert(latents.values.end(), row, row + kLora);
  }
  const std::vector<double> normed = norm_by_definition(latents, in.kv_norm.values);
  std::vector<double> entries(kv_a.values.begin(), kv_a.values.end());
  for (int64_t t = 0; t < kv_a.rows; ++t) {
    std::copy_n(normed.begin() + t * kLora, kLora, entries.begin() + t * kEntry);
    turn(in, in.batch.arrays.positions[t], entries.data() + t * kEntry + kLora);
  }
  return rounded(std::move(entries), Numerics::kNative);
}

// Keys and values [count, ...] of one head.
struct HeadCache {
  int64_t value_dims = 0;
  std::vector<double> keys, values;
};

// Made from a row's entries: [count, nope + rope], [count, value].
HeadCache head_cache(const Inputs& in, const HostMatrix& up, int64_t head,
                     const std::vector<const double*>& entries) {
  HeadCache made;
  made.value_dims = kValue;
  for (const double* entry : entries) {
    for (int64_t n = 0; n < kNope + kValue; ++n) {
      const float* w = up.values.data() + (head * (kNope + kValue) + n) * in.kv_b.matrix.columns;
      double sum = 0.0;
      for (int64_t k = 0; k < kLora; ++k) sum += w[k] * entry[k];
      const double stored = round_to_bf16(static_cast<float>(sum));
      (n < kNope ? made.keys : made.values).push_back(stored);
    }
    made.keys.insert(made.keys.end(), entry + kLora, entry + kEntry);
  }
  return made;
}

// Softmax-weighted values of one query. Weights are rounded relative to a whole power of two.
std::vector<double> attend(const HeadCache& cache, const std::vector<double>& query,
                           int64_t visible) {
  const auto key_dims = static_cast<int64_t>(query.size());
  const double scale = std::log2(std::exp(1.0)) / std::sqrt(static_cast<double>(kNope + kRope));
  std::vector<double> scores(visible, 0.0);
  for (int64_t i = 0; i < visible; ++i) {
    const double* key = cache.keys.data() + i * key_dims;
    for (int64_t k = 0; k < key_dims; ++k) scores[i] += query[k] * key[k] * scale;
  }
  const double peak = std::ceil(*std::max_element(scores.begin(), scores.end()));
  double total = 0.0;
  std::vector<double> sums(cache.value_dims, 0.0);
  for (int64_t i = 0; i < visible; ++i) {
    const double weight = std::exp2(scores[i] - peak);
    total += weight;
    const double taken = round_to_bf16(static_cast<float>(weight));
    const double* value = cache.values.data() + i * cache.value_dims;
    for (int64_t v = 0; v < cache.value_dims; ++v) sums[v] += taken * value[v];
  }
  for (double& sum : sums) sum /= total;
  return sums;
}

// One head's query of token t, ready for the scores.
std::vector<double> query_by_definition(const AttentionShape& s, const Inputs& in,
                                        const HostMatrix& q, int64_t t, int64_t head) {
  const auto from = q.values.begin() + (t * s.heads + head) * (kNope + kRope);
  std::vector<double> query(from, from + kNope + kRope);
  turn(in, in.batch.arrays.positions[t], query.data() + kNope);
  return rounded(std::move(query), Numerics::kNative);
}

// A row's entries as they are: [count, entry], [count, lora].
HeadCache latent_cache(const std::vector<const double*>& entries) {
  HeadCache made;
  made.value_dims = kLora;
  for (const double* entry : entries) {
    made.keys.insert(made.keys.end(), entry, entry + kEntry);
    made.values.insert(made.values.end(), entry, entry + kLora);
  }
  return made;
}

// A query in the space of the latents: [entry]. up: of all heads, keys' rows before values'.
std::vector<double> absorbed_query(const HostMatrix& up, int64_t head,
                                   const std::vector<double>& query) {
  std::vector<double> sums(kLora, 0.0);
  for (int64_t d = 0; d < kNope; ++d) {
    const float* w = up.values.data() + (head * (kNope + kValue) + d) * kLora;
    for (int64_t k = 0; k < kLora; ++k) sums[k] += query[d] * w[k];
  }
  std::vector<double> absorbed = rounded(std::move(sums), Numerics::kNative);
  absorbed.insert(absorbed.end(), query.begin() + kNope, query.end());
  return absorbed;
}

std::vector<double> values_of_latent(const HostMatrix& up, int64_t head,
                                     std::vector<double> latent) {
  latent = rounded(std::move(latent), Numerics::kNative);
  std::vector<double> values(kValue, 0.0);
  for (int64_t v = 0; v < kValue; ++v) {
    const float* w = up.values.data() + (head * (kNope + kValue) + kNope + v) * kLora;
    for (int64_t k = 0; k < kLora; ++k) values[v] += latent[k] * w[k];
  }
  return values;
}

ExpectedValues by_definition(const AttentionShape& s, const Inputs& in, bool naive) {
  const HostBatch& b = in.batch.arrays;
  const std::vector<double> cache = cache_values(in.batch, s.block_tokens, kEntry, in.cache.values,
                                                 Numerics::kNative, entries_by_definition(in));
  const HostMatrix q = rounded_to_bf16(in.q);
  const HostMatrix up = rounded_to_bf16(in.kv_b.matrix);
  HostMatrix out{0, int64_t{s.heads} * kValue, {}};
  for (int32_t r = 0; r < b.shape.rows; ++r) {
    const int32_t count = b.row_query[r];
    const int32_t* table =
        in.batch.block_table.data() +
        int64_t{kPagedGroup * in.batch.slots + b.row_slot[r]} * in.batch.blocks_max;
    std::vector<const double*> entries;
    for (int32_t p = 0; p < (count > 0 ? b.row_context[r] + count : 0); ++p) {
      // `cache` begins behind block 0.
      const int64_t block = table[p / s.block_tokens] - 1;
      entries.push_back(cache.data() + (block * s.block_tokens + p % s.block_tokens) * kEntry);
    }
    out.values.resize((out.rows + count) * out.columns);
    const HeadCache latents = naive ? HeadCache{} : latent_cache(entries);
    for (int64_t h = 0; h < s.heads; ++h) {
      const HeadCache made = naive ? head_cache(in, up, h, entries) : HeadCache{};
      for (int32_t i = 0; i < count; ++i) {
        const auto query = query_by_definition(s, in, q, b.row_first[r] + i, h);
        const int32_t visible = b.row_context[r] + i + 1;
        const auto values =
            naive ? attend(made, query, visible)
                  : values_of_latent(up, h, attend(latents, absorbed_query(up, h, query), visible));
        std::copy(values.begin(), values.end(),
                  out.values.begin() + (out.rows + i) * out.columns + h * kValue);
      }
    }
    out.rows += count;
  }
  out = rounded_to_bf16(out);
  if (s.out == ActFormat::kFp8Block) out = quantized_rows(out, 0, false).matrix;
  return {{out.values.begin(), out.values.end()}, cache};
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

// In native numerics alone, expected in the naive form: prefixes and tails of all kinds, rows that
// the plan gave more tokens than they compute.
std::vector<AttentionShape> naive_shapes() {
  return {
      {.name = "tails",
       .heads = 2,
       .rows = {{0, 1, 1, true},
                {0, 63, 64, true},
                {64, 64, 64, true},
                {130, 129, 140, true},
                {70, 0, 5, true},
                {1, 170, 170, true},
                {127, 1, 1, true}},
       .out = ActFormat::kFp8Block,
       .seed = 6,
       .without_golden = true},
      {.name = "long prefix",
       .heads = 4,
       .rows = {{5, 1, 1}, {300, 2, 2}, {700, 33, 33, true}, {0, 9, 9, true}},
       .padding_row = true,
       .up_format = WeightFormat::kFp8Block,
       .seed = 7,
       .without_golden = true},
      {.name = "prompts beside decode rows",
       .heads = 4,
       .rows = {{33, 1, 1}, {100, 2, 2}, {64, 1, 2}, {20, 70, 70, true}, {0, 131, 140, true}},
       .padding_row = true,
       .seed = 8,
       .without_golden = true},
  };
}

// In native numerics alone, expected in the absorbed form: chunks on a prefix, of one and more
// tiles of (token, head) pairs, odd and even.
std::vector<AttentionShape> absorbed_shapes() {
  return {
      {.name = "chunks on prefixes",
       .heads = 16,
       .rows = {{5, 1, 1},
                {300, 2, 2},
                {520, 33, 40, true},
                {64, 1, 1, true},
                {63, 16, 16, true},
                {30, 0, 7, true},
                {190, 64, 64, true}},
       .padding_row = true,
       .seed = 9,
       .without_golden = true},
      {.name = "a chunk of three tiles",
       .heads = 4,
       .rows = {{900, 37, 37, true}},
       .up_format = WeightFormat::kFp8Block,
       .out = ActFormat::kFp8Block,
       .seed = 10,
       .without_golden = true},
      {.name = "chunks of 128 heads",
       .heads = 128,
       .rows = {{127, 3, 3, true}, {64, 2, 4, true}},
       .seed = 11,
       .without_golden = true},
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
  const bool native = numerics == Numerics::kNative;
  const bool naive = form == MlaForm::kNaive;
  const auto expected = [=](const GoldenVectors& vectors) {
    return native && (naive || s.without_golden)
               ? by_definition(s, inputs.get(), form != MlaForm::kAbsorbed)
               : expected_values(s, inputs.get(), numerics, vectors);
  };
  const bool prompts = std::any_of(s.rows.begin(), s.rows.end(),
                                   [](const AttentionRow& row) { return row.prefill; });
  const bool codes = native && s.out == ActFormat::kFp8Block;
  std::string shape = std::string(s.name) + ", " + std::to_string(s.heads) + " heads";
  if (naive) shape += ", naive";
  if (form == MlaForm::kAbsorbed) shape += ", absorbed";
  return {"mla_attention",
          shape,
          numerics,
          codes                                 ? Precision::kFp8Output
          : !native                             ? Precision::kFloat32
          : prompts && form == MlaForm::kChosen ? Precision::kBF16Forms
                                                : Precision::kBF16Chain,
          prepare,
          expected,
          [=] { return least_bytes(s, numerics); },
          naive && !native,
          naive && native};
}

std::vector<OpCase> attention_cases() {
  std::vector<OpCase> cases;
  for (const AttentionShape& s : shapes()) {
    cases.push_back(mla_attention_case(s, Numerics::kReference, MlaForm::kChosen));
    cases.push_back(mla_attention_case(s, Numerics::kReference, MlaForm::kNaive));
    cases.push_back(mla_attention_case(s, Numerics::kNative, MlaForm::kChosen));
    cases.push_back(mla_attention_case(s, Numerics::kNative, MlaForm::kAbsorbed));
  }
  for (const AttentionShape& s : naive_shapes()) {
    cases.push_back(mla_attention_case(s, Numerics::kNative, MlaForm::kNaive));
    if (s.out == ActFormat::kBF16)
      cases.push_back(mla_attention_case(s, Numerics::kNative, MlaForm::kChosen));
  }
  for (const AttentionShape& s : absorbed_shapes())
    cases.push_back(mla_attention_case(s, Numerics::kNative, MlaForm::kAbsorbed));
  // So few tokens on so many that the absorbed form is the cheaper one.
  cases.push_back(mla_attention_case({.name = "the end of a long prompt",
                                      .heads = 16,
                                      .rows = {{1500, 9, 9, true}},
                                      .seed = 12,
                                      .without_golden = true},
                                     Numerics::kNative, MlaForm::kChosen));
  return cases;
}

}  // namespace fathom::testing
