// Products of more rows than the skinny kernel takes in one pass: cuBLASLt against passes of that
// kernel, TFLOPS, and both results against the plain kernel. Prints one JSON object a line.
#include <cmath>
#include <cstring>

#include "gemm/gemm_data.cuh"
#include "kernels/dense.h"
#include "kernels/scales.h"
#include "kernels/skinny_gemm.h"
#include "ops/cuda/large_gemm.h"

namespace fathom {
namespace {

using namespace bench;

constexpr int64_t kWeightBytes = int64_t{1} << 30;
constexpr int64_t kWorkspaceBytes = int64_t{32} << 20;
constexpr int64_t kRowsMax = 4096;
constexpr int64_t kInMax = 16384;
constexpr int64_t kOutMax = 28672;
constexpr int64_t kCheckedRows = 128;

struct Case {
  int64_t out;
  int64_t in;
  Format format;
  int64_t size() const { return format == Format::kFp8 ? 1 : 2; }
};

struct Bench {
  cudaStream_t stream = nullptr;
  int sms = 0;
  std::unique_ptr<LargeGemm> large;
  LargeMemory workspace;
  uint8_t* weights = nullptr;
  uint8_t* x = nullptr;
  uint16_t* y = nullptr;
  float* checked = nullptr;
  float* reference = nullptr;
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
  require(kernels::load_skinny_gemm(), "load");
  b.workspace = {device_array<uint8_t>(kWorkspaceBytes), static_cast<size_t>(kWorkspaceBytes)};
  b.large = LargeGemm::make(b.workspace);
  if (b.large == nullptr) {
    std::fprintf(stderr, "libcublasLt.so.13 was not found\n");
    std::exit(1);
  }
  b.weights = device_array<uint8_t>(kWeightBytes);
  b.x = device_array<uint8_t>(kRowsMax * kInMax * 2);
  b.y = device_array<uint16_t>(kRowsMax * kOutMax);
  b.checked = device_array<float>(kCheckedRows * kOutMax);
  b.reference = device_array<float>(kCheckedRows * kOutMax);
  b.transposed = device_array<float>(ScaleData::kCount);
  b.sums = device_array<double>(2);
  const ScaleData scales = make_scales(b.stream);
  b.scales = scales.weights;
  b.x_scales = scales.rows;
  b.scale_rows = scales.places;
}

kernels::Matrix matrix(const Bench& b, const Case& c, int64_t copy) {
  kernels::Matrix w;
  w.data = b.weights + copy * c.out * c.in * c.size();
  w.format = c.format;
  w.out = c.out;
  w.in = c.in;
  w.stride = c.in;
  if (c.format == Format::kFp8) {
    w.scales = b.scales;
    w.scale_rows = b.scale_rows;
    w.scale_stride = c.in / 128;
  }
  return w;
}

kernels::Rows activations(const Bench& b, const Case& c, int64_t first) {
  kernels::Rows x{b.x + first * c.in * c.size(), c.format, c.in, nullptr, 0};
  if (c.format == Format::kFp8) {
    x.scale_stride = c.in / 128;
    x.scales = b.x_scales + first * x.scale_stride;
  }
  return x;
}

GemmProblem problem(const Bench& b, const Case& c, int64_t rows) {
  GemmProblem p;
  p.rows = rows;
  p.out = c.out;
  p.in = c.in;
  p.weight = c.format == Format::kFp8 ? WeightFormat::kFp8Block : WeightFormat::kBF16;
  p.act = c.format == Format::kFp8 ? ActFormat::kFp8Block : ActFormat::kBF16;
  p.library = true;
  p.sms = b.sms;
  return p;
}

void run_skinny(Bench& b, const Case& c, int64_t rows, int64_t copy, kernels::Rows y) {
  auto* to = static_cast<std::byte*>(y.data);
  const int64_t size = y.format == Format::kF32 ? 4 : 2;
  for (int64_t first = 0; first < rows; first += kernels::kSkinnyTokensMax) {
    const int64_t count = std::min<int64_t>(rows - first, kernels::kSkinnyTokensMax);
    y.data = to + first * y.stride * size;
    require(kernels::skinny_gemm(b.stream, activations(b, c, first), count, matrix(b, c, copy), y,
                                 y.format, choose_gemm(problem(b, c, count)).skinny),
            "skinny_gemm");
  }
}

void run_library(Bench& b, const Case& c, int64_t rows, int64_t copy, const kernels::Rows& y) {
  const kernels::Rows x = activations(b, c, 0);
  if (c.format == Format::kFp8) {
    require(kernels::transpose_scales(b.stream, x.scales, x.scale_stride, rows, c.in / 128,
                                      b.transposed),
            "scales");
  }
  if (!b.large->run(b.stream, x, rows, b.transposed, matrix(b, c, copy), y)) {
    std::fprintf(stderr, "cuBLASLt refused\n");
  }
}

// Of the first rows, against the plain kernel.
template <typename Run>
double error_of(Bench& b, const Case& c, const Run& run) {
  const int64_t n = kCheckedRows * c.out;
  require(cudaMemsetAsync(b.checked, 0xFF, static_cast<size_t>(n) * 4, b.stream), "poison");
  run(b, c, kCheckedRows, 0, kernels::Rows{b.checked, Format::kF32, c.out, nullptr, 0});
  difference_kernel<<<1, 1024, 0, b.stream>>>(b.checked, b.reference, n, b.sums);
  double sums[2] = {};
  require(cudaMemcpyAsync(sums, b.sums, sizeof sums, cudaMemcpyDeviceToHost, b.stream), "sums");
  require(cudaStreamSynchronize(b.stream), "difference");
  return std::sqrt(sums[0] / sums[1]);
}

template <typename Run>
double time_of(Bench& b, const Case& c, int64_t rows, int64_t copies, const Run& run) {
  const int64_t calls = std::max<int64_t>(copies, rows >= 1024 ? 4 : 16);
  const kernels::Rows y{b.y, Format::kBF16, c.out, nullptr, 0};
  cudaGraph_t graph = nullptr;
  cudaGraphExec_t exec = nullptr;
  require(cudaStreamBeginCapture(b.stream, cudaStreamCaptureModeThreadLocal), "capture");
  for (int64_t i = 0; i < calls; ++i) run(b, c, rows, i % copies, y);
  require(cudaStreamEndCapture(b.stream, &graph), "capture");
  require(cudaGraphInstantiate(&exec, graph, 0), "graph");
  const double us = median_us(b.stream, 20, [&] { cudaGraphLaunch(exec, b.stream); });
  cudaGraphExecDestroy(exec);
  cudaGraphDestroy(graph);
  return us / static_cast<double>(calls);
}

void measure(Bench& b, const Case& c) {
  const int64_t bytes = c.out * c.in * c.size();
  const int64_t copies = std::clamp<int64_t>((int64_t{200} << 20) / bytes, 2, 32);
  const auto grid = static_cast<unsigned>(b.sms * 8);
  fill_kernel<<<grid, 256, 0, b.stream>>>(b.weights, c.format, copies * c.out * c.in, 3, 1.0F);
  fill_kernel<<<grid, 256, 0, b.stream>>>(b.x, c.format, kRowsMax * c.in, 5, 1.0F);
  for (int64_t copy = 0; copy < copies; ++copy) {
    b.large->add(b.stream, matrix(b, c, copy), {{0, c.out, b.scales}}, b.workspace);
  }
  kernels::linear(b.stream, activations(b, c, 0), kCheckedRows, matrix(b, c, 0),
                  kernels::Rows{b.reference, Format::kF32, c.out, nullptr, 0}, Format::kF32);
  std::printf(
      "{\"format\": \"%s\", \"n\": %lld, \"k\": %lld, \"error_skinny\": %.2e, "
      "\"error_library\": %.2e",
      c.format == Format::kFp8 ? "fp8" : "bf16", static_cast<long long>(c.out),
      static_cast<long long>(c.in), error_of(b, c, run_skinny), error_of(b, c, run_library));
  for (const int64_t rows : {128, 192, 256, 320}) {
    const double skinny = time_of(b, c, rows, copies, run_skinny);
    const double library = time_of(b, c, rows, copies, run_library);
    std::printf(
        ", \"us_%lld\": [%.1f, %.1f, \"%s\"]", static_cast<long long>(rows), skinny, library,
        choose_gemm(problem(b, c, rows)).kernel == GemmKernel::kLibrary ? "library" : "skinny");
  }
  for (const int64_t rows : {512, 2048, 4096}) {
    const double us = time_of(b, c, rows, copies, run_library);
    const auto flops = 2.0 * static_cast<double>(rows * c.out) * static_cast<double>(c.in);
    std::printf(", \"us_%lld\": %.1f, \"tflops_%lld\": %.0f", static_cast<long long>(rows), us,
                static_cast<long long>(rows), flops / us * 1e-6);
  }
  std::printf("}\n");
  std::fflush(stdout);
}

void run_all(Bench& b) {
  const Case cases[] = {
      {7168, 16384, Format::kFp8},  {2112, 7168, Format::kFp8},   {4096, 4096, Format::kFp8},
      {7168, 2048, Format::kFp8},   {24576, 1536, Format::kFp8},  {28672, 4096, Format::kFp8},
      {3072, 2048, Format::kFp8},   {6144, 4096, Format::kBF16},  {4096, 4096, Format::kBF16},
      {28672, 4096, Format::kBF16}, {4096, 14336, Format::kBF16}, {3072, 2048, Format::kBF16}};
  for (const Case& c : cases) measure(b, c);
}

}  // namespace
}  // namespace fathom

int main() {
  fathom::Bench b;
  fathom::set_up(b);
  fathom::run_all(b);
  return 0;
}
