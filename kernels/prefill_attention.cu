// Launches of prefill attention: tensor maps, the variant of a model's shape, slices.
#include "prefill_attention.h"

#include <climits>

#include "prefill_core.cuh"
#include "prefill_expand.cuh"
#include "prefill_join.cuh"
#include "prefill_spread.cuh"
#include "tensor_map.h"

namespace fathom::kernels {
namespace {

constexpr float kLog2E = 1.4426950408889634F;
constexpr uint64_t kEntry = 576;  // of the latent cache

// bf16, boxes of 64 columns by `rows`, under the 128-byte swizzle; what lies outside reads as zero.
cudaError_t encode(CUtensorMap* map, const void* data, uint32_t rank, const cuuint64_t* sizes,
                   const cuuint64_t* strides, cuuint32_t rows) {
  const auto function = tensor_map_encoder();
  if (function == nullptr) return cudaErrorNotSupported;
  constexpr cuuint32_t kSteps[4] = {1, 1, 1, 1};
  const cuuint32_t box[4] = {64, rows, 1, 1};
  const CUresult result =
      function(map, CU_TENSOR_MAP_DATA_TYPE_BFLOAT16, rank, const_cast<void*>(data), sizes, strides,
               box, kSteps, CU_TENSOR_MAP_INTERLEAVE_NONE, CU_TENSOR_MAP_SWIZZLE_128B,
               CU_TENSOR_MAP_L2_PROMOTION_L2_256B, CU_TENSOR_MAP_FLOAT_OOB_FILL_NONE);
  return result == CUDA_SUCCESS ? cudaSuccess : cudaErrorInvalidValue;
}

// [blocks, 64 tokens, entry] as (column, token, column tile, block).
cudaError_t encode_pages(CUtensorMap* map, const void* data, uint64_t entry, int64_t blocks) {
  const cuuint64_t sizes[4] = {64, kPrefillBlockTokens, entry / 64,
                               static_cast<cuuint64_t>(blocks)};
  const cuuint64_t strides[3] = {entry * 2, 128, kPrefillBlockTokens * entry * 2};
  return encode(map, data, 4, sizes, strides, kPrefillBlockTokens);
}

// [rows, columns], dense or of a stride.
cudaError_t encode_rows(CUtensorMap* map, const void* data, uint64_t columns, int64_t rows,
                        cuuint32_t box_rows = 128, uint64_t stride = 0) {
  const cuuint64_t sizes[2] = {columns, static_cast<cuuint64_t>(rows)};
  const cuuint64_t strides[1] = {(stride == 0 ? columns : stride) * 2};
  return encode(map, data, 2, sizes, strides, box_rows);
}

template <typename Kernel>
cudaError_t allow_shared(Kernel kernel, size_t bytes) {
  return cudaFuncSetAttribute(kernel, cudaFuncAttributeMaxDynamicSharedMemorySize,
                              static_cast<int>(bytes));
}

// The alignment of tiles is made by hand.
template <typename Shared>
constexpr size_t kSharedBytes = sizeof(Shared) + 1024;

template <int kTiles, bool kRope>
cudaError_t launch(cudaStream_t stream, const PrefillMaps& maps, const PrefillArgs& args) {
  const auto blocks = static_cast<unsigned>(args.query_tiles * args.splits * args.heads);
  prefill_kernel<kTiles, kRope>
      <<<blocks, kPrefillThreads, kSharedBytes<PrefillShared<kTiles, kRope>>, stream>>>(maps, args);
  return cudaGetLastError();
}

template <int kTiles>
cudaError_t launch_gqa(cudaStream_t stream, const GqaPrefillDesc& desc, const GqaPrefillCall& call,
                       const PrefillArgs& args, const void* entries, int64_t blocks) {
  PrefillMaps maps;
  const auto columns = static_cast<uint64_t>(desc.heads * desc.head_dims);
  const auto entry = static_cast<uint64_t>(2 * args.kv_heads * desc.head_dims);
  cudaError_t error = encode_rows(&maps.queries, call.queries, columns, call.tokens);
  if (error == cudaSuccess) error = encode_pages(&maps.entries, entries, entry, blocks);
  if (error != cudaSuccess) return error;
  maps.rope_queries = maps.queries;
  maps.rope_keys = maps.entries;
  return launch<kTiles, false>(stream, maps, args);
}

PrefillArgs gqa_args(const GqaPrefillDesc& desc, const GqaPrefillCall& call) {
  PrefillArgs args;
  args.rows = call.rows;
  args.heads = desc.heads;
  args.kv_heads = desc.kv_heads;
  args.query_columns = desc.head_dims;
  args.query_tiles = call.query_tiles;
  args.scale_log2 = call.softmax_scale * kLog2E;
  args.out = call.out;
  args.slice_end = INT_MAX;
  return args;
}

// This slice's latents and rope keys as bf16.
cudaError_t spread_latents(cudaStream_t stream, const MlaPrefillPlan& plan,
                           const MlaPrefillCall& call, int32_t slice_begin) {
  const SpreadArgs args{call.rows, static_cast<const uint8_t*>(call.cache), slice_begin,
                        static_cast<__nv_bfloat16*>(call.spread)};
  const auto blocks = static_cast<unsigned>(plan.slice_tiles * kSpreadParts);
  spread_latents_kernel<<<blocks, kSpreadThreads, 0, stream>>>(args);
  return cudaGetLastError();
}

// The entries that the kernels copy tiles from: of the cache, or of a slice's.
cudaError_t encode_latents(CUtensorMap* map, const MlaPrefillDesc& desc, const MlaPrefillPlan& plan,
                           const MlaPrefillCall& call) {
  return desc.fp8_cache
             ? encode_pages(map, call.spread, kEntry, plan.slice_tokens() / kPrefillBlockTokens)
             : encode_pages(map, call.cache, kEntry, call.blocks);
}

}  // namespace

cudaError_t load_prefill_attention() {
  cudaError_t error = allow_shared(prefill_kernel<1, false>, kSharedBytes<PrefillShared<1, false>>);
  if (error == cudaSuccess)
    error = allow_shared(prefill_kernel<2, false>, kSharedBytes<PrefillShared<2, false>>);
  if (error == cudaSuccess)
    error = allow_shared(prefill_kernel<2, true>, kSharedBytes<PrefillShared<2, true>>);
  if (error == cudaSuccess) error = allow_shared(expand_kernel<false>, kSharedBytes<ExpandShared>);
  if (error == cudaSuccess) error = allow_shared(expand_kernel<true>, kSharedBytes<ExpandShared>);
  cudaFuncAttributes join;  // asked for: its code must be on the device before anything is captured
  if (error == cudaSuccess) error = cudaFuncGetAttributes(&join, prefill_join_kernel<2>);
  if (error == cudaSuccess && tensor_map_encoder() == nullptr) error = cudaErrorNotSupported;
  return error;
}

cudaError_t gqa_prefill(cudaStream_t stream, const GqaPrefillDesc& desc,
                        const GqaPrefillCall& call) {
  if (call.query_tiles == 0) return cudaSuccess;
  const PrefillArgs args = gqa_args(desc, call);
  return desc.head_dims == 64 ? launch_gqa<1>(stream, desc, call, args, call.cache, call.blocks)
                              : launch_gqa<2>(stream, desc, call, args, call.cache, call.blocks);
}

cudaError_t gqa_prefill_fp8(cudaStream_t stream, const GqaPrefillDesc& desc,
                            const GqaSpreadPlan& plan, const GqaPrefillCall& call,
                            const GqaSpreadMemory& memory) {
  if (call.query_tiles == 0) return cudaSuccess;
  PrefillArgs args = gqa_args(desc, call);
  args.heads = plan.heads;
  args.kv_heads = plan.kv_heads;
  args.carry = memory.carry;
  args.spread = true;
  SpreadArgs spread{call.rows, static_cast<const uint8_t*>(call.cache), 0,
                    static_cast<__nv_bfloat16*>(memory.spread)};
  const auto blocks = static_cast<unsigned>(plan.slice_tiles * kSpreadParts);
  const int64_t pages = plan.slice_tokens() / kPrefillBlockTokens;
  for (int32_t head = 0; head < desc.kv_heads; head += plan.kv_heads) {
    args.first_head = head * (desc.heads / desc.kv_heads);
    for (int32_t slice = 0; slice < plan.slices; ++slice) {
      args.slice_begin = spread.slice_begin = slice * plan.slice_tiles;
      args.slice_end = args.slice_begin + plan.slice_tiles;
      const SpreadHeads heads{desc.kv_heads, head, plan.kv_heads, desc.head_dims};
      spread_heads_kernel<<<blocks, kSpreadThreads, 0, stream>>>(spread, heads);
      const cudaError_t error = desc.head_dims == 64
                                    ? launch_gqa<1>(stream, desc, call, args, memory.spread, pages)
                                    : launch_gqa<2>(stream, desc, call, args, memory.spread, pages);
      if (error != cudaSuccess) return error;
    }
  }
  return cudaSuccess;
}

cudaError_t mla_prefill_expand(cudaStream_t stream, const MlaPrefillDesc& desc,
                               const MlaPrefillPlan& plan, const MlaPrefillCall& call,
                               const MlaPrefillPart& part) {
  const int32_t tiles = plan.tiles_of(part.slice);
  ExpandArgs args;
  args.rows = call.rows;
  args.heads = plan.heads;
  args.first_head = part.first_head;
  args.parts = choose_expand_parts(tiles, desc.multiprocessors, 2 * plan.heads);
  args.slice_begin = part.slice * plan.slice_tiles;
  args.spread = desc.fp8_cache;
  args.out = static_cast<__nv_bfloat16*>(call.expanded);
  CUtensorMap cache;
  CUtensorMap up_key;
  CUtensorMap up_value;
  cudaError_t error = encode_latents(&cache, desc, plan, call);
  if (error == cudaSuccess && desc.fp8_cache)
    error = spread_latents(stream, plan, call, args.slice_begin);
  if (error == cudaSuccess) {
    error = call.up_key_across ? encode_rows(&up_key, call.up_key, 128, desc.heads * kLatent, 64)
                               : encode_rows(&up_key, call.up_key, kLatent, desc.heads * 128);
  }
  if (error == cudaSuccess)
    error = encode_rows(&up_value, call.up_value, kLatent, desc.heads * 128);
  if (error != cudaSuccess) return error;
  const auto blocks = static_cast<unsigned>(tiles * args.parts);
  auto* const kernel = call.up_key_across ? expand_kernel<true> : expand_kernel<false>;
  kernel<<<blocks, kExpandThreads, kSharedBytes<ExpandShared>, stream>>>(cache, up_key, up_value,
                                                                         args);
  return cudaGetLastError();
}

namespace {

// Of all slices of a group of heads.
PrefillArgs latent_args(const MlaPrefillPlan& plan, const MlaPrefillCall& call,
                        int32_t first_head) {
  PrefillArgs args;
  args.rows = call.rows;
  args.heads = plan.heads;
  args.first_head = first_head;
  args.kv_heads = plan.heads;
  args.query_columns = 192;
  args.query_tiles = plan.query_tiles;
  args.scale_log2 = call.softmax_scale * kLog2E;
  args.out = call.out;
  args.slice_end = INT_MAX;
  args.splits = plan.splits;
  args.carry = call.carry;
  return args;
}

}  // namespace

cudaError_t mla_prefill_attend(cudaStream_t stream, const MlaPrefillDesc& desc,
                               const MlaPrefillPlan& plan, const MlaPrefillCall& call,
                               const MlaPrefillPart& part) {
  PrefillArgs args = latent_args(plan, call, part.first_head);
  args.slice_begin = part.slice * plan.slice_tiles;
  args.slice_end = args.slice_begin + plan.slice_tiles;
  args.spread = desc.fp8_cache;
  PrefillMaps maps;
  const auto heads = static_cast<uint64_t>(desc.heads);
  const auto entry = static_cast<uint64_t>(plan.heads) * 256;
  cudaError_t error = encode_rows(&maps.queries, call.queries, heads * 192, call.tokens, 128,
                                  static_cast<uint64_t>(call.query_stride));
  if (error == cudaSuccess)
    error = encode_rows(&maps.rope_queries, call.rope_queries, heads * 64, call.tokens);
  if (error == cudaSuccess)
    error = encode_pages(&maps.entries, call.expanded, entry,
                         plan.slice_tokens() / kPrefillBlockTokens);
  if (error == cudaSuccess) error = encode_latents(&maps.rope_keys, desc, plan, call);
  if (error != cudaSuccess) return error;
  return launch<2, true>(stream, maps, args);
}

cudaError_t mla_prefill_join(cudaStream_t stream, const MlaPrefillPlan& plan,
                             const MlaPrefillCall& call, int32_t first_head) {
  if (plan.splits == 1) return cudaSuccess;
  const auto blocks = static_cast<unsigned>(plan.query_tiles * plan.heads);
  prefill_join_kernel<2><<<blocks, 256, 0, stream>>>(latent_args(plan, call, first_head));
  return cudaGetLastError();
}

cudaError_t mla_prefill(cudaStream_t stream, const MlaPrefillDesc& desc, const MlaPrefillPlan& plan,
                        const MlaPrefillCall& call) {
  for (int32_t head = 0; head < desc.heads; head += plan.heads) {
    for (int32_t slice = 0; slice < plan.slices; ++slice) {
      const MlaPrefillPart part{head, slice};
      cudaError_t error = mla_prefill_expand(stream, desc, plan, call, part);
      if (error == cudaSuccess) error = mla_prefill_attend(stream, desc, plan, call, part);
      if (error != cudaSuccess) return error;
    }
    const cudaError_t error = mla_prefill_join(stream, plan, call, head);
    if (error != cudaSuccess) return error;
  }
  return cudaSuccess;
}

cudaError_t mla_prefill_rope(cudaStream_t stream, const RopeQueries& r, Rows q, void* out) {
  if (r.tokens == 0) return cudaSuccess;
  rope_queries_kernel<<<static_cast<unsigned>(r.tokens), 128, 0, stream>>>(
      r, q, static_cast<__nv_bfloat16*>(out));
  return cudaGetLastError();
}

}  // namespace fathom::kernels
