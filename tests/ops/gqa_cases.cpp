// Grouped-query attention over a paged cache, against its definition in float64, rounded where
// docs/numerics.md says.
#include <algorithm>

#include "ops/fp8_cache_inputs.h"
#include "ops/op_builders.h"
#include "ops/op_inputs.h"
#include "ops/op_loops.h"
#include "ops/paged_batch.h"

namespace fathom::testing {
namespace {

constexpr double kEpsilon = 1e-6;
constexpr float kProductSpread = 0.15F;  // of a weight: numbers of qkv are about 1

struct Inputs {
  PagedBatch batch;
  HostMatrix qkv;             // [tokens, (heads + 2 * kv_heads) * dims]
  QuantizedRows x;            // what it is a product of, if of any
  StoredWeight weight;
  std::vector<float> bias;    // empty: none
  std::vector<float> q_norm;  // empty: none
  std::vector<float> k_norm;
  Angles angles;
  HostMatrix cache;  // its first numbers, one period
};

int64_t query_columns(const GqaShape& s) { return int64_t{s.heads} * s.head_dims; }
int32_t entry_of(const GqaShape& s) { return 2 * s.kv_heads * s.head_dims; }

std::vector<float> around_one(int64_t n, uint32_t seed) {
  std::vector<float> weights = random_matrix(1, n, seed, 0.25F).values;
  for (float& x : weights) x += 1.0F;
  return weights;
}

Inputs make_inputs(const GqaShape& s) {
  Inputs in;
  in.batch = paged_batch(s.rows, s.block_tokens, s.padding_row);
  const uint32_t seed = 200000 + 100 * s.seed;
  const int64_t columns = query_columns(s) + entry_of(s);
  in.qkv = random_matrix(in.batch.arrays.shape.tokens, columns, seed, 2.0F);
  if (s.hidden > 0) {
    const HostMatrix x = random_matrix(in.qkv.rows, s.hidden, seed + 5);
    in.x = quantized_rows(rounded_to_bf16(x), 0, false);
    in.weight = random_fp8(columns, s.hidden, 0, seed + 6, kProductSpread);
    const std::vector<double> qkv = product(in.x.matrix, in.weight.matrix);
    in.qkv.values.assign(qkv.begin(), qkv.end());
  }
  if (s.bias) in.bias = random_matrix(1, columns, seed + 1, 1.0F).values;
  if (s.norms) {
    in.q_norm = around_one(s.head_dims, seed + 2);
    in.k_norm = around_one(s.head_dims, seed + 3);
  }
  in.angles = angles_of(in.batch, s.head_dims / 2);
  in.cache = random_matrix(1, kCachePeriod, seed + 4, 1.5F);
  return in;
}

// Norm and rope of one head.
void prepare_head(const Inputs& in, int32_t position, const std::vector<float>& norm, double* head,
                  int64_t dims) {
  if (!norm.empty()) {
    double squares = 0.0;
    for (int64_t d = 0; d < dims; ++d) squares += head[d] * head[d];
    const double scale = 1.0 / std::sqrt(squares / static_cast<double>(dims) + kEpsilon);
    for (int64_t d = 0; d < dims; ++d) head[d] *= scale * norm[d];
  }
  for (int64_t i = 0; i < dims / 2; ++i) {
    const double low = head[i];
    const double high = head[i + dims / 2];
    const double c = in.angles.cosines.at(position, i);
    const double sine = in.angles.sines.at(position, i);
    head[i] = low * c - high * sine;
    head[i + dims / 2] = high * c + low * sine;
  }
}

// Rows [queries | keys | values], ready for the scores and the cache.
std::vector<double> prepared_rows(const GqaShape& s, const Inputs& in, Numerics numerics) {
  const HostMatrix qkv = as_stored(in.qkv, numerics);
  std::vector<double> rows(qkv.values.begin(), qkv.values.end());
  for (int64_t t = 0; t < qkv.rows; ++t) {
    double* row = rows.data() + t * qkv.columns;
    for (size_t c = 0; c < in.bias.size(); ++c) row[c] += in.bias[c];
    for (int64_t h = 0; h < s.heads + s.kv_heads; ++h) {
      prepare_head(in, in.batch.arrays.positions[t], h < s.heads ? in.q_norm : in.k_norm,
                   row + h * s.head_dims, s.head_dims);
    }
  }
  return rounded(std::move(rows), numerics);
}

// Softmax-weighted values of one query head over the entries of its sequence.
void attend(const GqaShape& s, const Inputs& in, const std::vector<double>& cache, int64_t t,
            int64_t head, const double* query, float* out) {
  const HostBatch& b = in.batch.arrays;
  const int64_t dims = s.head_dims;
  const int32_t slot = b.row_slot[b.token_row[t]];
  const int32_t* table = in.batch.block_table.data() +
                         int64_t{kPagedGroup * in.batch.slots + slot} * in.batch.blocks_max;
  const int64_t key = head / (s.heads / s.kv_heads) * dims;
  std::vector<const double*> entries;
  std::vector<double> weights;
  double largest = -1e300;
  for (int32_t p = 0; p <= b.positions[t]; ++p) {
    // `cache` begins behind block 0.
    const int64_t at = int64_t{table[p / s.block_tokens] - 1} * s.block_tokens + p % s.block_tokens;
    entries.push_back(cache.data() + at * entry_of(s) + key);
    double dot = 0.0;
    for (int64_t d = 0; d < dims; ++d) dot += query[d] * entries.back()[d];
    weights.push_back(dot / std::sqrt(static_cast<double>(dims)));
    largest = std::max(largest, weights.back());
  }
  double total = 0.0;
  for (double& w : weights) total += w = std::exp(w - largest);
  for (int64_t d = 0; d < dims; ++d) {
    double sum = 0.0;
    for (size_t i = 0; i < weights.size(); ++i) {
      sum += weights[i] * entries[i][s.kv_heads * dims + d];
    }
    out[d] = static_cast<float>(sum / total);
  }
}

ExpectedValues expected_values(const GqaShape& s, const Inputs& in, Numerics numerics) {
  const std::vector<double> rows = prepared_rows(s, in, numerics);
  const int64_t columns = query_columns(s);
  const int64_t stride = columns + entry_of(s);
  const int64_t tokens = in.batch.arrays.shape.tokens;
  std::vector<double> written;
  for (int64_t t = 0; t < tokens; ++t) {
    written.insert(written.end(), rows.begin() + t * stride + columns,
                   rows.begin() + (t + 1) * stride);
  }
  std::vector<double> cache =
      cache_values(in.batch, s.block_tokens, entry_of(s), in.cache.values, numerics, written);
  if (s.fp8_cache) cache = Fp8Entries{entry_of(s), entry_of(s), s.head_dims, true}.values(cache);
  HostMatrix out{0, columns, {}};
  for (int64_t t = 0; t < tokens; ++t) {
    if (in.batch.entry_of[t] < 0) continue;
    ++out.rows;
    out.values.resize(out.rows * columns);
    for (int64_t h = 0; h < s.heads; ++h) {
      attend(s, in, cache, t, h, rows.data() + t * stride + h * s.head_dims,
             out.values.data() + (out.rows - 1) * columns + h * s.head_dims);
    }
  }
  if (numerics == Numerics::kNative) {
    out = rounded_to_bf16(out);
    if (s.out == ActFormat::kFp8Block) out = quantized_rows(out, 0, false).matrix;
  }
  if (s.fp8_cache) return {{out.values.begin(), out.values.end()}};
  return {{out.values.begin(), out.values.end()}, cache};
}

struct Call {
  BatchView batch;
  KvView cache;
  Tensor qkv;
  Act x;
  Weight weight;
  GqaParams params;

  Act run(Ops& ops) const {
    return qkv.defined() ? ops.gqa_attention(batch, cache, qkv, params)
                         : ops.project_gqa(batch, cache, x, weight, params);
  }
};

Call prepare_call(Ops& ops, const GqaShape& s, const Inputs& in) {
  Call call;
  SlotTable table;
  table.block_table = place_table(ops, in.batch);
  call.batch = place_batch(ops, in.batch.arrays, table);
  const Fp8HeadsLayout fp8{s.kv_heads, s.head_dims, s.block_tokens};
  call.cache = {
      s.fp8_cache ? place_fp8_heads(ops, fp8, in.batch.blocks, in.cache.values)
                  : place_cache(ops, in.batch, s.block_tokens, entry_of(s), in.cache.values),
      kPagedGroup, s.block_tokens};
  if (s.hidden > 0) {
    call.weight = ops.prepare_linear({in.weight.stored}).value();
    call.x = place_quantized(ops, in.x, ops.act_spec(call.weight));
  } else {
    call.qkv = place(ops, in.qkv);
  }
  GqaParams& p = call.params;
  p.heads = s.heads;
  p.kv_heads = s.kv_heads;
  p.head_dims = s.head_dims;
  p.softmax_scale = 1.0F / std::sqrt(static_cast<float>(s.head_dims));
  p.norm_epsilon = static_cast<float>(kEpsilon);
  if (s.bias) p.bias = place_floats(ops, in.bias);
  if (s.norms) {
    p.q_norm = place_floats(ops, in.q_norm);
    p.k_norm = place_floats(ops, in.k_norm);
  }
  p.rope = place_angles(ops, in.angles);
  if (ops.numerics() == Numerics::kNative) p.out = {s.out, false, 0};
  return call;
}

std::vector<GqaShape> shapes() {
  const auto decode = [](int32_t context) { return AttentionRow{context, 1, 1, false}; };
  return {
      {.name = "decode",
       .heads = 8,
       .kv_heads = 2,
       .rows = {decode(0), decode(1), decode(63), decode(64), decode(65), decode(300)},
       .padding_row = true,
       .seed = 1},
      {.name = "verify with biases",
       .heads = 7,
       .kv_heads = 1,
       .rows = {{70, 3, 3}, {126, 1, 3}, {5, 2, 3}, {40, 0, 3}, {62, 3, 3}},
       .padding_row = true,
       .bias = true,
       .out = ActFormat::kFp8Block,
       .seed = 2},
      {.name = "prefill with norms",
       .heads = 8,
       .kv_heads = 2,
       .rows = {{0, 21, 21, true}, {70, 20, 24, true}, {128, 5, 5, true}},
       .norms = true,
       .seed = 3},
      {.name = "mixed, a key head each, 64 dims",
       .heads = 3,
       .kv_heads = 3,
       .head_dims = 64,
       .rows = {decode(33), {100, 2, 2}, decode(0), {20, 6, 6, true}, {0, 3, 3, true}},
       .padding_row = true,
       .block_tokens = 16,
       .seed = 4},
      {.name = "decode over several segments",
       .heads = 4,
       .kv_heads = 1,
       .rows = {decode(4500), decode(2047), decode(127), decode(2048), decode(3000)},
       .padding_row = true,
       .out = ActFormat::kFp8Block,
       .seed = 5},
      {.name = "more decode rows than clusters",
       .heads = 16,
       .kv_heads = 8,
       .rows = {decode(0), decode(130), decode(64), decode(2100), decode(700)},
       .padding_row = true,
       .seed = 13},
      {.name = "decode with biases and norms, 64 dims",
       .heads = 14,
       .kv_heads = 2,
       .head_dims = 64,
       .rows = {decode(1023), decode(1024), decode(31), decode(2300), decode(8200)},
       .padding_row = true,
       .bias = true,
       .norms = true,
       .seed = 14},
      {.name = "decode, an odd group with biases",
       .heads = 7,
       .kv_heads = 1,
       .rows = {decode(40), decode(895), decode(2048), decode(33000)},
       .bias = true,
       .out = ActFormat::kFp8Block,
       .seed = 15},
      {.name = "verify, 64 dims, two tiles of pairs",
       .heads = 9,
       .kv_heads = 3,
       .head_dims = 64,
       .rows = {{2040, 6, 6}, {31, 6, 6}, {130, 2, 6}, {0, 1, 6}},
       .norms = true,
       .seed = 6},
  };
}

// Rows all as long: on an H100 as many streams as grouped decode has blocks of threads, or twice.
std::vector<GqaShape> even_shapes() {
  const std::vector<AttentionRow> rows(33, AttentionRow{150, 1, 1, false});
  return {
      {.name = "decode rows all as long, two heads a block of threads",
       .heads = 16,
       .kv_heads = 16,
       .rows = rows,
       .seed = 17},
      {.name = "FP8 cache, decode rows all as long",
       .heads = 16,
       .kv_heads = 8,
       .rows = rows,
       .padding_row = true,
       .seed = 18,
       .fp8_cache = true},
  };
}

std::vector<GqaShape> prompt_shapes() {
  const auto decode = [](int32_t context) { return AttentionRow{context, 1, 1, false}; };
  return {
      {.name = "prompts of all tails",
       .heads = 4,
       .kv_heads = 1,
       .rows = {{0, 1, 1, true},
                {0, 63, 64, true},
                {64, 64, 64, true},
                {130, 129, 140, true},
                {70, 0, 5, true},
                {500, 170, 170, true},
                {127, 1, 1, true}},
       .out = ActFormat::kFp8Block,
       .seed = 8},
      {.name = "prompts beside decode rows, 64 dims",
       .heads = 9,
       .kv_heads = 3,
       .head_dims = 64,
       .rows = {{33, 1, 1}, {100, 2, 2}, {64, 1, 2}, {20, 70, 70, true}, {0, 131, 140, true}},
       .padding_row = true,
       .out = ActFormat::kFp8Block,
       .seed = 9},
      {.name = "prompts of many heads with biases",
       .heads = 28,
       .kv_heads = 4,
       .rows = {decode(200), {0, 130, 136, true}, {33, 150, 150, true}},
       .padding_row = true,
       .bias = true,
       .seed = 16},
      {.name = "a prompt beside drafts",
       .heads = 8,
       .kv_heads = 8,
       .rows = {{70, 3, 3}, {126, 1, 3}, {300, 140, 140, true}},
       .norms = true,
       .seed = 10},
      {.name = "mixed with biases",
       .heads = 14,
       .kv_heads = 2,
       .rows = {decode(200), decode(511), {0, 3, 3, true}, {64, 70, 72, true}},
       .padding_row = true,
       .bias = true,
       .out = ActFormat::kFp8Block,
       .seed = 7},
  };
}

std::vector<GqaShape> fp8_cache_shapes() {
  const auto decode = [](int32_t context) { return AttentionRow{context, 1, 1, false}; };
  return {
      {.name = "FP8 cache, decode",
       .heads = 8,
       .kv_heads = 2,
       .rows = {decode(0), decode(63), decode(64), decode(300), decode(2500)},
       .padding_row = true,
       .seed = 11,
       .fp8_cache = true},
      {.name = "FP8 cache, verify and prefill, 64 dims",
       .heads = 9,
       .kv_heads = 3,
       .head_dims = 64,
       .rows = {{2040, 6, 6}, {31, 6, 6}, {130, 2, 6}, {64, 21, 21, true}, {0, 3, 3, true}},
       .norms = true,
       .seed = 12,
       .fp8_cache = true},
      {.name = "FP8 cache, prompts of all tails",
       .heads = 4,
       .kv_heads = 2,
       .rows = {{0, 1, 1, true},
                {0, 63, 64, true},
                {64, 64, 64, true},
                {130, 129, 140, true},
                {70, 0, 5, true},
                {500, 170, 170, true},
                {127, 1, 1, true}},
       .seed = 13,
       .fp8_cache = true},
      {.name = "FP8 cache, prompts of many heads",
       .heads = 32,
       .kv_heads = 8,
       .rows = {decode(70), decode(5), {0, 130, 136, true}, {64, 150, 150, true}},
       .padding_row = true,
       .out = ActFormat::kFp8Block,
       .seed = 16,
       .fp8_cache = true},
      {.name = "FP8 cache, prompts beside decode rows, 64 dims",
       .heads = 9,
       .kv_heads = 3,
       .head_dims = 64,
       .rows = {{33, 1, 1}, {100, 2, 2}, {64, 1, 2}, {20, 70, 70, true}, {0, 131, 140, true}},
       .padding_row = true,
       .seed = 14,
       .fp8_cache = true},
      {.name = "FP8 cache, a prompt beside drafts, quantized",
       .heads = 8,
       .kv_heads = 2,
       .rows = {{70, 3, 3}, {126, 1, 3}, {300, 140, 140, true}},
       .bias = true,
       .out = ActFormat::kFp8Block,
       .seed = 15,
       .fp8_cache = true},
  };
}

// Rows of which the product makes heads ready on an H100, in tiles of 128 and of 256.
std::vector<GqaShape> projected_shapes() {
  const auto rows = [](int32_t count) {
    std::vector<AttentionRow> all;
    for (int32_t i = 0; i < count; ++i) all.push_back({i * 7 % 90, 1, 1, false});
    return all;
  };
  std::vector<AttentionRow> mixed = rows(140);
  mixed.push_back({64, 70, 72, true});
  mixed.push_back({0, 129, 130, true});
  return {
      {.name = "a product's decode rows, FP8 cache",
       .heads = 32,
       .kv_heads = 8,
       .rows = rows(230),
       .padding_row = true,
       .out = ActFormat::kFp8Block,
       .seed = 20,
       .fp8_cache = true,
       .hidden = 512},
      {.name = "a product's decode rows",
       .heads = 32,
       .kv_heads = 8,
       .rows = rows(385),
       .padding_row = true,
       .seed = 21,
       .hidden = 896},
      {.name = "a product's rows with prompts, FP8 cache",
       .heads = 8,
       .kv_heads = 2,
       .rows = mixed,
       .padding_row = true,
       .out = ActFormat::kFp8Block,
       .seed = 22,
       .fp8_cache = true,
       .hidden = 512},
      {.name = "a product's few rows with biases",
       .heads = 8,
       .kv_heads = 2,
       .rows = rows(5),
       .bias = true,
       .seed = 23,
       .hidden = 256},
  };
}

}  // namespace

OpCase gqa_attention_case(const GqaShape& s, Numerics numerics) {
  const auto inputs = Lazy<Inputs>([=] { return make_inputs(s); });
  const auto prepare = [=](Ops& ops) {
    const auto call = std::make_shared<Call>(prepare_call(ops, s, inputs.get()));
    const std::vector<int64_t> padding = inputs.get().batch.padding;
    return PreparedOp{[=, &ops]() -> std::vector<OpOutput> {
      const Act out = call->run(ops);
      if (s.fp8_cache) return {{"out", out, false, padding}};
      const Tensor& cache = call->cache.cache;
      const Tensor blocks =
          Tensor::of(cache.data, cache.dtype, {cache.shape[0], cache.shape[1] * cache.shape[2]});
      return {{"out", out, false, padding}, {"cache", {blocks, {}, {}}, false, {0}}};
    }};
  };
  const auto expected = [=](const GoldenVectors&) {
    return expected_values(s, inputs.get(), numerics);
  };
  const bool native = numerics == Numerics::kNative;
  const bool codes = native && s.out == ActFormat::kFp8Block;
  const bool prompts = std::any_of(s.rows.begin(), s.rows.end(),
                                   [](const AttentionRow& row) { return row.prefill; });
  return {s.hidden > 0 ? "project_gqa" : "gqa_attention",
          std::string(s.name) + ", " + std::to_string(s.heads) + "/" + std::to_string(s.kv_heads) +
              " heads",
          numerics,
          !native                           ? Precision::kFloat32
          : s.fp8_cache && prompts && codes ? Precision::kFp8CacheOutput
          : s.fp8_cache || s.hidden > 0 ? (codes ? Precision::kFp8Weights : Precision::kFp8Chain)
          : prompts                     ? (codes ? Precision::kFp8Weights : Precision::kBF16Weights)
                                        : (codes ? Precision::kFp8Output : Precision::kBF16Chain),
          prepare,
          expected};
}

std::vector<OpCase> gqa_cases() {
  std::vector<OpCase> cases;
  for (const auto& list : {shapes(), even_shapes(), fp8_cache_shapes()}) {
    for (const GqaShape& s : list) {
      if (!s.fp8_cache) cases.push_back(gqa_attention_case(s, Numerics::kReference));
      cases.push_back(gqa_attention_case(s, Numerics::kNative));
    }
  }
  for (const GqaShape& s : projected_shapes()) {
    cases.push_back(gqa_attention_case(s, Numerics::kNative));
  }
  for (const GqaShape& s : prompt_shapes()) {
    cases.push_back(gqa_attention_case(s, Numerics::kReference));
    cases.back().repeats = true;  // decode and prompt rows are one kernel's there
    cases.push_back(gqa_attention_case(s, Numerics::kNative));
  }
  return cases;
}

}  // namespace fathom::testing
