// One GPU under the op benchmark: calls are captured into one graph and timed by events around its
// replays.
#include <cuda_runtime_api.h>

#include "bandwidth.h"
#include "device.h"
#include "ops/cuda/cuda_ops.h"

namespace fathom::bench {
namespace {

constexpr int32_t kWarmUps = 3;

void copy_from_device(const Tensor& from, void* to) {
  const auto size = static_cast<size_t>(dtype_bytes(from.dtype));
  const auto columns = static_cast<size_t>(from.shape[from.rank - 1]);
  const size_t rows = static_cast<size_t>(from.elements()) / columns;
  const size_t stride = from.rank < 2 ? columns : static_cast<size_t>(from.stride[from.rank - 2]);
  const cudaError_t error = cudaMemcpy2D(to, columns * size, from.data, stride * size,
                                         columns * size, rows, cudaMemcpyDefault);
  FATHOM_CHECK(error == cudaSuccess, cudaGetErrorString(error));
}

class EventPair {
 public:
  EventPair() {
    for (cudaEvent_t& event : events_) {
      FATHOM_CHECK(cudaEventCreate(&event) == cudaSuccess, "no CUDA event");
    }
  }
  ~EventPair() {
    for (cudaEvent_t event : events_) cudaEventDestroy(event);
  }
  EventPair(const EventPair&) = delete;
  EventPair& operator=(const EventPair&) = delete;

  // Microseconds that what `launch` puts on the stream takes there.
  Result<double> time(cudaStream_t stream, const std::function<void()>& launch) {
    FATHOM_RETURN_IF_ERROR(cuda_status(cudaEventRecord(events_[0], stream), "event"));
    launch();
    FATHOM_RETURN_IF_ERROR(cuda_status(cudaEventRecord(events_[1], stream), "event"));
    FATHOM_RETURN_IF_ERROR(cuda_status(cudaEventSynchronize(events_[1]), "benchmark"));
    float ms = 0.0F;
    FATHOM_RETURN_IF_ERROR(cuda_status(cudaEventElapsedTime(&ms, events_[0], events_[1]), "event"));
    return 1e3 * static_cast<double>(ms);
  }
  Result<std::vector<double>> time_rounds(cudaStream_t stream, int32_t rounds,
                                          const std::function<void()>& launch) {
    std::vector<double> times;
    for (int32_t i = 0; i < kWarmUps + rounds; ++i) {
      FATHOM_ASSIGN(const double us, time(stream, launch));
      if (i >= kWarmUps) times.push_back(us);
    }
    return times;
  }

 private:
  cudaEvent_t events_[2] = {};
};

class CudaDevice final : public Device {
 public:
  explicit CudaDevice(std::string name) : name_(std::move(name)) {}

  std::string name() const override { return name_; }

  Result<Bandwidth> measure_bandwidth() override {
    constexpr int64_t kBytes = int64_t{4} << 30;
    FATHOM_ASSIGN(const auto ops, CudaOps::make({Numerics::kNative, 1 << 20}));
    FATHOM_ASSIGN(const Tensor from, ops->reserve(DType::kU8, {kBytes}));
    FATHOM_ASSIGN(const Tensor to, ops->reserve(DType::kU8, {kBytes}));
    FATHOM_ASSIGN(const Tensor sink, ops->reserve(DType::kU32, {1}));
    cudaStream_t stream = ops->stream();
    fill_random(stream, from.data, kBytes, 1);
    EventPair events;
    FATHOM_ASSIGN(const auto read, events.time_rounds(stream, 20, [&] {
      read_all(stream, from.data, kBytes, sink.as<uint32_t>());
    }));
    FATHOM_ASSIGN(const auto copy, events.time_rounds(stream, 20, [&] {
      copy_all(stream, from.data, to.data, kBytes);
    }));
    FATHOM_RETURN_IF_ERROR(cuda_status(cudaGetLastError(), "bandwidth"));
    constexpr auto kCounted = static_cast<double>(kBytes);
    return Bandwidth{kCounted / median(read) * 1e6, 2 * kCounted / median(copy) * 1e6};
  }

  Result<std::unique_ptr<Ops>> make_ops(Numerics numerics, int64_t arena_bytes) override {
    // CountOps counted the CPU's workspace.
    constexpr int64_t kMoreBytes = int64_t{256} << 20;
    FATHOM_ASSIGN(std::unique_ptr<CudaOps> ops,
                  CudaOps::make({numerics, 3 * arena_bytes + kMoreBytes}));
    return std::unique_ptr<Ops>(std::move(ops));
  }

  Result<std::vector<double>> time_rounds(Ops& ops, const std::function<void()>& body,
                                          int32_t rounds) override {
    const StepShape shape{.rows = 1, .decode_rows = 1, .tokens = 1, .query_tokens_max = 1};
    Status status = ops.capture(shape, 0, [&] {
      body();
      return ops.health();
    });
    FATHOM_RETURN_IF_ERROR(status);
    EventPair events;
    auto times = events.time_rounds(static_cast<CudaOps&>(ops).stream(), rounds, [&] {
      status = ops.run_step(shape, 0, [] { return internal_error("nothing was captured"); });
    });
    FATHOM_RETURN_IF_ERROR(status);
    return times;
  }

  testing::CopyToHost copy_to_host() const override { return copy_from_device; }

 private:
  std::string name_;
};

}  // namespace

Result<std::unique_ptr<Device>> make_cuda_device() {
  FATHOM_ASSIGN(std::string name, open_device());
  return std::unique_ptr<Device>(std::make_unique<CudaDevice>(std::move(name)));
}

}  // namespace fathom::bench
