// Grouped-query attention (models.md 2.4): bias, norm and rope of the heads, cache write, attention
// over the paged cache of keys and values.
#include <algorithm>

#include "ops/cpu/attention_tile.h"
#include "ops/cpu/cpu_ops_impl.h"
#include "ops/cpu/fp8_cache.h"
#include "ops/cpu/norm.h"
#include "ops/cpu/rope.h"

namespace fathom {
namespace {

constexpr int64_t kTileRows =
    32;  // (token, head) pairs whose state stays in the second-level cache

// One call's inputs, read by every thread.
struct Call {
  const BatchView& batch;
  const KvView& cache;
  const GqaParams& params;
  const Products& products;
  DType act = DType::kF32;
  float* queries = nullptr;  // [T, heads * head_dims], ready for the scores
  float* out = nullptr;      // [T, heads * head_dims]

  int64_t dims() const { return params.head_dims; }
  int64_t group() const { return params.heads / params.kv_heads; }
  int64_t row_columns() const { return params.heads * dims(); }
  int64_t entry() const { return 2 * params.kv_heads * dims(); }
  bool fp8() const { return cache.cache.dtype == DType::kF8E4M3; }
  Fp8HeadsLayout fp8_layout() const { return {params.kv_heads, dims(), cache.block_tokens}; }
  int64_t tile_tokens() const { return std::max<int64_t>(1, kTileRows / group()); }
  int64_t tile_floats() const {
    return AttentionTile::floats(tile_tokens() * group(), dims(), dims(), cache.block_tokens);
  }
  // A thread's memory: its tile, and a block's keys and values where those are decoded.
  int64_t part_floats() const {
    return tile_floats() + (fp8() ? 2 * cache.block_tokens * dims() : 0);
  }
  // Element of the cache where entry `position` of `slot` starts.
  int64_t cache_at(int32_t slot, int64_t position) const {
    const Tensor& table = batch.block_table;
    const int32_t block =
        table.as<int32_t>()[cache.group * table.stride[0] + slot * table.stride[1] +
                            position / cache.block_tokens];
    FATHOM_CHECK(block > 0 && block < cache.cache.shape[0], "a block table names no block");
    return block * cache.cache.stride[0] + position % cache.block_tokens * cache.cache.stride[1];
  }
};

// Norm and rope of one head, in place.
void prepare_head(const Call& call, int32_t position, const Tensor& norm, float* head) {
  const GqaParams& p = call.params;
  if (norm.defined()) rms_norm(head, norm.as<float>(), p.head_dims, p.norm_epsilon, head);
  const int64_t at = position * p.rope.cosines.stride[0];
  rope_halves(head, p.rope.cosines.as<float>() + at, p.rope.sines.as<float>() + at,
              p.head_dims / 2);
}

// The token's row [queries | keys | values]: its queries made ready, its keys and values stored.
void prepare_token(const Call& call, const Tensor& qkv, int64_t t, float* row) {
  const GqaParams& p = call.params;
  const int64_t columns = call.row_columns() + call.entry();
  const int32_t position = call.batch.positions.as<int32_t>()[t];
  const int32_t slot = call.batch.row_slot.as<int32_t>()[call.batch.token_row.as<int32_t>()[t]];
  load_floats(qkv.data, qkv.dtype, t * qkv.stride[0], columns, row);
  if (p.bias.defined()) {
    const float* bias = p.bias.as<float>();
    for (int64_t c = 0; c < columns; ++c) row[c] += bias[c];
  }
  for (int32_t h = 0; h < p.heads + p.kv_heads; ++h) {
    prepare_head(call, position, h < p.heads ? p.q_norm : p.k_norm, row + h * call.dims());
  }
  round_floats(row, call.row_columns(), call.act);
  std::copy_n(row, call.row_columns(), call.queries + t * call.row_columns());
  const Tensor& cache = call.cache.cache;
  float* entry = row + call.row_columns();
  if (!call.fp8()) {
    store_floats(entry, call.entry(), cache.dtype, cache.data, call.cache_at(slot, position));
    return;
  }
  const int64_t inside = position % call.cache.block_tokens;
  uint8_t* block = cache.as<uint8_t>() + call.cache_at(slot, position - inside);
  for (int64_t half = 0; half < 2; ++half) {
    for (int64_t h = 0; h < p.kv_heads; ++h) {
      store_fp8_head(call.fp8_layout(), block, inside, half, h,
                     entry + (half * p.kv_heads + h) * call.dims());
    }
  }
}

// The part of a row that one task computes: some of its tokens, the heads of one key head.
struct Part {
  int32_t slot = 0;
  int64_t first_token = 0;  // in the step's token arrays
  int64_t tokens = 0;
  int64_t kv_head = 0;
};

// The keys (half 0) or values (1) of a block's first `count` entries, block `at` on, for one key
// head: as they lie in the cache, or decoded to `decoded`.
Matrix cached(const Call& call, int64_t at, int64_t half, int64_t head, int64_t count,
              float* decoded) {
  const Tensor& cache = call.cache.cache;
  if (call.fp8()) {
    float* to = decoded + half * call.cache.block_tokens * call.dims();
    load_fp8_heads(call.fp8_layout(), cache.as<uint8_t>() + at, count, half, head, to);
    return {to, call.dims(), count, call.dims(), DType::kF32};
  }
  const int64_t element = at + (half * call.params.kv_heads + head) * call.dims();
  return {cache.as<std::byte>() + element * dtype_bytes(cache.dtype), cache.stride[1], count,
          call.dims(), cache.dtype};
}

void run_part(const Call& call, const Part& part, float* memory) {
  const int64_t group = call.group();
  const int64_t dims = call.dims();
  AttentionTile tile(call.products);
  tile.rows = part.tokens * group;
  tile.key_dims = tile.value_dims = dims;
  tile.keys_max = call.cache.block_tokens;
  tile.scale = call.params.softmax_scale;
  tile.place(memory);
  const int64_t first_column = part.kv_head * group * dims;
  for (int64_t i = 0; i < part.tokens; ++i) {
    const int64_t t = part.first_token + i;
    std::copy_n(call.queries + t * call.row_columns() + first_column, group * dims,
                tile.queries + i * group * dims);
    std::fill_n(tile.position + i * group, group, call.batch.positions.as<int32_t>()[t]);
  }
  const int64_t last = tile.position[tile.rows - 1];
  for (int64_t first = 0; first <= last; first += tile.keys_max) {
    const int64_t count = std::min(tile.keys_max, last + 1 - first);
    const int64_t block = call.cache_at(part.slot, first);
    float* decoded = memory + call.tile_floats();
    tile.add(cached(call, block, 0, part.kv_head, count, decoded),
             cached(call, block, 1, part.kv_head, count, decoded), first);
  }
  tile.finish();
  for (int64_t i = 0; i < part.tokens; ++i) {
    std::copy_n(tile.sums + i * group * dims, group * dims,
                call.out + (part.first_token + i) * call.row_columns() + first_column);
  }
}

// Calls body(part) for every part of the batch, in a fixed order.
template <typename Body>
void for_each_part(const Call& call, Body&& body) {
  for (int32_t row = 0; row < call.batch.shape.rows; ++row) {
    const int64_t begin = call.batch.row_first.as<int32_t>()[row];
    const int64_t count = call.batch.row_query.as<int32_t>()[row];
    for (int64_t i = 0; i < count; i += call.tile_tokens()) {
      for (int64_t h = 0; h < call.params.kv_heads; ++h) {
        body(Part{call.batch.row_slot.as<int32_t>()[row], begin + i,
                  std::min(call.tile_tokens(), count - i), h});
      }
    }
  }
}

// Multiply-adds, about: decides whether the other threads are woken.
int64_t cost_of(const Call& call) {
  int64_t pairs = 0;
  for (int32_t row = 0; row < call.batch.shape.rows; ++row) {
    const int64_t query = call.batch.row_query.as<int32_t>()[row];
    pairs += query * (call.batch.row_context.as<int32_t>()[row] + query);
  }
  return pairs * 2 * call.row_columns();
}

void check_shapes(const Call& call, const Tensor& qkv) {
  const GqaParams& p = call.params;
  FATHOM_CHECK(p.heads % p.kv_heads == 0 && qkv.shape[1] == call.row_columns() + call.entry() &&
                   call.cache.cache.shape[2] ==
                       (call.fp8() ? call.fp8_layout().entry_bytes() : call.entry()) &&
                   2 * p.rope.cosines.shape[1] == p.head_dims,
               "gqa_attention's inputs differ in shape");
}

}  // namespace

Act CpuOps::gqa_attention(const BatchView& batch, const KvView& cache, const Tensor& qkv,
                          const GqaParams& params) {
  Call call{batch, cache, params, products_, act_dtype()};
  check_shapes(call, qkv);
  const int64_t tokens = batch.shape.tokens;
  const int64_t columns = call.row_columns();
  const Act act = make_act(tokens, columns, params.out, arena_);
  ArenaScope scope(arena_);
  call.queries = floats(tokens * columns);
  call.out = floats(tokens * columns);
  float* row = floats(columns + call.entry());
  for (int64_t t = 0; t < tokens; ++t) {
    if (batch.token_valid.as<uint8_t>()[t] != 0)
      prepare_token(call, qkv, t, row);
    else
      std::fill_n(call.out + t * columns, columns, 0.0F);
  }
  const bool alone = cost_of(call) < ThreadPool::kCostMin || pool_.size() == 1;
  const int64_t pieces = alone ? 1 : pool_.pieces_for_all();
  float* scratch = floats((alone ? 1 : pool_.size()) * call.part_floats());
  pool_.share(pieces, [&](int64_t piece, int32_t worker) {
    int64_t number = 0;
    for_each_part(call, [&](const Part& part) {
      if (number++ % pieces == piece) {
        run_part(call, part, scratch + worker * call.part_floats());
      }
    });
  });
  for (int64_t t = 0; t < tokens; ++t) write_row(call.out + t * columns, act, t);
  return act;
}

}  // namespace fathom
