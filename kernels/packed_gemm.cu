// Launches of the packed product: the map of x for the copy engine, and the variant by shape.
#include "packed_gemm.h"

#include <array>
#include <iterator>
#include <utility>

#include "packed_gemm.cuh"
#include "tensor_map.h"

namespace fathom::kernels {
namespace {

// A box of all rows of x and 64 columns.
cudaError_t encode(CUtensorMap* map, const Rows& x, int64_t rows, int64_t columns) {
  const auto function = tensor_map_encoder();
  if (function == nullptr) return cudaErrorNotSupported;
  const cuuint64_t size[2] = {static_cast<cuuint64_t>(columns), static_cast<cuuint64_t>(rows)};
  const cuuint64_t stride_bytes[1] = {static_cast<cuuint64_t>(x.stride * 2)};
  const cuuint32_t box[2] = {kPackedUnit, static_cast<cuuint32_t>(rows)};
  const cuuint32_t step[2] = {1, 1};
  const CUresult result =
      function(map, CU_TENSOR_MAP_DATA_TYPE_BFLOAT16, 2, x.data, size, stride_bytes, box, step,
               CU_TENSOR_MAP_INTERLEAVE_NONE, CU_TENSOR_MAP_SWIZZLE_128B,
               CU_TENSOR_MAP_L2_PROMOTION_L2_256B, CU_TENSOR_MAP_FLOAT_OOB_FILL_NONE);
  return result == CUDA_SUCCESS ? cudaSuccess : cudaErrorInvalidValue;
}

using Kernel = void (*)(CUtensorMap, PackedArgs);

struct Variant {
  PackedShapeOf shape;
  int32_t threads = 0;
  Kernel kernel = nullptr;
};

template <size_t kIndex>
Variant variant() {
  constexpr PackedShapeOf kShape = kPackedShapes[kIndex];
  using Shape = PackedShape<kShape.token_tile, kShape.units>;
  return {kShape, Shape::kThreads, packed_kernel<kShape.token_tile, kShape.units>};
}

template <size_t... kIndices>
std::array<Variant, sizeof...(kIndices)> all_variants(std::index_sequence<kIndices...>) {
  return {variant<kIndices>()...};
}

const auto& variants() {
  static const auto made = all_variants(std::make_index_sequence<std::size(kPackedShapes)>());
  return made;
}

const Variant* variant_of(const PackedPlan& plan) {
  for (const Variant& v : variants()) {
    if (v.shape.token_tile == plan.token_tile && v.shape.units == plan.units) return &v;
  }
  return nullptr;
}

PackedArgs make_args(int64_t rows, const PackedMatrix& w, Rows out, Format round,
                     const PackedPlan& plan) {
  PackedArgs a;
  a.records = static_cast<const uint8_t*>(w.records);
  a.tokens = static_cast<int32_t>(rows);
  a.out = static_cast<int32_t>(w.gated ? w.out / 2 : w.out);
  a.units = static_cast<int32_t>(packed_units(w.out));
  a.steps = static_cast<int32_t>(w.in / kPackedUnit);
  a.split = plan.split;
  a.stages = plan.stages;
  a.slot_rows = plan.slot_rows;
  a.factor = packed_factor(w.base);
  a.y = out;
  a.round = round;
  a.gated = w.gated;
  a.overlap_next = plan.overlap_next;
  return a;
}

}  // namespace

cudaError_t load_packed_gemm() {
  for (const Variant& v : variants()) {
    cudaError_t error = cudaFuncSetAttribute(
        v.kernel, cudaFuncAttributePreferredSharedMemoryCarveout, cudaSharedmemCarveoutMaxShared);
    if (error != cudaSuccess) return error;
    error = cudaFuncSetAttribute(v.kernel, cudaFuncAttributeMaxDynamicSharedMemorySize,
                                 packed_room(v.shape.token_tile, v.shape.units));
    if (error != cudaSuccess) return error;
  }
  return tensor_map_encoder() != nullptr ? cudaSuccess : cudaErrorNotSupported;
}

cudaError_t packed_gemm(cudaStream_t stream, Rows x, int64_t rows, const PackedMatrix& w, Rows out,
                        Format round, const PackedPlan& plan) {
  const Variant* v = variant_of(plan);
  const bool split = plan.split <= kPackedSplitMax && plan.split <= w.in / kPackedUnit;
  const bool slots = plan.slot_rows <= plan.token_tile && plan.slot_rows % 8 == 0;
  if (v == nullptr || !split || !slots || rows < 1 || rows > plan.slot_rows ||
      packed_shared_bytes(plan, plan.stages) > packed_room(plan.token_tile, plan.units)) {
    return cudaErrorInvalidValue;
  }
  CUtensorMap x_map;
  const cudaError_t error = encode(&x_map, x, rows, w.in);
  if (error != cudaSuccess) return error;
  const PackedArgs a = make_args(rows, w, out, round, plan);
  cudaLaunchAttribute attributes[2] = {};
  attributes[0].id = cudaLaunchAttributeClusterDimension;
  attributes[0].val.clusterDim.x = static_cast<unsigned>(plan.split);
  attributes[0].val.clusterDim.y = 1;
  attributes[0].val.clusterDim.z = 1;
  attributes[1].id = cudaLaunchAttributeProgrammaticStreamSerialization;
  attributes[1].val.programmaticStreamSerializationAllowed = 1;
  const int32_t tiles = (a.units + plan.units - 1) / plan.units;
  cudaLaunchConfig_t config{};
  config.gridDim = dim3(static_cast<unsigned>(tiles * plan.split));
  config.blockDim = dim3(static_cast<unsigned>(v->threads));
  config.dynamicSmemBytes = static_cast<size_t>(packed_shared_bytes(plan, plan.stages));
  config.stream = stream;
  config.attrs = attributes;
  config.numAttrs = plan.overlap ? 2 : 1;
  return cudaLaunchKernelEx(&config, v->kernel, x_map, a);
}

}  // namespace fathom::kernels
