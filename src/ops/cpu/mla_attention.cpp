// Multi-head latent attention (models.md 2.3): norm of the latent, rope, cache write, attention
// over the paged cache in absorbed or naive form, value up-projection.
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
constexpr int64_t kTileHeads = 16;

// One call's inputs, read by every thread.
struct Call {
  const BatchView& batch;
  const KvView& cache;
  const MlaParams& params;
  Rows q;                // [T, heads * (nope + rope)]
  float* out = nullptr;  // [T, heads * value_dims]
  DType act = DType::kF32;
  bool absorbed = true;

  int64_t entry() const { return params.kv_lora + params.rope_dims; }
  bool fp8() const { return cache.cache.dtype == DType::kF8E4M3; }
  Fp8LatentLayout fp8_layout() const { return {params.kv_lora, params.rope_dims}; }
  int64_t head_columns() const { return params.nope_dims + params.rope_dims; }
  int64_t tile_heads() const {
    return absorbed ? std::min<int64_t>(params.heads, kTileHeads) : int64_t{1};
  }
  int64_t tile_tokens() const { return std::max<int64_t>(1, kTileRows / tile_heads()); }
  int64_t key_dims() const { return absorbed ? entry() : head_columns(); }
  int64_t value_dims() const { return absorbed ? params.kv_lora : params.value_dims; }

  const float* cosines(int64_t position) const {
    return params.rope.cosines.as<float>() + position * params.rope.cosines.stride[0];
  }
  const float* sines(int64_t position) const {
    return params.rope.sines.as<float>() + position * params.rope.sines.stride[0];
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

// One head's [rows, kv_lora] of an up-projection.
Matrix head_of(const Tensor& up, int64_t head) {
  const auto* at = up.as<std::byte>() + head * up.stride[0] * dtype_bytes(up.dtype);
  return {at, up.stride[1], up.shape[1], up.shape[2], up.dtype};
}

// The part of a row that one task computes.
struct Part {
  int32_t slot = 0;
  int64_t first_token = 0;  // in the step's token arrays
  int64_t tokens = 0;
  int64_t first_head = 0;
  int64_t heads = 0;
};

// One thread's memory.
struct Scratch {
  float* tile = nullptr;
  float* block = nullptr;   // [block_tokens, entry] decoded cache
  float* keys = nullptr;    // [block_tokens, nope + rope], naive form
  float* values = nullptr;  // [block_tokens, value_dims], naive form

  static int64_t floats(const Call& call) {
    const int64_t rows = call.tile_tokens() * call.tile_heads();
    int64_t n =
        AttentionTile::floats(rows, call.key_dims(), call.value_dims(), call.cache.block_tokens) +
        call.cache.block_tokens * call.entry();
    if (!call.absorbed) n += call.cache.block_tokens * (call.key_dims() + call.value_dims());
    return n;
  }
  Scratch(const Call& call, float* memory) {
    const int64_t rows = call.tile_tokens() * call.tile_heads();
    tile = memory;
    block = tile + AttentionTile::floats(rows, call.key_dims(), call.value_dims(),
                                         call.cache.block_tokens);
    keys = block + call.cache.block_tokens * call.entry();
    values = keys + call.cache.block_tokens * call.key_dims();
  }
};

// Norm, rope and cache write of one token's latent.
void write_entry(const Call& call, const Tensor& kv_a, int64_t t, float* entry) {
  const MlaParams& p = call.params;
  const int32_t position = call.batch.positions.as<int32_t>()[t];
  const int32_t row = call.batch.token_row.as<int32_t>()[t];
  const int32_t slot = call.batch.row_slot.as<int32_t>()[row];
  load_floats(kv_a.data, kv_a.dtype, t * kv_a.stride[0], call.entry(), entry);
  rms_norm(entry, p.kv_norm.as<float>(), p.kv_lora, p.norm_epsilon, entry);
  rope_interleaved(entry + p.kv_lora, call.cosines(position), call.sines(position),
                   p.rope_dims / 2);
  const Tensor& cache = call.cache.cache;
  const int64_t at = call.cache_at(slot, position);
  if (call.fp8()) {
    store_fp8_latent(call.fp8_layout(), cache.as<uint8_t>() + at, entry);
  } else {
    store_floats(entry, call.entry(), cache.dtype, cache.data, at);
  }
}

// Queries of the tile: row (token, head); absorbed into the latent's space, or as they are.
void load_queries(const Call& call, const Part& part, AttentionTile& tile) {
  const MlaParams& p = call.params;
  const int64_t rope_at = tile.key_dims - p.rope_dims;
  for (int64_t i = 0; i < part.tokens; ++i) {
    const int64_t t = part.first_token + i;
    const int32_t position = call.batch.positions.as<int32_t>()[t];
    for (int64_t h = 0; h < part.heads; ++h) {
      const int64_t r = i * part.heads + h;
      const float* from = call.q.row(t) + (part.first_head + h) * call.head_columns();
      float* to = tile.queries + r * tile.key_dims;
      if (!call.absorbed) std::copy_n(from, p.nope_dims, to);
      std::copy_n(from + p.nope_dims, p.rope_dims, to + rope_at);
      rope_interleaved(to + rope_at, call.cosines(position), call.sines(position), p.rope_dims / 2);
      round_floats(to + rope_at, p.rope_dims, call.act);
      tile.position[r] = position;
    }
  }
  if (!call.absorbed) return;
  for (int64_t h = 0; h < part.heads; ++h) {
    const int64_t head = part.first_head + h;
    const Rows nope{call.q.row(part.first_token) + head * call.head_columns(), call.q.stride,
                    part.tokens, p.nope_dims};
    const Matrix up = head_of(p.up.key, head);
    float* to = tile.queries + h * tile.key_dims;
    for (int64_t i = 0; i < part.tokens; ++i) {
      std::fill_n(to + i * part.heads * tile.key_dims, p.kv_lora, 0.0F);
    }
    add_product(nope, up, to, part.heads * tile.key_dims);
    for (int64_t i = 0; i < part.tokens; ++i) {
      round_floats(to + i * part.heads * tile.key_dims, p.kv_lora, call.act);
    }
  }
}

// Entries [first, first + count) of a slot as float32, in place when the cache is float32.
Matrix load_block(const Call& call, int32_t slot, int64_t first, int64_t count, float* block) {
  const Tensor& cache = call.cache.cache;
  const int64_t at = call.cache_at(slot, first);
  const int64_t stride = cache.stride[1];
  if (cache.dtype == DType::kF32) return {cache.as<float>() + at, stride, count, call.entry()};
  for (int64_t i = 0; i < count; ++i) {
    float* to = block + i * call.entry();
    if (call.fp8()) {
      load_fp8_latent(call.fp8_layout(), cache.as<uint8_t>() + at + i * stride, to);
    } else {
      load_floats(cache.data, cache.dtype, at + i * stride, call.entry(), to);
    }
  }
  return {block, call.entry(), count, call.entry()};
}

// Keys and values of one head, made from the latents of a block.
void add_naive(const Call& call, const Part& part, const Matrix& entries, int64_t first,
               const Scratch& scratch, AttentionTile& tile) {
  const MlaParams& p = call.params;
  const auto* entry_floats = static_cast<const float*>(entries.data);
  const Rows latents{entry_floats, entries.stride, entries.rows, p.kv_lora};
  const Matrix up_key = head_of(p.up.key, part.first_head);
  const Matrix up_value = head_of(p.up.value, part.first_head);
  dot_rows(latents, up_key, 1.0F, scratch.keys, tile.key_dims);
  dot_rows(latents, up_value, 1.0F, scratch.values, tile.value_dims);
  for (int64_t i = 0; i < entries.rows; ++i) {
    float* key = scratch.keys + i * tile.key_dims;
    round_floats(key, p.nope_dims, call.act);
    std::copy_n(entry_floats + i * entries.stride + p.kv_lora, p.rope_dims, key + p.nope_dims);
  }
  round_floats(scratch.values, entries.rows * tile.value_dims, call.act);
  tile.add({scratch.keys, tile.key_dims, entries.rows, tile.key_dims},
           {scratch.values, tile.value_dims, entries.rows, tile.value_dims}, first);
}

// Softmax-weighted sums to the op's output: through W_UV when they are latents.
void store_output(const Call& call, const Part& part, AttentionTile& tile) {
  const MlaParams& p = call.params;
  const int64_t out_stride = int64_t{p.heads} * p.value_dims;
  tile.finish();
  if (call.absorbed) round_floats(tile.sums, tile.rows * tile.value_dims, call.act);
  for (int64_t h = 0; h < part.heads; ++h) {
    const int64_t head = part.first_head + h;
    float* to = call.out + part.first_token * out_stride + head * p.value_dims;
    const float* from = tile.sums + h * tile.value_dims;
    if (call.absorbed) {
      const Rows latents{from, part.heads * tile.value_dims, part.tokens, p.kv_lora};
      const Matrix up = head_of(p.up.value, head);
      dot_rows(latents, up, 1.0F, to, out_stride);
      continue;
    }
    for (int64_t i = 0; i < part.tokens; ++i) {
      std::copy_n(from + i * part.heads * tile.value_dims, p.value_dims, to + i * out_stride);
    }
  }
}

void run_part(const Call& call, const Part& part, const Scratch& scratch) {
  AttentionTile tile;
  tile.rows = part.tokens * part.heads;
  tile.key_dims = call.key_dims();
  tile.value_dims = call.value_dims();
  tile.keys_max = call.cache.block_tokens;
  tile.scale = call.params.softmax_scale;
  tile.round_weights = call.act == DType::kBF16;
  tile.place(scratch.tile);
  load_queries(call, part, tile);
  const int64_t last = call.batch.positions.as<int32_t>()[part.first_token + part.tokens - 1];
  for (int64_t first = 0; first <= last; first += tile.keys_max) {
    const int64_t count = std::min(tile.keys_max, last + 1 - first);
    const Matrix entries = load_block(call, part.slot, first, count, scratch.block);
    if (call.absorbed) {
      tile.add(entries, {entries.data, entries.stride, count, call.params.kv_lora}, first);
    } else {
      add_naive(call, part, entries, first, scratch, tile);
    }
  }
  store_output(call, part, tile);
}

// Calls body(part) for every part of the batch, in a fixed order.
template <typename Body>
void for_each_part(const Call& call, Body&& body) {
  for (int32_t row = 0; row < call.batch.shape.rows; ++row) {
    const int64_t begin = call.batch.row_first.as<int32_t>()[row];
    const int64_t count = call.batch.row_query.as<int32_t>()[row];
    for (int64_t i = 0; i < count; i += call.tile_tokens()) {
      for (int64_t h = 0; h < call.params.heads; h += call.tile_heads()) {
        body(Part{call.batch.row_slot.as<int32_t>()[row], begin + i,
                  std::min(call.tile_tokens(), count - i), h,
                  std::min<int64_t>(call.tile_heads(), call.params.heads - h)});
      }
    }
  }
}

// Multiply-adds, about: decides whether the other threads are woken.
int64_t cost_of(const Call& call) {
  const MlaParams& p = call.params;
  int64_t cost = 0;
  for (int32_t row = 0; row < call.batch.shape.rows; ++row) {
    const int64_t query = call.batch.row_query.as<int32_t>()[row];
    const int64_t context = call.batch.row_context.as<int32_t>()[row] + query;
    cost += query * (context * (call.key_dims() + call.value_dims()) +
                     int64_t{p.nope_dims + p.value_dims} * p.kv_lora);
  }
  return cost * p.heads;
}

}  // namespace

Act CpuOps::mla_attention(const BatchView& batch, const KvView& cache, const Tensor& q,
                          const Tensor& kv_a, const MlaParams& params, MlaForm form) {
  const int64_t tokens = batch.shape.tokens;
  const int64_t out_columns = int64_t{params.heads} * params.value_dims;
  const Act act = make_act(tokens, out_columns, params.out, arena_);
  ArenaScope scope(arena_);
  // Absorbed for every row class: a prompt's bits must not depend on how it was cut into chunks.
  Call call{batch, cache, params, read_rows(q, arena_)};
  call.absorbed = form != MlaForm::kNaive;
  call.act = act_dtype();
  call.out = floats(tokens * out_columns);
  FATHOM_CHECK(call.q.columns == params.heads * call.head_columns() &&
                   kv_a.shape[1] == call.entry() &&
                   cache.cache.shape[2] ==
                       (call.fp8() ? call.fp8_layout().entry_bytes() : call.entry()),
               "mla_attention's inputs differ in shape");
  float* entry = floats(call.entry());
  for (int64_t t = 0; t < tokens; ++t) {
    if (batch.token_valid.as<uint8_t>()[t] != 0)
      write_entry(call, kv_a, t, entry);
    else
      std::fill_n(call.out + t * out_columns, out_columns, 0.0F);
  }
  const int32_t workers = cost_of(call) < ThreadPool::kCostMin ? 1 : pool_.size();
  const int64_t scratch_floats = Scratch::floats(call);
  float* scratch = floats(workers * scratch_floats);
  const auto body = [&](int32_t worker) {
    const Scratch mine(call, scratch + worker * scratch_floats);
    int64_t number = 0;
    for_each_part(call, [&](const Part& part) {
      if (number++ % workers == worker) run_part(call, part, mine);
    });
  };
  if (workers == 1) {
    body(0);
  } else {
    pool_.run(body);
  }
  for (int64_t t = 0; t < tokens; ++t) write_row(call.out + t * out_columns, act, t);
  return act;
}

}  // namespace fathom
