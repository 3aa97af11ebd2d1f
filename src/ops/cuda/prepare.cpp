// Load time: the CPU backend lays a weight out, and the result is copied to the device.
#include <algorithm>

#include "kernels/grouped_gemm.h"
#include "kernels/moe_decode.h"
#include "kernels/prefill_attention.h"
#include "kernels/skinny_gemm.h"
#include "ops/cpu/cpu_ops.h"
#include "ops/cuda/cuda_ops.h"

namespace fathom {
namespace {

constexpr size_t kStagingBytes = size_t{8} << 20;
constexpr int kStagings = 4;
constexpr int kMarks = 8;

std::unique_ptr<Ops> make_host(Numerics numerics) {
  return make_cpu_ops({.numerics = numerics, .threads = 1, .arena_bytes = 4096});
}

}  // namespace

Result<std::unique_ptr<CudaOps>> CudaOps::make(const CudaOpsOptions& options) {
  FATHOM_ASSIGN(const std::string name, open_device());
  std::unique_ptr<CudaOps> ops(new CudaOps(options));
  FATHOM_RETURN_IF_ERROR(
      cuda_status(cudaStreamCreateWithFlags(&ops->stream_, cudaStreamNonBlocking), "stream"));
  FATHOM_RETURN_IF_ERROR(cuda_status(kernels::load_sampler(), "sampler"));
  FATHOM_RETURN_IF_ERROR(cuda_status(kernels::load_moe_decode(), "moe_decode"));
  FATHOM_RETURN_IF_ERROR(cuda_status(kernels::load_grouped_gemm(), "grouped_gemm"));
  FATHOM_RETURN_IF_ERROR(
      cuda_status(cudaDeviceGetAttribute(&ops->sms_, cudaDevAttrMultiProcessorCount, 0), "device"));
  FATHOM_RETURN_IF_ERROR(cuda_status(kernels::load_skinny_gemm(), "skinny_gemm"));
  FATHOM_RETURN_IF_ERROR(cuda_status(kernels::load_prefill_attention(), "prefill_attention"));
  FATHOM_ASSIGN(Tensor arena, ops->reserve(DType::kU8, {options.arena_bytes}));
  ops->arena_ = Arena(arena.data, options.arena_bytes);
  FATHOM_RETURN_IF_ERROR(ops->make_large_gemm());
  FATHOM_RETURN_IF_ERROR(ops->make_schedule());
  for (int i = 0; i < kStagings; ++i) {
    Staging staging;
    staging.capacity = kStagingBytes;
    void* host = nullptr;
    FATHOM_RETURN_IF_ERROR(cuda_status(cudaMallocHost(&host, kStagingBytes), "pinned staging"));
    ops->pinned_memory_.push_back(host);
    FATHOM_ASSIGN(Tensor device, ops->reserve(DType::kU8, {static_cast<int64_t>(kStagingBytes)}));
    staging.host = static_cast<std::byte*>(host);
    staging.device = device.as<std::byte>();
    FATHOM_RETURN_IF_ERROR(
        cuda_status(cudaEventCreateWithFlags(&staging.done, cudaEventDisableTiming), "event"));
    ops->staging_.push_back(staging);
  }
  for (int i = 0; i < kMarks; ++i) {
    cudaEvent_t event = nullptr;
    FATHOM_RETURN_IF_ERROR(
        cuda_status(cudaEventCreateWithFlags(&event, cudaEventDisableTiming), "event"));
    ops->marks_.push_back(event);
  }
  return ops;
}

Status CudaOps::make_schedule() {
  FATHOM_ASSIGN(const Tensor parts,
                reserve(DType::kU8, {kernels::kMlaPartsMax * sizeof(kernels::MlaPart)}));
  FATHOM_ASSIGN(const Tensor cuts,
                reserve(DType::kU8, {kernels::kMlaRowsMax * sizeof(kernels::MlaCut)}));
  schedule_ = {parts.as<kernels::MlaPart>(), cuts.as<kernels::MlaCut>()};
  return Status::ok();
}

CudaOps::~CudaOps() {
  if (stream_ != nullptr) cudaStreamSynchronize(stream_);
  for (auto& [key, graph] : graphs_) cudaGraphExecDestroy(graph);
  for (Staging& staging : staging_) cudaEventDestroy(staging.done);
  for (cudaEvent_t event : marks_) cudaEventDestroy(event);
  for (void* p : device_memory_) cudaFree(p);
  for (void* p : pinned_memory_) cudaFreeHost(p);
  if (stream_ != nullptr) cudaStreamDestroy(stream_);
}

Result<void*> CudaOps::allocate(int64_t bytes) {
  FATHOM_CHECK(!sealed_, "device memory is allocated after loading");
  const auto size = static_cast<size_t>(std::max<int64_t>(bytes, 1));
  void* p = nullptr;
  const cudaError_t error = host_readable_ ? cudaMallocManaged(&p, size) : cudaMalloc(&p, size);
  FATHOM_RETURN_IF_ERROR(cuda_status(error, "device memory"));
  device_memory_.push_back(p);
  return p;
}

Result<Tensor> CudaOps::reserve(DType dtype, std::initializer_list<int64_t> shape) {
  Tensor t = Tensor::of(nullptr, dtype, shape);
  const auto size = static_cast<size_t>(std::max<int64_t>(t.bytes(), 1));
  FATHOM_ASSIGN(t.data, allocate(t.bytes()));
  FATHOM_RETURN_IF_ERROR(cuda_status(cudaMemsetAsync(t.data, 0, size, stream_), "memset"));
  FATHOM_RETURN_IF_ERROR(synchronize());
  return t;
}

// Host memory that kernels write across the bus: the host reads it when the step is complete.
Result<Tensor> CudaOps::reserve_output(DType dtype, std::initializer_list<int64_t> shape) {
  Tensor t = Tensor::of(nullptr, dtype, shape);
  const auto size = static_cast<size_t>(std::max<int64_t>(t.bytes(), 1));
  FATHOM_RETURN_IF_ERROR(
      cuda_status(cudaHostAlloc(&t.data, size, cudaHostAllocMapped), "pinned memory"));
  pinned_memory_.push_back(t.data);
  std::fill_n(t.as<std::byte>(), size, std::byte{0});
  return t;
}

Result<Tensor> CudaOps::upload(const Tensor& host) {
  Tensor t = host;
  const auto size = static_cast<size_t>(std::max<int64_t>(host.bytes(), 1));
  FATHOM_ASSIGN(t.data, allocate(host.bytes()));
  FATHOM_RETURN_IF_ERROR(cuda_status(
      cudaMemcpyAsync(t.data, host.data, size, cudaMemcpyHostToDevice, stream_), "upload"));
  FATHOM_RETURN_IF_ERROR(synchronize());
  return t;
}

Result<Weight> CudaOps::prepare_linear(const std::vector<HostWeight>& parts) {
  const std::unique_ptr<Ops> host = make_host(numerics_);
  FATHOM_ASSIGN(Weight weight, host->prepare_linear(parts));
  FATHOM_ASSIGN(weight.values, upload(weight.values));
  if (weight.format == WeightFormat::kFp8Block) {
    FATHOM_ASSIGN(weight.scales, upload(weight.scales));
    FATHOM_ASSIGN(weight.scale_rows, upload(weight.scale_rows));
  }
  FATHOM_RETURN_IF_ERROR(add_large(weight));
  return weight;
}

// [heads, nope, kv_lora] with neighbours in nope side by side, as products over nope want them;
// float32 as it is.
Result<Tensor> CudaOps::upload_across(const Tensor& key) {
  if (key.dtype != DType::kBF16) return upload(key);
  const int64_t rows = key.shape[1];
  const int64_t columns = key.shape[2];
  std::vector<uint16_t> turned(static_cast<size_t>(key.elements()));
  const auto* from = key.as<uint16_t>();
  for (int64_t i = 0; i < key.elements(); ++i) {
    const int64_t head = i / (rows * columns) * rows * columns;
    turned[head + i % columns * rows + i / columns % rows] = from[i];
  }
  Tensor t = key;
  t.data = turned.data();
  FATHOM_ASSIGN(t, upload(t));
  t.stride[1] = 1;
  t.stride[2] = rows;
  return t;
}

Result<MlaUpProjection> CudaOps::prepare_kv_b(const HostWeight& kv_b, int32_t heads,
                                              int32_t nope_dims, int32_t value_dims) {
  const std::unique_ptr<Ops> host = make_host(numerics_);
  FATHOM_ASSIGN(MlaUpProjection up, host->prepare_kv_b(kv_b, heads, nope_dims, value_dims));
  FATHOM_ASSIGN(up.key, upload_across(up.key));
  FATHOM_ASSIGN(up.value, upload(up.value));
  return up;
}

Result<Tensor> CudaOps::place(const HostTensor& tensor, DType as) {
  const std::unique_ptr<Ops> host = make_host(numerics_);
  FATHOM_ASSIGN(const Tensor placed, host->place(tensor, as));
  return upload(placed);
}

ActSpec CudaOps::act_spec(const Weight& weight) const {
  if (numerics_ == Numerics::kReference) return ActSpec{};
  if (weight.format != WeightFormat::kFp8Block) return ActSpec{ActFormat::kBF16, false, 0};
  return ActSpec{ActFormat::kFp8Block, weight.ue8m0_activations, weight.first_column_in_block};
}

Status CudaOps::synchronize() {
  if (!health_.is_ok()) return health_;
  health_ = cuda_status(cudaStreamSynchronize(stream_), "step");
  return health_;
}

void CudaOps::check(cudaError_t error, const char* what) {
  if (error != cudaSuccess && health_.is_ok()) health_ = cuda_status(error, what);
}

}  // namespace fathom
