// Multi-head latent attention (models.md 2.3): norm of the latent, rope, cache write, attention
// over the paged cache in absorbed or naive form, value up-projection.
#include <algorithm>
#include <array>

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
constexpr int64_t kChunkRows = 64;     // pairs that go through the up-projections together
constexpr int64_t kChunkTokens = 8;    // tokens that make an up-projection's reading pay
constexpr int64_t kRowsAsTheyLie = 8;  // of a tile for which converting a block does not pay

// One call's inputs, read by every thread.
struct Call {
  const BatchView& batch;
  const KvView& cache;
  const MlaParams& params;
  const Products& products;
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

// Tokens of one sequence, for the heads of their chunk.
struct Part {
  int32_t slot = 0;
  int64_t first_token = 0;  // in the step's token arrays
  int64_t tokens = 0;
};

// What one task computes: some heads of neighbouring tokens, which read the up-projections
// together.
struct Chunk {
  int64_t first_head = 0;
  int64_t heads = 0;
  int64_t first_token = 0;
  int64_t tokens = 0;
  int64_t count = 0;
  std::array<Part, kChunkRows> parts;
};

// One thread's memory.
struct Scratch {
  float* queries = nullptr;  // [chunk's tokens, heads, key_dims]
  float* sums = nullptr;     // [chunk's tokens, heads, value_dims]
  float* tile = nullptr;
  float* block = nullptr;   // [block_tokens, entry] decoded cache
  float* keys = nullptr;    // [block_tokens, nope + rope], naive form
  float* values = nullptr;  // [block_tokens, value_dims], naive form

  static int64_t floats(const Call& call) {
    const int64_t block_tokens = call.cache.block_tokens;
    int64_t n = kChunkRows * (call.key_dims() + call.value_dims()) +
                AttentionTile::state_floats(kTileRows, block_tokens) + block_tokens * call.entry();
    if (!call.absorbed) n += block_tokens * (call.key_dims() + call.value_dims());
    return n;
  }
  Scratch(const Call& call, float* memory) {
    const int64_t block_tokens = call.cache.block_tokens;
    queries = memory;
    sums = queries + kChunkRows * call.key_dims();
    block = sums + kChunkRows * call.value_dims();
    keys = block + block_tokens * call.entry();
    values = keys + (call.absorbed ? 0 : block_tokens * call.key_dims());
    tile = values + (call.absorbed ? 0 : block_tokens * call.value_dims());
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

// The chunk's queries: absorbed into the latent's space, or as they are.
void load_queries(const Call& call, const Chunk& chunk, float* queries) {
  const MlaParams& p = call.params;
  const int64_t key_dims = call.key_dims();
  const int64_t rope_at = key_dims - p.rope_dims;
  for (int64_t i = 0; i < chunk.tokens; ++i) {
    const int64_t t = chunk.first_token + i;
    const int32_t position = call.batch.positions.as<int32_t>()[t];
    for (int64_t h = 0; h < chunk.heads; ++h) {
      const float* from = call.q.row(t) + (chunk.first_head + h) * call.head_columns();
      float* to = queries + (i * chunk.heads + h) * key_dims;
      if (call.absorbed)
        std::fill_n(to, p.kv_lora, 0.0F);
      else
        std::copy_n(from, p.nope_dims, to);
      std::copy_n(from + p.nope_dims, p.rope_dims, to + rope_at);
      rope_interleaved(to + rope_at, call.cosines(position), call.sines(position), p.rope_dims / 2);
      round_floats(to + rope_at, p.rope_dims, call.act);
    }
  }
  if (!call.absorbed) return;
  for (int64_t h = 0; h < chunk.heads; ++h) {
    const int64_t head = chunk.first_head + h;
    const Rows nope{call.q.row(chunk.first_token) + head * call.head_columns(), call.q.stride,
                    chunk.tokens, p.nope_dims};
    call.products.add_product(nope, head_of(p.up.key, head), queries + h * key_dims,
                              chunk.heads * key_dims);
  }
  for (int64_t r = 0; r < chunk.tokens * chunk.heads; ++r) {
    round_floats(queries + r * key_dims, p.kv_lora, call.act);
  }
}

// Entries [first, first + count) of a slot, which `rows` queries read: in place when the cache is
// float32, or bfloat16 with few readers, else as float32 in `block`.
Matrix load_block(const Call& call, int32_t slot, int64_t first, int64_t count, int64_t rows,
                  float* block) {
  const Tensor& cache = call.cache.cache;
  const int64_t at = call.cache_at(slot, first);
  const int64_t stride = cache.stride[1];
  const bool few = call.absorbed && rows <= kRowsAsTheyLie;
  if (cache.dtype == DType::kF32 || (cache.dtype == DType::kBF16 && few)) {
    return {cache.as<std::byte>() + at * dtype_bytes(cache.dtype), stride, count, call.entry(),
            cache.dtype};
  }
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
void add_naive(const Call& call, int64_t head, const Matrix& entries, int64_t first,
               const Scratch& scratch, AttentionTile& tile) {
  const MlaParams& p = call.params;
  const auto* entry_floats = static_cast<const float*>(entries.data);
  const Rows latents{entry_floats, entries.stride, entries.rows, p.kv_lora};
  const Matrix up_key = head_of(p.up.key, head);
  const Matrix up_value = head_of(p.up.value, head);
  call.products.dot_rows(latents, up_key, 1.0F, scratch.keys, tile.key_dims);
  call.products.dot_rows(latents, up_value, 1.0F, scratch.values, tile.value_dims);
  for (int64_t i = 0; i < entries.rows; ++i) {
    float* key = scratch.keys + i * tile.key_dims;
    round_floats(key, p.nope_dims, call.act);
    std::copy_n(entry_floats + i * entries.stride + p.kv_lora, p.rope_dims, key + p.nope_dims);
  }
  round_floats(scratch.values, entries.rows * tile.value_dims, call.act);
  tile.add({scratch.keys, tile.key_dims, entries.rows, tile.key_dims},
           {scratch.values, tile.value_dims, entries.rows, tile.value_dims}, first);
}

// The chunk's softmax-weighted sums to the op's output: through W_UV when they are latents.
void store_output(const Call& call, const Chunk& chunk, float* sums) {
  const MlaParams& p = call.params;
  const int64_t out_stride = int64_t{p.heads} * p.value_dims;
  const int64_t value_dims = call.value_dims();
  if (call.absorbed) round_floats(sums, chunk.tokens * chunk.heads * value_dims, call.act);
  for (int64_t h = 0; h < chunk.heads; ++h) {
    const int64_t head = chunk.first_head + h;
    float* to = call.out + chunk.first_token * out_stride + head * p.value_dims;
    const float* from = sums + h * value_dims;
    const int64_t stride = chunk.heads * value_dims;
    if (call.absorbed) {
      call.products.dot_rows({from, stride, chunk.tokens, p.kv_lora}, head_of(p.up.value, head),
                             1.0F, to, out_stride);
      continue;
    }
    for (int64_t i = 0; i < chunk.tokens; ++i) {
      std::copy_n(from + i * stride, p.value_dims, to + i * out_stride);
    }
  }
}

// One sequence's rows of a chunk, `row` being the first, over its cache.
void run_part(const Call& call, const Chunk& chunk, const Part& part, const Scratch& scratch) {
  const int64_t row = (part.first_token - chunk.first_token) * chunk.heads;
  AttentionTile tile(call.products);
  tile.rows = part.tokens * chunk.heads;
  tile.key_dims = call.key_dims();
  tile.value_dims = call.value_dims();
  tile.keys_max = call.cache.block_tokens;
  tile.scale = call.params.softmax_scale;
  tile.round_weights = call.act == DType::kBF16;
  tile.place(scratch.queries + row * tile.key_dims, scratch.sums + row * tile.value_dims,
             scratch.tile);
  const int32_t* positions = call.batch.positions.as<int32_t>() + part.first_token;
  for (int64_t r = 0; r < tile.rows; ++r) tile.position[r] = positions[r / chunk.heads];
  const int64_t last = positions[part.tokens - 1];
  for (int64_t first = 0; first <= last; first += tile.keys_max) {
    const int64_t count = std::min(tile.keys_max, last + 1 - first);
    const Matrix entries = load_block(call, part.slot, first, count, tile.rows, scratch.block);
    if (call.absorbed) {
      Matrix values = entries;
      values.columns = call.params.kv_lora;
      tile.add(entries, values, first);
    } else {
      add_naive(call, chunk.first_head, entries, first, scratch, tile);
    }
  }
  tile.finish();
}

void run_chunk(const Call& call, const Chunk& chunk, const Scratch& scratch) {
  load_queries(call, chunk, scratch.queries);
  for (int64_t i = 0; i < chunk.count; ++i) run_part(call, chunk, chunk.parts[i], scratch);
  store_output(call, chunk, scratch.sums);
}

// Calls body(chunk) for every chunk of the batch, in a fixed order; at most `tokens_max` tokens in
// each.
template <typename Body>
void for_each_chunk(const Call& call, int64_t tokens_max, Body&& body) {
  Chunk chunk;
  const auto flush = [&] {
    if (chunk.count > 0) body(chunk);
    chunk.tokens = chunk.count = 0;
  };
  for (int64_t h = 0; h < call.params.heads; h += call.tile_heads()) {
    chunk.first_head = h;
    chunk.heads = std::min<int64_t>(call.tile_heads(), call.params.heads - h);
    for (int32_t row = 0; row < call.batch.shape.rows; ++row) {
      const int32_t slot = call.batch.row_slot.as<int32_t>()[row];
      int64_t t = call.batch.row_first.as<int32_t>()[row];
      const int64_t end = t + call.batch.row_query.as<int32_t>()[row];
      while (t < end) {
        if (chunk.tokens == tokens_max || t != chunk.first_token + chunk.tokens) flush();
        if (chunk.count == 0) chunk.first_token = t;
        const int64_t n = std::min({call.tile_tokens(), end - t, tokens_max - chunk.tokens});
        chunk.parts[chunk.count++] = {slot, t, n};
        chunk.tokens += n;
        t += n;
      }
    }
    flush();
  }
}

// Tokens of a chunk: enough chunks for the threads, but not so small that each reads all of the
// up-projections for a few tokens.
int64_t chunk_tokens_of(const Call& call, int64_t tokens, int64_t threads, int64_t pieces) {
  const int64_t chunks = std::clamp(tokens / kChunkTokens, threads, pieces);
  return std::clamp<int64_t>((tokens + chunks - 1) / chunks, 1, kChunkRows / call.tile_heads());
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
  Call call{batch, cache, params, products_, read_rows(q, arena_)};
  call.absorbed = form != MlaForm::kNaive;
  call.act = act_dtype();
  call.out = floats(tokens * out_columns);
  FATHOM_CHECK(
      call.q.columns == params.heads * call.head_columns() && kv_a.shape[1] == call.entry() &&
          cache.cache.shape[2] == (call.fp8() ? call.fp8_layout().entry_bytes() : call.entry()),
      "mla_attention's inputs differ in shape");
  float* entry = floats(call.entry());
  for (int64_t t = 0; t < tokens; ++t) {
    if (batch.token_valid.as<uint8_t>()[t] != 0)
      write_entry(call, kv_a, t, entry);
    else
      std::fill_n(call.out + t * out_columns, out_columns, 0.0F);
  }
  const bool alone = cost_of(call) < ThreadPool::kCostMin || pool_.size() == 1;
  const int64_t pieces = alone ? 1 : pool_.pieces_for_all();
  const int64_t chunk_tokens = chunk_tokens_of(call, tokens, alone ? 1 : pool_.size(), pieces);
  const int64_t scratch_floats = Scratch::floats(call);
  float* scratch = floats((alone ? 1 : pool_.size()) * scratch_floats);
  pool_.share(pieces, [&](int64_t piece, int32_t worker) {
    const Scratch mine(call, scratch + worker * scratch_floats);
    int64_t number = 0;
    for_each_chunk(call, chunk_tokens, [&](const Chunk& chunk) {
      if (number++ % pieces == piece) run_chunk(call, chunk, mine);
    });
  });
  for (int64_t t = 0; t < tokens; ++t) write_row(call.out + t * out_columns, act, t);
  return act;
}

}  // namespace fathom
