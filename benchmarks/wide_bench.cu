// Wide products on one GPU: microseconds in a captured chain of calls, weights rotated, with the
// results checked against the plain kernel in the same run. Prints one JSON object a line.
//   wide_bench [--quick] [CASE ...]
// CASE: format (b or f),n,k,m,gated (0 or 1)[,columns,parts,split,stages]; without the last four,
// the chooser's. --quick, for a sanitizer: two copies of W and two calls.
#include <cmath>
#include <cstring>

#include "gemm/gemm_data.cuh"
#include "kernels/dense.h"
#include "kernels/gated.h"
#include "kernels/wide_gemm.h"
#include "ops/cuda/choose_wide.h"

namespace fathom {
namespace {

using namespace bench;

constexpr int64_t kWeightBytes = int64_t{1} << 30;
constexpr int64_t kRowsMax = 256;
constexpr int64_t kInMax = 16384;
constexpr int64_t kOutMax = 36864;
constexpr int64_t kRotatedBytes = int64_t{420} << 20;

struct Case {
  Format format = Format::kBF16;
  int64_t out = 0;
  int64_t in = 0;
  int64_t rows = 0;
  bool gated = false;
  kernels::WidePlan plan;
  int64_t size() const { return format == Format::kFp8 ? 1 : 2; }
};

struct Bench {
  cudaStream_t stream = nullptr;
  int sms = 0;
  uint8_t* weights = nullptr;
  uint8_t* x = nullptr;
  float* y = nullptr;
  float* reference = nullptr;
  float* gated = nullptr;
  float* scales = nullptr;
  int32_t* scale_rows = nullptr;
  float* x_scales = nullptr;
  double* sums = nullptr;
  bool quick = false;
};

void set_up(Bench& b) {
  require(cudaSetDevice(0), "device");
  require(cudaDeviceGetAttribute(&b.sms, cudaDevAttrMultiProcessorCount, 0), "device");
  require(cudaStreamCreateWithFlags(&b.stream, cudaStreamNonBlocking), "stream");
  require(kernels::load_wide_gemm(), "load");
  b.weights = device_array<uint8_t>(kWeightBytes);
  b.x = device_array<uint8_t>(kRowsMax * kInMax * 2);
  b.y = device_array<float>(kRowsMax * kOutMax);
  b.reference = device_array<float>(kRowsMax * kOutMax);
  b.gated = device_array<float>(kRowsMax * kOutMax);
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
    w.scale_stride = (c.in + 127) / 128;
  }
  return w;
}

kernels::Rows activations(const Bench& b, const Case& c) {
  kernels::Rows x{b.x, c.format, c.in, nullptr, 0};
  if (c.format == Format::kFp8) {
    x.scale_stride = (c.in + 127) / 128;
    x.scales = b.x_scales;
  }
  return x;
}

kernels::WidePlan chosen(const Case& c) {
  GemmProblem p;
  p.rows = c.rows;
  p.out = c.out;
  p.in = c.in;
  p.gated = c.gated;
  p.weight = c.format == Format::kFp8 ? WeightFormat::kFp8Block : WeightFormat::kBF16;
  const std::optional<WideChoice> choice = choose_wide(p);
  return choice ? choice->plan : kernels::WidePlan{};
}

void run(Bench& b, const Case& c, int64_t copy, const kernels::Rows& y) {
  require(kernels::wide_gemm(b.stream, activations(b, c), c.rows, matrix(b, c, copy), y,
                             c.gated ? Format::kBF16 : y.format, c.gated, c.plan),
          "wide_gemm");
}

// Relative to the plain kernel's mean square, the worse of two runs.
double error_of(Bench& b, const Case& c) {
  const int64_t width = c.gated ? c.out / 2 : c.out;
  const int64_t n = c.rows * width;
  kernels::linear(b.stream, activations(b, c), c.rows, matrix(b, c, 0),
                  kernels::Rows{b.reference, Format::kF32, c.out, nullptr, 0},
                  c.gated ? Format::kBF16 : Format::kF32);
  float* reference = b.reference;
  if (c.gated) {
    kernels::Epilogue to;
    to.data = b.gated;
    to.stride = width;
    require(
        kernels::gate_rows(b.stream, kernels::Rows{b.reference, Format::kF32, c.out, nullptr, 0},
                           c.rows, width, to),
        "gate");
    reference = b.gated;
  }
  double worst = 0.0;
  for (int repeat = 0; repeat < 2; ++repeat) {
    require(cudaMemsetAsync(b.y, 0xFF, static_cast<size_t>(n) * 4, b.stream), "poison");
    run(b, c, 0, kernels::Rows{b.y, Format::kF32, width, nullptr, 0});
    difference_kernel<<<1, 1024, 0, b.stream>>>(b.y, reference, n, b.sums);
    double sums[2] = {};
    require(cudaMemcpyAsync(sums, b.sums, sizeof sums, cudaMemcpyDeviceToHost, b.stream), "sums");
    require(cudaStreamSynchronize(b.stream), "difference");
    const double error = std::sqrt(sums[0] / sums[1]);
    if (!(error <= worst)) worst = error;
  }
  return worst;
}

double time_of(Bench& b, const Case& c, int64_t copies, int64_t calls) {
  const int64_t width = c.gated ? c.out / 2 : c.out;
  const kernels::Rows y{b.y, Format::kBF16, width, nullptr, 0};
  cudaGraph_t graph = nullptr;
  cudaGraphExec_t exec = nullptr;
  require(cudaStreamBeginCapture(b.stream, cudaStreamCaptureModeThreadLocal), "capture");
  for (int64_t i = 0; i < calls; ++i) run(b, c, i % copies, y);
  require(cudaStreamEndCapture(b.stream, &graph), "capture");
  require(cudaGraphInstantiate(&exec, graph, 0), "graph");
  const double us = median_us(b.stream, b.quick ? 1 : 20, [&] { cudaGraphLaunch(exec, b.stream); });
  cudaGraphExecDestroy(exec);
  cudaGraphDestroy(graph);
  return us / static_cast<double>(calls);
}

void measure(Bench& b, const Case& c) {
  const int64_t bytes = c.out * c.in * c.size();
  const int64_t room = std::min(kWeightBytes / bytes, (kRotatedBytes + bytes - 1) / bytes);
  const int64_t copies = b.quick ? 2 : std::max<int64_t>(1, room);
  const int64_t calls = b.quick ? 2 : std::max<int64_t>(copies, bytes > 100000000 ? 16 : 64);
  const auto grid = static_cast<unsigned>(b.sms * 8);
  fill_kernel<<<grid, 256, 0, b.stream>>>(b.weights, c.format, copies * c.out * c.in, 3, 1.0F);
  fill_kernel<<<grid, 256, 0, b.stream>>>(b.x, c.format, c.rows * c.in, 5, 0.05F);
  const double error = error_of(b, c);
  const double us = time_of(b, c, copies, calls);
  std::printf(
      "{\"format\": \"%s\", \"n\": %lld, \"k\": %lld, \"m\": %lld, \"gated\": %s, \"us\": %.2f, "
      "\"tb_s\": %.3f, \"columns\": %d, \"parts\": %d, \"split\": %d, \"stages\": %d, "
      "\"error_plain\": %.2e}\n",
      c.format == Format::kFp8 ? "fp8" : "bf16", static_cast<long long>(c.out),
      static_cast<long long>(c.in), static_cast<long long>(c.rows), c.gated ? "true" : "false", us,
      1e-6 * static_cast<double>(bytes) / us, c.plan.columns, c.plan.parts, c.plan.split,
      c.plan.stages, error);
  std::fflush(stdout);
}

}  // namespace
}  // namespace fathom

int main(int argc, char** argv) {
  fathom::Bench b;
  fathom::set_up(b);
  for (int i = 1; i < argc; ++i) {
    if (std::strcmp(argv[i], "--quick") == 0) {
      b.quick = true;
      continue;
    }
    fathom::Case c;
    char format = 0;
    int gated = 0;
    long long out = 0;
    long long in = 0;
    long long rows = 0;
    const int got =
        std::sscanf(argv[i], "%c,%lld,%lld,%lld,%d,%d,%d,%d,%d", &format, &out, &in, &rows, &gated,
                    &c.plan.columns, &c.plan.parts, &c.plan.split, &c.plan.stages);
    if (got != 5 && got != 9) {
      std::fprintf(stderr, "no case: %s\n", argv[i]);
      return 1;
    }
    c.format = format == 'f' ? fathom::kernels::Format::kFp8 : fathom::kernels::Format::kBF16;
    c.out = out;
    c.in = in;
    c.rows = rows;
    c.gated = gated != 0;
    if (got == 5) c.plan = fathom::chosen(c);
    fathom::measure(b, c);
  }
  return 0;
}
