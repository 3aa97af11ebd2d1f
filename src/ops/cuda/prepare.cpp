// Load time: the CPU backend lays a weight out, and the result is copied to the device.
#include <algorithm>

#include "fathom/scratch.h"
#include "kernels/gqa_few.h"
#include "kernels/grouped_gemm.h"
#include "kernels/many_gemm.h"
#include "kernels/mla_decode.h"
#include "kernels/moe_decode.h"
#include "kernels/moe_few.h"
#include "kernels/prefill_attention.h"
#include "kernels/skinny_gemm.h"
#include "kernels/tall_gemm.h"
#include "kernels/wide_gemm.h"
#include "ops/cpu/cpu_ops.h"
#include "ops/cpu/weight_layout.h"
#include "ops/cuda/cuda_ops.h"
#include "ops/cuda/host_weights.h"
#include "ops/cuda/weight_upload.h"

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
  FATHOM_RETURN_IF_ERROR(cuda_status(ops->lane_.open(), "stream"));
  FATHOM_ASSIGN(const DeviceTraits traits, device_traits());
  ops->hopper_ = traits.hopper && !options.neutral_kernels;
  FATHOM_ASSIGN(ops->sms_, device_multiprocessors());
  FATHOM_RETURN_IF_ERROR(cuda_status(kernels::load_sampler(), "sampler"));
  if (ops->hopper_) {
    FATHOM_RETURN_IF_ERROR(cuda_status(kernels::load_moe_decode(), "moe_decode"));
    FATHOM_RETURN_IF_ERROR(cuda_status(kernels::load_moe_few(), "moe_few"));
    FATHOM_RETURN_IF_ERROR(cuda_status(kernels::load_grouped_gemm(), "grouped_gemm"));
    FATHOM_RETURN_IF_ERROR(cuda_status(kernels::load_skinny_gemm(), "skinny_gemm"));
    FATHOM_RETURN_IF_ERROR(cuda_status(kernels::load_wide_gemm(), "wide_gemm"));
    FATHOM_RETURN_IF_ERROR(cuda_status(kernels::load_packed_gemm(), "packed_gemm"));
    FATHOM_RETURN_IF_ERROR(cuda_status(kernels::load_tall_gemm(), "tall_gemm"));
    FATHOM_RETURN_IF_ERROR(cuda_status(kernels::load_many_gemm(), "many_gemm"));
    FATHOM_RETURN_IF_ERROR(cuda_status(kernels::load_prefill_attention(), "prefill_attention"));
    FATHOM_RETURN_IF_ERROR(cuda_status(kernels::load_mla_decode(), "mla_decode"));
  }
  if (options.weight_bytes > 0) FATHOM_RETURN_IF_ERROR(ops->add_slab(options.weight_bytes));
  FATHOM_ASSIGN(Tensor arena, ops->reserve(DType::kU8, {options.arena_bytes}));
  ops->arena_ = Arena(arena.data, options.arena_bytes);
  FATHOM_RETURN_IF_ERROR(ops->make_large_gemm());
  FATHOM_RETURN_IF_ERROR(ops->make_many_gemm());
  FATHOM_RETURN_IF_ERROR(ops->make_schedule());
  FATHOM_ASSIGN(const Tensor arrivals, ops->reserve(DType::kI32, {kernels::kMoeArrivalWords}));
  ops->moe_arrivals_ = arrivals.as<int32_t>();
  FATHOM_ASSIGN(const Tensor exchange, ops->reserve(DType::kI32, {kernels::kGqaFewWords}));
  ops->gqa_exchange_ = exchange.as<uint32_t>();
  FATHOM_ASSIGN(
      const Tensor measured,
      ops->reserve(DType::kF32,
                   {kernels::kSampleMeasuredRowsMax * kernels::kSampleMeasuredWords}));
  ops->sample_measured_ = measured.as<float>();
  FATHOM_ASSIGN(const Tensor posts, ops->reserve(DType::kI32, {2 * kernels::kMoePostWords}));
  ops->moe_posts_ = posts.as<uint32_t>();
  FATHOM_RETURN_IF_ERROR(ops->make_open_sum());
  FATHOM_ASSIGN(const Tensor turns, ops->reserve(DType::kI32, {kTurns}));
  ops->turns_ = turns.as<uint32_t>();
  for (int i = 0; i < kStagings; ++i) {
    Staging staging;
    staging.capacity = kStagingBytes;
    void* host = nullptr;
    FATHOM_RETURN_IF_ERROR(cuda_status(cudaMallocHost(&host, kStagingBytes), "pinned staging"));
    ops->pinned_memory_.push_back(host);
    FATHOM_ASSIGN(Tensor device, ops->reserve(DType::kU8, {static_cast<int64_t>(kStagingBytes)}));
    staging.host = static_cast<std::byte*>(host);
    staging.device = device.as<std::byte>();
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
  for (MlaStepSchedule* schedule : {&decode_schedule_, &prefill_schedule_}) {
    FATHOM_ASSIGN(const Tensor parts,
                  reserve(DType::kU8, {kernels::kMlaPartsMax * sizeof(kernels::MlaPart)}));
    FATHOM_ASSIGN(const Tensor cuts,
                  reserve(DType::kU8, {kernels::kMlaRowsMax * sizeof(kernels::MlaCut)}));
    schedule->arrays = {parts.as<kernels::MlaPart>(), cuts.as<kernels::MlaCut>()};
  }
  return Status::ok();
}

CudaOps::CudaOps(const CudaOpsOptions& options)
    : numerics_(options.numerics),
      host_readable_(options.host_readable),
      deterministic_(options.deterministic),
      with_library_(options.library) {}

CudaOps::~CudaOps() {
  uploading_.reset();            // it writes to what is freed here
  if (is_lost(health_)) return;  // nothing can be given back but by the process's end
  if (stream_ != nullptr) cudaStreamSynchronize(stream_);
  for (auto& [key, graph] : graphs_) cudaGraphExecDestroy(graph);
  for (cudaEvent_t event : marks_) cudaEventDestroy(event);
  for (void* p : device_memory_) cudaFree(p);
  for (void* p : pinned_memory_) cudaFreeHost(p);
  lane_.close();
  if (stream_ != nullptr) cudaStreamDestroy(stream_);
}

// Values go to the device as the checkpoint has them, part below part; only float16, which becomes
// float32, passes through the CPU's memory.
Result<Weight> CudaOps::prepare_linear(const std::vector<HostWeight>& parts) {
  FATHOM_ASSIGN(Weight weight, weight_layout(parts));
  FATHOM_ASSIGN(weight.values.data, allocate(weight.values.bytes()));
  auto* to = weight.values.as<std::byte>();
  for (const HostWeight& part : parts) {
    FATHOM_ASSIGN(const HostWeight stored, stored_as(part, weight.values.dtype));
    FATHOM_RETURN_IF_ERROR(copy_rows(stored, to));
    to += stored.values.view.bytes();
  }
  if (weight.format == WeightFormat::kFp8Block) {
    const HostTensor scales =
        host_tensor(DType::kF32, {weight.scales.shape[0], weight.scales.shape[1]});
    const HostTensor scale_rows = host_tensor(DType::kI32, {weight.out()});
    weight.scales.data = scales.view.data;
    weight.scale_rows.data = scale_rows.view.data;
    copy_scales(parts, weight);
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
  FATHOM_ASSIGN(const HostWeight stored, in_memory(kv_b));
  FATHOM_ASSIGN(MlaUpProjection up, host->prepare_kv_b(stored, heads, nope_dims, value_dims));
  FATHOM_ASSIGN(up.key, upload_across(up.key));
  FATHOM_ASSIGN(up.value, upload(up.value));
  return up;
}

Result<Tensor> CudaOps::place(const HostTensor& tensor, DType as) {
  const std::unique_ptr<Ops> host = make_host(numerics_);
  FATHOM_ASSIGN(const Tensor placed, host->place(tensor, as));
  return upload(placed);
}

Result<Tensor> CudaOps::place_table(const HostWeight& table, DType as) {
  FATHOM_ASSIGN(const HostWeight stored, stored_as(table, as));
  Tensor placed = Tensor::of(nullptr, as, {table.values.view.shape[0], table.values.view.shape[1]});
  FATHOM_ASSIGN(placed.data, allocate(placed.bytes()));
  FATHOM_RETURN_IF_ERROR(copy_rows(stored, placed.as<std::byte>()));
  return placed;
}

ActSpec CudaOps::act_spec(const Weight& weight) const {
  return act_spec_of(weight, numerics_);
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
