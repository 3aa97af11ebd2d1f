// Device memory: slabs for weights, caches and arrays, all taken before the engine is ready; and
// the way of weights into it.
#include <algorithm>
#include <thread>
#include <vector>

#include "ops/cpu/weight_layout.h"
#include "ops/cuda/cuda_ops.h"
#include "ops/cuda/host_weights.h"
#include "ops/cuda/weight_upload.h"

namespace fathom {
namespace {

constexpr int64_t kAlignment = 256;
// Small tensors share slabs of this size; large ones have memory of their own.
constexpr int64_t kSlabBytes = int64_t{32} << 20;
constexpr int64_t kSharedBytesMax = int64_t{8} << 20;
constexpr int kUploadThreadsMax = 12;

}  // namespace

Result<void*> CudaOps::allocate_own(int64_t bytes) {
  FATHOM_CHECK(!sealed_, "device memory is allocated after loading");
  const auto size = static_cast<size_t>(std::max<int64_t>(bytes, 1));
  void* p = nullptr;
  const cudaError_t error = host_readable_ ? cudaMallocManaged(&p, size) : cudaMalloc(&p, size);
  FATHOM_RETURN_IF_ERROR(cuda_status(error, "device memory"));
  device_memory_.push_back(p);
  return p;
}

Status CudaOps::add_slab(int64_t bytes) {
  // Each tensor may leave a gap before the next.
  const int64_t size = bytes + std::max(bytes / 256, kAlignment);
  FATHOM_ASSIGN(void* p, allocate_own(size));
  slabs_.push_back({static_cast<std::byte*>(p), size});
  return Status::ok();
}

// The first slab with room. Drivers give memory in pieces of 2 MiB: thousands of weights with
// allocations of their own would waste gigabytes.
Result<void*> CudaOps::allocate(int64_t bytes) {
  if (slabs_.empty()) return allocate_own(bytes);  // as tests want it: each tensor's bounds watched
  const int64_t size = (std::max<int64_t>(bytes, 1) + kAlignment - 1) / kAlignment * kAlignment;
  const auto with_room = [&] {
    return std::find_if(slabs_.begin(), slabs_.end(),
                        [&](const Slab& slab) { return slab.left >= size; });
  };
  auto slab = with_room();
  if (slab == slabs_.end() && size > kSharedBytesMax) return allocate_own(bytes);
  if (slab == slabs_.end()) {
    FATHOM_RETURN_IF_ERROR(add_slab(kSlabBytes));
    slab = with_room();
  }
  FATHOM_CHECK(!sealed_, "device memory is allocated after loading");
  std::byte* p = slab->next;
  slab->next += size;
  slab->left -= size;
  return static_cast<void*>(p);
}

Result<Tensor> CudaOps::reserve(DType dtype, std::initializer_list<int64_t> shape) {
  Tensor t = Tensor::of(nullptr, dtype, shape);
  const auto size = static_cast<size_t>(std::max<int64_t>(t.bytes(), 1));
  // Weights' slabs are for weights: caches and arenas are large.
  const bool large = t.bytes() > kSharedBytesMax;
  FATHOM_ASSIGN(t.data, large ? allocate_own(t.bytes()) : allocate(t.bytes()));
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
  const auto size = static_cast<size_t>(host.bytes());
  FATHOM_ASSIGN(t.data, allocate(host.bytes()));
  if (size == 0) return t;
  FATHOM_RETURN_IF_ERROR(cuda_status(
      cudaMemcpyAsync(t.data, host.data, size, cudaMemcpyHostToDevice, stream_), "upload"));
  FATHOM_RETURN_IF_ERROR(synchronize());
  return t;
}

Status CudaOps::begin_load() {
  const auto cores = static_cast<int>(std::thread::hardware_concurrency());
  FATHOM_ASSIGN(uploading_, WeightUpload::start(std::clamp(cores - 2, 1, kUploadThreadsMax)));
  return Status::ok();
}

Status CudaOps::finish_load() {
  if (uploading_ == nullptr) return Status::ok();
  const Status status = uploading_->finish();
  uploading_.reset();
  FATHOM_RETURN_IF_ERROR(status);
  return pack_waiting();
}

// Values of `weight`, row after row, to device memory at `to`. Between begin_load and finish_load
// they may arrive later.
Status CudaOps::copy_rows(const HostWeight& weight, std::byte* to) {
  const Tensor& t = weight.values.view;
  const bool is_fp8 = t.dtype == DType::kF8E4M3;
  // Memory that nobody owns may be gone when this call returns.
  if (uploading_ != nullptr && (weight.bytes != nullptr || weight.values.owner != nullptr)) {
    uploading_->add({bytes_of(weight), 0, t.bytes(), to, is_fp8});
    return Status::ok();
  }
  std::vector<std::byte> rows(static_cast<size_t>(t.bytes()));
  FATHOM_RETURN_IF_ERROR(bytes_of(weight)->read(0, rows));
  if (is_fp8) {
    FATHOM_RETURN_IF_ERROR(check_fp8({reinterpret_cast<const uint8_t*>(rows.data()), rows.size()}));
  }
  FATHOM_RETURN_IF_ERROR(cuda_status(
      cudaMemcpyAsync(to, rows.data(), rows.size(), cudaMemcpyHostToDevice, stream_), "weights"));
  return synchronize();
}

}  // namespace fathom
