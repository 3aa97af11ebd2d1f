// Multi-head latent attention over a paged cache whose blocks lie scattered, with holes between
// them. Expected values come from PyTorch; the numbers of a case are made again there.
#include <algorithm>

#include "ops/op_builders.h"
#include "ops/op_inputs.h"
#include "ops/op_loops.h"
#include "ops/slot_state.h"

namespace fathom::testing {
namespace {

constexpr int32_t kNope = 128;
constexpr int32_t kRope = 64;
constexpr int32_t kValue = 128;
constexpr int32_t kLora = 512;
constexpr int32_t kEntry = kLora + kRope;
constexpr int64_t kCachePeriod = int64_t{1} << 20;  // the cache's numbers repeat after as many
constexpr int32_t kGroup = 1;                       // of two: the other one's table names no blocks

// The batch, and where its tokens' cache entries go. Row r has slot rows - r, so that no index is
// another by chance.
struct PagedBatch {
  HostBatch arrays;
  std::vector<int32_t> block_table;  // [2, slots, blocks_max]
  std::vector<int64_t> padding;      // tokens
  std::vector<int64_t> entry_of;     // by token; padding: -1
  int32_t slots = 0;
  int32_t blocks_max = 0;
  int32_t blocks = 0;
};

// The smallest prime that is not below n and not 5: block number i becomes 1 + 5 i modulo it.
int32_t prime_from(int32_t n) {
  const auto is_prime = [](int32_t p) {
    for (int32_t d = 2; d * d <= p; ++d) {
      if (p % d == 0) return false;
    }
    return p > 1;
  };
  while (!is_prime(n) || n == 5) ++n;
  return n;
}

int32_t blocks_of(const AttentionRow& row, int32_t block_tokens) {
  return std::max(1, (row.context + row.query + block_tokens - 1) / block_tokens);
}

void add_row(PagedBatch& paged, const AttentionRow& row, int32_t slot, int32_t block_tokens) {
  HostBatch& b = paged.arrays;
  const auto r = static_cast<int32_t>(b.row_slot.size());
  b.row_slot.push_back(slot);
  b.row_kind.push_back(row.prefill ? 2 : row.bound > 1 ? 1 : 0);
  b.row_query.push_back(row.query);
  b.row_context.push_back(row.context);
  const int32_t* table =
      paged.block_table.data() + (kGroup * paged.slots + slot) * paged.blocks_max;
  for (int32_t i = 0; i < row.bound; ++i) {
    const bool valid = i < row.query;
    const int32_t position = valid ? row.context + i : 0;
    if (!valid) paged.padding.push_back(static_cast<int64_t>(b.token_ids.size()));
    b.token_ids.push_back(valid ? 1 : 0);
    b.token_row.push_back(r);
    b.positions.push_back(position);
    b.token_valid.push_back(valid ? 1 : 0);
    paged.entry_of.push_back(valid ? int64_t{table[position / block_tokens]} * block_tokens +
                                         position % block_tokens
                                   : -1);
  }
  b.row_first.push_back(static_cast<int32_t>(b.token_ids.size()));
}

PagedBatch paged_batch(const AttentionShape& s) {
  PagedBatch b;
  StepShape& shape = b.arrays.shape;
  const auto rows = static_cast<int32_t>(s.rows.size());
  int32_t needed = 0;
  for (const AttentionRow& row : s.rows) {
    needed += blocks_of(row, s.block_tokens);
    b.blocks_max = std::max(b.blocks_max, blocks_of(row, s.block_tokens) + 2);
  }
  const int32_t prime = prime_from(needed + needed / 2 + 3);
  b.blocks = prime + 1;
  b.slots = rows + 1;
  b.block_table.assign(2 * b.slots * b.blocks_max, 0);
  int32_t number = 0;
  for (int32_t r = 0; r < rows; ++r) {
    int32_t* table = b.block_table.data() + (kGroup * b.slots + rows - r) * b.blocks_max;
    for (int32_t i = 0; i < blocks_of(s.rows[r], s.block_tokens); ++i, ++number) {
      table[i] = 1 + static_cast<int32_t>(int64_t{number} * 5 % prime);
    }
  }
  b.arrays.row_first.push_back(0);
  bool padded = !s.padding_row;
  for (int32_t r = 0; r <= rows; ++r) {
    if (!padded && (r == rows || s.rows[r].prefill)) {
      add_row(b, {0, 0, 1, false}, 0, s.block_tokens);
      ++shape.decode_rows;
      padded = true;
    }
    if (r == rows) break;
    const AttentionRow& row = s.rows[r];
    add_row(b, row, rows - r, s.block_tokens);
    shape.decode_rows += row.prefill ? 0 : 1;
    int32_t& most = row.prefill ? shape.prefill_tokens_max : shape.query_tokens_max;
    most = std::max(most, row.bound);
    shape.context_tokens_max = std::max(shape.context_tokens_max, row.context + row.query);
  }
  shape.rows = static_cast<int32_t>(b.arrays.row_slot.size());
  shape.tokens = static_cast<int32_t>(b.arrays.token_ids.size());
  return b;
}

Tensor place_table(Ops& ops, const PagedBatch& b) {
  const HostTensor host = host_tensor(b.block_table, DType::kI32, {2, b.slots, b.blocks_max});
  return ops.place(host, DType::kI32).value();
}

struct Inputs {
  PagedBatch batch;
  HostMatrix q;        // [tokens, heads * (nope + rope)]
  HostMatrix kv_a;     // [tokens, lora + rope]
  HostMatrix kv_norm;  // [1, lora]
  StoredWeight kv_b;
  HostMatrix cosines, sines;  // [positions, rope / 2]
  HostMatrix cache;           // its first numbers, one period
};

Inputs make_inputs(const AttentionShape& s) {
  Inputs in;
  in.batch = paged_batch(s);
  const uint32_t seed = 1000 + 100 * s.seed;
  const int64_t tokens = in.batch.arrays.shape.tokens;
  in.q = random_matrix(tokens, int64_t{s.heads} * (kNope + kRope), seed, 3.0F);
  in.kv_a = random_matrix(tokens, kEntry, seed + 1);
  in.kv_norm = random_matrix(1, kLora, seed + 2, 0.25F);
  for (float& x : in.kv_norm.values) x += 1.0F;
  const float spread = 2.0F / std::sqrt(static_cast<float>(kLora));
  in.kv_b =
      random_weight(int64_t{s.heads} * (kNope + kValue), kLora, s.up_format, seed + 3, spread);
  const int64_t positions = in.batch.arrays.shape.context_tokens_max + 1;
  in.cosines = in.sines = {positions, kRope / 2, std::vector<float>(positions * (kRope / 2))};
  for (int64_t i = 0; i < positions * (kRope / 2); ++i) {
    const double frequency = std::pow(10000.0, -static_cast<double>(i % 32) / 32.0);
    const double angle = static_cast<double>(i / 32) * frequency;
    in.cosines.values[i] = static_cast<float>(std::cos(angle));
    in.sines.values[i] = static_cast<float>(std::sin(angle));
  }
  in.cache = random_matrix(1, kCachePeriod, seed + 5, 1.5F);
  return in;
}

// [blocks, block_tokens, entry] in act_dtype.
Tensor place_cache(Ops& ops, const Inputs& in, int32_t block_tokens) {
  const int64_t n = int64_t{in.batch.blocks} * block_tokens * kEntry;
  const std::vector<float>& numbers = in.cache.values;
  HostTensor host;
  if (ops.numerics() == Numerics::kReference) {
    std::vector<float> all(n);
    for (int64_t i = 0; i < n; ++i) all[i] = numbers[i % kCachePeriod];
    host = host_tensor(std::move(all), DType::kF32, {in.batch.blocks, block_tokens, kEntry});
  } else {
    std::vector<uint16_t> all(n);
    for (int64_t i = 0; i < std::min(n, kCachePeriod); ++i) all[i] = float_to_bf16(numbers[i]);
    for (int64_t i = kCachePeriod; i < n; ++i) all[i] = all[i - kCachePeriod];
    host = host_tensor(std::move(all), DType::kBF16, {in.batch.blocks, block_tokens, kEntry});
  }
  return ops.place(host, ops.act_dtype()).value();
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
  call.cache = {place_cache(ops, in, s.block_tokens), kGroup, s.block_tokens};
  call.q = place(ops, in.q);
  call.kv_a = place(ops, in.kv_a);
  MlaParams& p = call.params;
  p.heads = s.heads;
  p.softmax_scale = 1.0F / std::sqrt(static_cast<float>(kNope + kRope));
  p.kv_norm = place_floats(ops, in.kv_norm.values);
  p.up = ops.prepare_kv_b(in.kv_b.stored, s.heads, kNope, kValue).value();
  const auto angles = [&](const HostMatrix& m) {
    return ops.place(host_tensor(m.values, DType::kF32, {m.rows, m.columns}), DType::kF32).value();
  };
  p.rope = {angles(in.cosines), angles(in.sines)};
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
  std::vector<double> cache;
  for (int64_t i = int64_t{s.block_tokens} * kEntry;  // block 0 is padding's
       i < int64_t{in.batch.blocks} * s.block_tokens * kEntry; ++i) {
    const float x = in.cache.values[i % kCachePeriod];
    cache.push_back(numerics == Numerics::kNative ? round_to_bf16(x) : x);
  }
  const std::vector<double> entries = golden_vector(vectors, name + " entries");
  for (int64_t t = 0; t < in.batch.arrays.shape.tokens; ++t) {
    if (in.batch.entry_of[t] < 0) continue;
    ++out.rows;
    for (int64_t k = 0; k < columns; ++k) {
      out.values.push_back(static_cast<float>(golden[t * columns + k]));
    }
    const int64_t at = (in.batch.entry_of[t] - s.block_tokens) * kEntry;
    std::copy_n(entries.begin() + t * kEntry, kEntry, cache.begin() + at);
  }
  if (numerics == Numerics::kNative && s.out == ActFormat::kFp8Block) {
    out = quantized_rows(out, 0, false).matrix;
  }
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
