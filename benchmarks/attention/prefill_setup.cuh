// A case of prefill attention on the device: rows, a shuffled block table, random numbers, a cache
// of bf16 or e4m3 with NaNs past the rows' ends.
#pragma once

#include <algorithm>
#include <cmath>
#include <memory>
#include <random>
#include <string>

#include "bench_device.cuh"
#include "fp8_cache.h"
#include "kernels/prefill_attention.h"

namespace fathom::kernels {

using bench::check;
using bench::Device;
using bench::fill_random;

inline constexpr int kLatent = 512;
inline constexpr int kRope = 64;
using Numbers = Device<__nv_bfloat16>;

inline std::unique_ptr<Numbers> random_numbers(size_t n, uint64_t seed, float spread) {
  auto numbers = std::make_unique<Numbers>(n);
  fill_random<<<1024, 256>>>(numbers->data, n, seed << 40, spread);
  check(cudaDeviceSynchronize(), "fill");
  return numbers;
}

struct Row {
  int32_t context = 0;
  int32_t query = 0;
  int32_t bound = 0;  // of a decode row: its tokens, which are left alone
  bool prefill = true;
};

struct Case {
  std::string name;
  int32_t heads = 0;
  int32_t kv_heads = 0;  // 0: MLA
  int32_t head_dims = 128;
  std::vector<Row> rows;
  int64_t slice_bytes = kPrefillSliceBytes;
  double must = 0.0;
  double goal = 0.0;
  bool timed = true;
  bool across = false;  // layout of the keys' up-projection
  bool fp8 = false;     // cache
  int32_t splits = 1;   // blocks of threads that share a tile's keys; 0: as the plan chooses
};

struct Setup {
  explicit Setup(const Case& c);
  void place_rows();
  void place_numbers();
  void place_cache();

  bool mla() const { return c.kv_heads == 0; }
  int32_t entry() const { return mla() ? kLatent + kRope : 2 * c.kv_heads * c.head_dims; }
  int32_t value_dims() const { return mla() ? 128 : c.head_dims; }
  int32_t key_dims() const { return mla() ? 192 : c.head_dims; }
  // So much memory, with NaNs in it at first.
  __nv_bfloat16* spread_of(int64_t numbers);

  Case c;
  std::vector<int32_t> table, slot, first{0}, query, context;
  int32_t blocks_max = 0, begin = -1;
  int64_t tokens = 0, blocks = 1;
  double pairs = 0.0;  // (query, key)
  std::unique_ptr<Numbers> queries, rope_queries, cache, up_key, up_value, out, expanded, spread;
  bench::Fp8Blocks codes;
  std::unique_ptr<Device<uint8_t>> codes_d;
  std::unique_ptr<Device<int32_t>> table_d, slot_d, first_d, query_d, context_d;
  std::unique_ptr<Device<float>> carry;
  PrefillRows rows;
  GqaPrefillDesc gqa;
  MlaPrefillDesc latent;
  MlaPrefillPlan plan;  // one slice when that fits the memory of the case
  GqaSpreadPlan spread_plan;
  float scale = 0.0F;
};

inline Setup::Setup(const Case& one) : c(one) {
  place_rows();
  place_numbers();
}

inline void Setup::place_rows() {
  const auto count = static_cast<int32_t>(c.rows.size());
  const auto blocks_of = [](const Row& r) { return (r.context + r.query + 63) / 64; };
  for (const Row& r : c.rows) blocks_max = std::max(blocks_max, blocks_of(r) + 1);
  table.assign(static_cast<size_t>(count + 1) * blocks_max, 0);
  std::vector<int32_t> order;
  int64_t all = 0;
  for (const Row& r : c.rows) all += blocks_of(r);
  for (int32_t b = 1; b <= all; ++b) order.push_back(b);
  std::shuffle(order.begin(), order.end(), std::mt19937(7));
  blocks = all + 1;
  size_t at = 0;
  for (int32_t r = 0; r < count; ++r) {
    const Row& row = c.rows[r];
    slot.push_back(count - r);
    query.push_back(row.query);
    context.push_back(row.context);
    tokens += row.bound;
    first.push_back(static_cast<int32_t>(tokens));
    if (row.prefill && begin < 0) begin = r;
    for (int32_t b = 0; b < blocks_of(row); ++b)
      table[static_cast<size_t>(slot[r]) * blocks_max + b] = order[at++];
    if (row.prefill) pairs += double(row.query) * (row.context + (row.query + 1) / 2.0);
  }
}

inline void Setup::place_cache() {
  const auto count = static_cast<int32_t>(c.rows.size());
  if (c.fp8) {
    codes.kv_heads = c.kv_heads;
    codes.head_dims = c.head_dims;
    codes.fill(blocks);
    for (int32_t r = 0; r < count; ++r) {
      const int32_t end = context[r] + query[r];
      if (end % 64 != 0)
        codes.spoil(table[static_cast<size_t>(slot[r]) * blocks_max + end / 64], end % 64);
    }
    codes.spoil(0, 0);
    codes_d = std::make_unique<Device<uint8_t>>(codes.bytes);
    return;
  }
  cache = random_numbers(static_cast<size_t>(blocks) * 64 * entry(), 1, 1.0F);
  // What an earlier sequence may have left past a row's end.
  for (int32_t r = 0; r < count; ++r) {
    const int32_t end = context[r] + query[r];
    if (end % 64 == 0) continue;
    const int64_t block = table[static_cast<size_t>(slot[r]) * blocks_max + end / 64];
    check(cudaMemset(cache->data + (block * 64 + end % 64) * entry(), 0xFF,
                     static_cast<size_t>(64 - end % 64) * entry() * 2),
          "poison");
  }
  check(cudaMemset(cache->data, 0xFF, static_cast<size_t>(64) * entry() * 2), "poison block 0");
}

inline void Setup::place_numbers() {
  const auto count = static_cast<int32_t>(c.rows.size());
  place_cache();
  queries = random_numbers(static_cast<size_t>(tokens) * c.heads * key_dims(), 2, 1.5F);
  out = std::make_unique<Numbers>(static_cast<size_t>(tokens) * c.heads * value_dims());
  table_d = std::make_unique<Device<int32_t>>(table);
  slot_d = std::make_unique<Device<int32_t>>(slot);
  first_d = std::make_unique<Device<int32_t>>(first);
  query_d = std::make_unique<Device<int32_t>>(query);
  context_d = std::make_unique<Device<int32_t>>(context);
  rows = {begin,         count,           slot_d->data,  first_d->data,
          query_d->data, context_d->data, table_d->data, blocks_max};
  scale = 1.0F / std::sqrt(static_cast<float>(key_dims()));
  gqa = {c.heads, c.kv_heads, c.head_dims, 64, true, c.fp8};
  latent.rows = count - begin;
  latent.tokens = tokens - first[begin];
  for (int32_t r = 0; r < count; ++r)
    latent.context_tokens_max = std::max(latent.context_tokens_max, context[r] + query[r]);
  latent.heads = c.heads;
  latent.fp8_cache = c.fp8;
  latent.may_split = c.splits == 0;
  plan = plan_mla_prefill(latent, c.slice_bytes);
  if (c.splits > 0) plan.splits = c.splits;
  if (!mla()) {
    spread_plan = c.fp8 ? plan_gqa_spread(gqa, latent.rows, latent.tokens,
                                          latent.context_tokens_max, c.slice_bytes)
                        : GqaSpreadPlan{};
    return;
  }
  rope_queries = random_numbers(static_cast<size_t>(tokens) * c.heads * kRope, 3, 1.5F);
  up_key = random_numbers(static_cast<size_t>(c.heads) * 128 * kLatent, 4, 0.044F);
  up_value = random_numbers(static_cast<size_t>(c.heads) * 128 * kLatent, 5, 0.044F);
  expanded = std::make_unique<Numbers>(plan.expanded_numbers());
  carry = std::make_unique<Device<float>>(plan.carry_floats());
}

inline __nv_bfloat16* Setup::spread_of(int64_t numbers) {
  if (!spread || spread->count < static_cast<size_t>(numbers)) {
    spread = std::make_unique<Numbers>(static_cast<size_t>(numbers));
    check(cudaMemset(spread->data, 0xFF, spread->count * 2), "poison");
    check(cudaDeviceSynchronize(), "poison");
  }
  return spread->data;
}

}  // namespace fathom::kernels
