// Rows to scattered blocks.
#include "ops/paged_batch.h"

#include <algorithm>

namespace fathom::testing {
namespace {

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
      paged.block_table.data() + (kPagedGroup * paged.slots + slot) * paged.blocks_max;
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

}  // namespace

PagedBatch paged_batch(const std::vector<AttentionRow>& all, int32_t block_tokens,
                       bool padding_row) {
  PagedBatch b;
  StepShape& shape = b.arrays.shape;
  const auto rows = static_cast<int32_t>(all.size());
  int32_t needed = 0;
  for (const AttentionRow& row : all) {
    needed += blocks_of(row, block_tokens);
    b.blocks_max = std::max(b.blocks_max, blocks_of(row, block_tokens) + 2);
  }
  const int32_t prime = prime_from(needed + needed / 2 + 3);
  b.blocks = prime + 1;
  b.slots = rows + 1;
  b.block_table.assign(2 * b.slots * b.blocks_max, 0);
  int32_t number = 0;
  for (int32_t r = 0; r < rows; ++r) {
    int32_t* table = b.block_table.data() + (kPagedGroup * b.slots + rows - r) * b.blocks_max;
    for (int32_t i = 0; i < blocks_of(all[r], block_tokens); ++i, ++number) {
      table[i] = 1 + static_cast<int32_t>(int64_t{number} * 5 % prime);
    }
  }
  b.arrays.row_first.push_back(0);
  bool padded = !padding_row;
  for (int32_t r = 0; r <= rows; ++r) {
    if (!padded && (r == rows || all[r].prefill)) {
      add_row(b, {0, 0, 1, false}, 0, block_tokens);
      ++shape.decode_rows;
      padded = true;
    }
    if (r == rows) break;
    const AttentionRow& row = all[r];
    add_row(b, row, rows - r, block_tokens);
    shape.decode_rows += row.prefill ? 0 : 1;
    int32_t& most = row.prefill ? shape.prefill_tokens_max : shape.query_tokens_max;
    most = std::max(most, row.bound);
    if (row.prefill) shape.prefill_context_tokens += row.context + row.bound;
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

Tensor place_cache(Ops& ops, const PagedBatch& batch, int32_t block_tokens, int32_t entry,
                   const std::vector<float>& numbers) {
  const int64_t n = int64_t{batch.blocks} * block_tokens * entry;
  const auto period = static_cast<int64_t>(numbers.size());
  HostTensor host;
  if (ops.numerics() == Numerics::kReference) {
    std::vector<float> all(n);
    for (int64_t i = 0; i < n; ++i) all[i] = numbers[i % period];
    host = host_tensor(std::move(all), DType::kF32, {batch.blocks, block_tokens, entry});
  } else {
    std::vector<uint16_t> all(n);
    for (int64_t i = 0; i < std::min(n, period); ++i) all[i] = float_to_bf16(numbers[i]);
    for (int64_t i = period; i < n; ++i) all[i] = all[i - period];
    host = host_tensor(std::move(all), DType::kBF16, {batch.blocks, block_tokens, entry});
  }
  return ops.place(host, ops.act_dtype()).value();
}

std::vector<double> cache_values(const PagedBatch& batch, int32_t block_tokens, int32_t entry,
                                 const std::vector<float>& numbers, Numerics numerics,
                                 const std::vector<double>& written) {
  const int64_t skipped = int64_t{block_tokens} * entry;  // block 0 is padding's
  std::vector<double> cache;
  for (int64_t i = skipped; i < batch.blocks * skipped; ++i) {
    const float x = numbers[i % static_cast<int64_t>(numbers.size())];
    cache.push_back(numerics == Numerics::kNative ? round_to_bf16(x) : x);
  }
  for (int64_t t = 0; t < batch.arrays.shape.tokens; ++t) {
    if (batch.entry_of[t] < 0) continue;
    const int64_t at = (batch.entry_of[t] - block_tokens) * entry;
    std::copy_n(written.begin() + t * entry, entry, cache.begin() + at);
  }
  return cache;
}

Angles angles_of(const PagedBatch& batch, int32_t pairs) {
  const int64_t positions = batch.arrays.shape.context_tokens_max + 1;
  Angles angles;
  angles.cosines = angles.sines = {positions, pairs, std::vector<float>(positions * pairs)};
  for (int64_t i = 0; i < positions * pairs; ++i) {
    const double frequency = std::pow(10000.0, -static_cast<double>(i % pairs) / pairs);
    const double angle = static_cast<double>(i / pairs) * frequency;
    angles.cosines.values[i] = static_cast<float>(std::cos(angle));
    angles.sines.values[i] = static_cast<float>(std::sin(angle));
  }
  return angles;
}

RopeTable place_angles(Ops& ops, const Angles& angles) {
  const auto placed = [&](const HostMatrix& m) {
    return ops.place(host_tensor(m.values, DType::kF32, {m.rows, m.columns}), DType::kF32).value();
  };
  return {placed(angles.cosines), placed(angles.sines)};
}

}  // namespace fathom::testing
