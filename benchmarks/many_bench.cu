// Products of many rows in e4m3, with the gate and without: the kernel of our own
// against cuBLASLt with what stands around it (transposed scales; the gate's kernel). Results are
// checked against the plain kernels in the same run. Prints one JSON object a line.
//   many_bench [--quick] [--rows N,N,...] [--gate-only] [--sanitize]
// --sanitize: small products alone, for sanitizers.
#include <cmath>
#include <cstring>
#include <string>

#include "gemm/gemm_data.cuh"
#include "kernels/dense.h"
#include "kernels/gated.h"
#include "kernels/many_gemm.h"
#include "kernels/scales.h"
#include "ops/cuda/large_gemm.h"

namespace fathom {
namespace {

using namespace bench;
using kernels::Epilogue;

constexpr int64_t kWorkspaceBytes = int64_t{32} << 20;
constexpr int64_t kWeightBytes = int64_t{256} << 20;
constexpr int64_t kRowsMax = 8192;
constexpr int64_t kInMax = 14336;
constexpr int64_t kOutMax = 28672;
constexpr int64_t kCheckedRows = 300;

struct Case {
  int64_t out;
  int64_t in;
  bool gated;
  int64_t width() const { return gated ? out / 2 : out; }
};

struct Bench {
  cudaStream_t stream = nullptr;
  int sms = 0;
  bool quick = false;
  bool gate_only = false;
  int rounds = 3;
  std::vector<int64_t> rows = {1000, 1024, 2048, 4096, 8192};
  std::unique_ptr<LargeGemm> large;
  LargeMemory workspace;
  uint8_t* weights = nullptr;
  uint8_t* x = nullptr;
  uint8_t* both = nullptr;  // bf16 [rows, out]
  uint8_t* y = nullptr;
  float* y_scales = nullptr;
  float* reference = nullptr;
  float* values = nullptr;
  float* scales = nullptr;
  int32_t* scale_rows = nullptr;
  float* x_scales = nullptr;
  float* transposed = nullptr;
  double* sums = nullptr;
};

void set_up(Bench& b) {
  require(cudaSetDevice(0), "device");
  require(cudaDeviceGetAttribute(&b.sms, cudaDevAttrMultiProcessorCount, 0), "device");
  require(cudaStreamCreateWithFlags(&b.stream, cudaStreamNonBlocking), "stream");
  require(kernels::load_many_gemm(), "load");
  b.workspace = {device_array<uint8_t>(kWorkspaceBytes), static_cast<size_t>(kWorkspaceBytes)};
  b.large = LargeGemm::make(b.workspace);
  if (b.large == nullptr) {
    std::fprintf(stderr, "libcublasLt.so.13 was not found\n");
    std::exit(1);
  }
  b.weights = device_array<uint8_t>(kWeightBytes);
  b.x = device_array<uint8_t>(kRowsMax * kInMax);
  b.both = device_array<uint8_t>(kRowsMax * kOutMax * 2);
  b.y = device_array<uint8_t>(kRowsMax * kInMax * 2);
  b.y_scales = device_array<float>(ScaleData::kCount);
  b.reference = device_array<float>(kCheckedRows * kOutMax);
  b.values = device_array<float>(kCheckedRows * kOutMax);
  b.transposed = device_array<float>(ScaleData::kCount);
  b.sums = device_array<double>(2);
  const ScaleData scales = make_scales(b.stream);
  b.scales = scales.weights;
  b.x_scales = scales.rows;
  b.scale_rows = scales.places;
}

kernels::Matrix matrix(const Bench& b, const Case& c, int64_t copy) {
  kernels::Matrix w;
  w.data = b.weights + copy * c.out * c.in;
  w.format = Format::kFp8;
  w.out = c.out;
  w.in = c.in;
  w.stride = c.in;
  w.scales = b.scales;
  w.scale_rows = b.scale_rows;
  w.scale_stride = c.in / 128;
  return w;
}

kernels::Rows activations(const Bench& b, const Case& c) {
  return {b.x, Format::kFp8, c.in, b.x_scales, c.in / 128};
}

Epilogue output(const Bench& b, const Case& c) {
  Epilogue out;
  out.data = b.y;
  out.format = c.gated ? Format::kFp8 : Format::kBF16;
  out.stride = c.width();
  if (c.gated) {
    out.scales = b.y_scales;
    out.scale_stride = c.width() / 128;
  }
  return out;
}

void run_library(Bench& b, const Case& c, int64_t rows, int64_t copy) {
  const kernels::Rows x = activations(b, c);
  require(
      kernels::transpose_scales(b.stream, x.scales, x.scale_stride, rows, c.in / 128, b.transposed),
      "scales");
  const kernels::Rows to{c.gated ? b.both : b.y, Format::kBF16, c.out, nullptr, 0};
  if (!b.large->run(b.stream, x, rows, b.transposed, matrix(b, c, copy), to)) {
    std::fprintf(stderr, "cuBLASLt refused\n");
  }
  if (c.gated) require(kernels::gate_rows(b.stream, to, rows, c.width(), output(b, c)), "gate");
}

void run_many(Bench& b, const Case& c, int64_t rows, int64_t copy) {
  kernels::ManyCall call;
  call.x = activations(b, c);
  call.rows = rows;
  call.w = matrix(b, c, copy);
  call.gated = c.gated;
  call.out = output(b, c);
  require(kernels::many_gemm(b.stream, call, b.sms), "many_gemm");
}

__global__ void values_kernel(const uint8_t* y, const float* scales, int64_t n, int64_t columns,
                              bool codes, float* out) {
  const int64_t i = int64_t{blockIdx.x} * blockDim.x + threadIdx.x;
  if (i >= n) return;
  if (!codes) {
    out[i] = kernels::load_number(y, Format::kBF16, i);
    return;
  }
  out[i] = kernels::load_number(y, Format::kFp8, i) *
           scales[i / columns * (columns / 128) + i % columns / 128];
}

// Against `reference`, of `count` rows from the first.
double error_of(Bench& b, const Case& c, int64_t count) {
  const int64_t n = count * c.width();
  values_kernel<<<static_cast<unsigned>(n / 256 + 1), 256, 0, b.stream>>>(
      b.y, b.y_scales, n, c.width(), c.gated, b.values);
  difference_kernel<<<1, 1024, 0, b.stream>>>(b.values, b.reference, n, b.sums);
  double sums[2] = {};
  require(cudaMemcpyAsync(sums, b.sums, sizeof sums, cudaMemcpyDeviceToHost, b.stream), "sums");
  require(cudaStreamSynchronize(b.stream), "difference");
  return std::sqrt(sums[0] / sums[1]);
}

void poison(Bench& b) {
  require(cudaMemsetAsync(b.y, 0xFF, static_cast<size_t>(kRowsMax * kInMax * 2), b.stream), "m");
  require(cudaMemsetAsync(b.y_scales, 0xFF, size_t{4} << 20, b.stream), "m");
}

// Whether the row after the last is as it was.
bool stays_inside(Bench& b, const Case& c, int64_t rows) {
  const int64_t row_bytes = c.width() * (c.gated ? 1 : 2);
  std::vector<uint8_t> after(static_cast<size_t>(row_bytes));
  require(cudaMemcpy(after.data(), b.y + rows * row_bytes, after.size(), cudaMemcpyDeviceToHost),
          "after");
  return std::all_of(after.begin(), after.end(), [](uint8_t byte) { return byte == 0xFF; });
}

// The plain kernels' results in float32 of the first rows: not quantized.
void make_reference(Bench& b, const Case& c) {
  auto* sums = reinterpret_cast<float*>(b.both);
  const kernels::Rows to{c.gated ? sums : b.reference, Format::kF32, c.out, nullptr, 0};
  kernels::linear(b.stream, activations(b, c), kCheckedRows, matrix(b, c, 0), to, Format::kBF16);
  if (c.gated) kernels::gate(b.stream, sums, kCheckedRows, c.width(), b.reference);
}

template <typename Run>
double time_of(Bench& b, int64_t copies, const Run& run) {
  const int calls = 4;
  cudaGraph_t graph = nullptr;
  cudaGraphExec_t exec = nullptr;
  require(cudaStreamBeginCapture(b.stream, cudaStreamCaptureModeThreadLocal), "capture");
  for (int64_t i = 0; i < calls; ++i) run(i % copies);
  require(cudaStreamEndCapture(b.stream, &graph), "capture");
  require(cudaGraphInstantiate(&exec, graph, 0), "graph");
  const double us = median_us(b.stream, b.quick ? 3 : 12, [&] { cudaGraphLaunch(exec, b.stream); });
  cudaGraphExecDestroy(exec);
  cudaGraphDestroy(graph);
  return us / calls;
}

void measure(Bench& b, const Case& c) {
  const int64_t copies = 2;
  const auto grid = static_cast<unsigned>(b.sms * 8);
  fill_kernel<<<grid, 256, 0, b.stream>>>(b.weights, Format::kFp8, copies * c.out * c.in, 3, 1.0F);
  fill_kernel<<<grid, 256, 0, b.stream>>>(b.x, Format::kFp8, kRowsMax * c.in, 5, 1.0F);
  for (int64_t copy = 0; copy < copies; ++copy)
    b.large->add(b.stream, matrix(b, c, copy), {{0, c.out, b.scales}}, b.workspace);
  make_reference(b, c);
  for (const int64_t rows : b.rows) {
    run_library(b, c, rows, 0);
    const double library_error = error_of(b, c, kCheckedRows);
    poison(b);
    run_many(b, c, rows, 0);
    const double error = error_of(b, c, kCheckedRows);
    const bool inside = rows == kRowsMax || stays_inside(b, c, rows);
    // In rounds, so that a clock that falls meets both.
    double us[2] = {};
    for (int round = 0; round < b.rounds; ++round) {
      us[0] += time_of(b, copies, [&](int64_t i) { run_library(b, c, rows, i); }) / b.rounds;
      us[1] += time_of(b, copies, [&](int64_t i) { run_many(b, c, rows, i); }) / b.rounds;
    }
    const auto flops = 2.0 * static_cast<double>(rows * c.out) * static_cast<double>(c.in);
    std::printf(
        "{\"n\": %lld, \"k\": %lld, \"gated\": %s, \"m\": %lld, \"us_library\": %.1f, "
        "\"tflops_library\": %.0f, \"us\": %.1f, \"tflops\": %.0f, \"error_library\": %.2e, "
        "\"error\": %.2e, \"stays_inside\": %s}\n",
        static_cast<long long>(c.out), static_cast<long long>(c.in), c.gated ? "true" : "false",
        static_cast<long long>(rows), us[0], us[0] > 0 ? flops / us[0] * 1e-6 : 0.0, us[1],
        us[1] > 0 ? flops / us[1] * 1e-6 : 0.0, library_error, error, inside ? "true" : "false");
    std::fflush(stdout);
  }
}

}  // namespace
}  // namespace fathom

int main(int argc, char** argv) {
  fathom::Bench b;
  bool small = false;
  for (int i = 1; i < argc; ++i) {
    const std::string word = argv[i];
    if (word == "--quick") b.quick = true;
    if (word == "--gate-only") b.gate_only = true;
    if (word == "--sanitize") small = true;
    if (word == "--rows" && i + 1 < argc) {
      b.rows.clear();
      for (const char* at = argv[++i]; at != nullptr; at = std::strchr(at, ',')) {
        if (*at == ',') ++at;
        b.rows.push_back(std::atoll(at));
      }
    }
  }
  fathom::set_up(b);
  if (small) {
    b.rows = {300};
    b.rounds = 0;
    fathom::measure(b, {768, 1024, true});
    fathom::measure(b, {640, 1024, false});
    return 0;
  }
  fathom::measure(b, {28672, 4096, true});
  if (b.gate_only) return 0;
  fathom::measure(b, {4096, 14336, false});
  fathom::measure(b, {6144, 4096, false});
  fathom::measure(b, {4096, 4096, false});
  return 0;
}
