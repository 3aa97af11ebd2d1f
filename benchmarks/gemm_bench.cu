// Skinny products on one GPU: weights' bandwidth in a captured chain of calls, against the measured
// bandwidth of the memory, with the results checked in the same run. Prints one JSON object a line.
//   gemm_bench [--calls N] [--overlap 0|1] [--overlap-next 0|1] [--rows 64|128] [--split N]
//              [--stages N] [--shared BYTES] [--quick] [--models] [--m ROWS] [--n OUT] [--fp8]
#include <cuda_runtime_api.h>

#include <algorithm>
#include <cmath>
#include <cstddef>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <vector>

#include "gemm/gemm_data.cuh"
#include "kernels/dense.h"
#include "kernels/skinny_gemm.h"
#include "ops/cuda/choose_gemm.h"

namespace fathom {
namespace {

using namespace bench;

// ---- Bandwidth.

__global__ void read_kernel(const uint4* p, int64_t n, uint32_t* out) {
  uint32_t folded = 0;
  const int64_t step = int64_t{gridDim.x} * blockDim.x;
  int64_t i = int64_t{blockIdx.x} * blockDim.x + threadIdx.x;
  for (; i + 7 * step < n; i += 8 * step) {
    uint4 v[8];
#pragma unroll
    for (int j = 0; j < 8; ++j) v[j] = __ldcs(p + i + j * step);
#pragma unroll
    for (int j = 0; j < 8; ++j) folded ^= v[j].x ^ v[j].y ^ v[j].z ^ v[j].w;
  }
  for (; i < n; i += step) folded ^= p[i].x;
  if (folded == 0x12345678U) *out = folded;
}

__global__ void copy_kernel(const uint4* from, uint4* to, int64_t n) {
  const int64_t step = int64_t{gridDim.x} * blockDim.x;
  int64_t i = int64_t{blockIdx.x} * blockDim.x + threadIdx.x;
  for (; i + 3 * step < n; i += 4 * step) {
    uint4 v[4];
#pragma unroll
    for (int j = 0; j < 4; ++j) v[j] = __ldcs(from + i + j * step);
#pragma unroll
    for (int j = 0; j < 4; ++j) __stcs(to + i + j * step, v[j]);
  }
}

struct Bench {
  cudaStream_t stream = nullptr;
  uint8_t* weights = nullptr;  // kWeightBytes of room
  float* scales = nullptr;
  int32_t* scale_rows = nullptr;
  uint8_t* x = nullptr;
  float* x_scales = nullptr;
  float* y = nullptr;
  float* reference = nullptr;
  double* sums = nullptr;
  int sms = 0;
  double read_tb_s = 0.0;
  int calls_min = 64;
  int split = 0;   // 0: the chooser's
  int stages = 0;  // likewise
  int shared = 0;
  bool overlap = true;
  bool quick = false;
  bool models = false;
  int only_rows = 0;
  int only_out = 0;
  bool only_fp8 = false;
  int tile_rows = 0;      // 0: the chooser's
  int overlap_next = -1;  // -1: likewise
};

constexpr int64_t kWeightBytes = int64_t{3} << 30;
constexpr int64_t kScalesMax = 1 << 20;
constexpr int64_t kOutMax = 1 << 18;
constexpr int64_t kInMax = 1 << 15;
constexpr int64_t kRowsMax = 256;
constexpr int64_t kRotatedBytes = int64_t{420} << 20;

void set_up(Bench& b) {
  require(cudaSetDevice(0), "device");
  cudaDeviceProp properties{};
  require(cudaGetDeviceProperties(&properties, 0), "device");
  b.sms = properties.multiProcessorCount;
  require(cudaStreamCreateWithFlags(&b.stream, cudaStreamNonBlocking), "stream");
  require(kernels::load_skinny_gemm(), "load");
  b.weights = device_array<uint8_t>(kWeightBytes);
  b.scales = device_array<float>(kScalesMax);
  b.scale_rows = device_array<int32_t>(kOutMax);
  b.x = device_array<uint8_t>(kRowsMax * kInMax * 2);
  b.x_scales = device_array<float>(kRowsMax * kInMax / 128);
  b.y = device_array<float>(kRowsMax * kOutMax);
  b.reference = device_array<float>(kRowsMax * kOutMax);
  b.sums = device_array<double>(2);
  fill_scales_kernel<<<kScalesMax / 256, 256, 0, b.stream>>>(b.scales, kScalesMax, 11);
  fill_scale_rows_kernel<<<kOutMax / 256, 256, 0, b.stream>>>(b.scale_rows, kOutMax);
  fill_scales_kernel<<<kRowsMax * kInMax / 128 / 256, 256, 0, b.stream>>>(
      b.x_scales, kRowsMax * kInMax / 128, 12);
  require(cudaStreamSynchronize(b.stream), "fill");
  std::printf("{\"device\": \"%s\", \"sms\": %d, \"l2_bytes\": %d}\n", properties.name, b.sms,
              properties.l2CacheSize);
}

void measure_bandwidth(Bench& b) {
  const int64_t bytes = int64_t{1} << 30;
  fill_kernel<<<b.sms * 8, 256, 0, b.stream>>>(b.weights, Format::kFp8, 2 * bytes, 1, 1.0F);
  auto* from = reinterpret_cast<uint4*>(b.weights);
  auto* to = reinterpret_cast<uint4*>(b.weights + bytes);
  auto* out = reinterpret_cast<uint32_t*>(b.sums);
  const int64_t n = bytes / 16;
  double best_read = 1e30;
  double best_copy = 1e30;
  for (const int blocks : {4, 8, 16}) {
    const auto grid = static_cast<unsigned>(b.sms * blocks);
    best_read = std::min(best_read, median_us(b.stream, 20, [&] {
                           read_kernel<<<grid, 256, 0, b.stream>>>(from, 2 * n, out);
                         }));
    best_copy = std::min(best_copy, median_us(b.stream, 20, [&] {
                           copy_kernel<<<grid, 256, 0, b.stream>>>(from, to, n);
                         }));
  }
  const double engine = median_us(b.stream, 20, [&] {
    cudaMemcpyAsync(to, from, static_cast<size_t>(bytes), cudaMemcpyDeviceToDevice, b.stream);
  });
  b.read_tb_s = 2e-6 * static_cast<double>(bytes) / best_read;
  std::printf("{\"read_tb_s\": %.3f, \"copy_tb_s\": %.3f, \"memcpy_tb_s\": %.3f}\n", b.read_tb_s,
              2e-6 * static_cast<double>(bytes) / best_copy,
              2e-6 * static_cast<double>(bytes) / engine);
}

// ---- Cases.

struct Case {
  int64_t out;
  int64_t in;
  Format format;
};

kernels::Matrix matrix(const Bench& b, const Case& c, int64_t copy) {
  kernels::Matrix w;
  const int64_t size = c.format == Format::kFp8 ? 1 : 2;
  w.data = b.weights + copy * c.out * c.in * size;
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
    x.scales = b.x_scales;
    x.scale_stride = (c.in + 127) / 128;
  }
  return x;
}

kernels::SkinnyPlan plan_of(const Bench& b, const Case& c, int64_t rows) {
  GemmProblem p;
  p.rows = rows;
  p.out = c.out;
  p.in = c.in;
  p.weight = c.format == Format::kFp8 ? WeightFormat::kFp8Block : WeightFormat::kBF16;
  p.act = c.format == Format::kFp8 ? ActFormat::kFp8Block : ActFormat::kBF16;
  p.sms = b.sms;
  kernels::SkinnyPlan plan = choose_gemm(p).skinny;
  if (b.tile_rows != 0) plan.tile_rows = b.tile_rows;
  if (b.split != 0) plan.split = b.split;
  const int room = b.shared != 0 ? b.shared : kernels::kSkinnySharedMax;
  const int most = b.stages != 0 ? b.stages : 16;
  plan.stages = 1;
  while (plan.stages < most && kernels::skinny_shared_bytes(plan, plan.stages + 1) <= room) {
    ++plan.stages;
  }
  plan.overlap = b.overlap;
  if (b.overlap_next >= 0) plan.overlap_next = b.overlap_next != 0;
  return plan;
}

void run(Bench& b, const Case& c, int64_t rows, int64_t copy, kernels::Rows out, Format round) {
  kernels::Rows x = activations(b, c);
  for (int64_t first = 0; first < rows;) {
    const kernels::SkinnyPlan plan = plan_of(b, c, rows - first);
    const int64_t count = std::min<int64_t>(rows - first, plan.token_tile * plan.token_blocks);
    require(kernels::skinny_gemm(b.stream, x, count, matrix(b, c, copy), out, round, plan),
            "skinny_gemm");
    first += count;
    x.data = static_cast<std::byte*>(x.data) + count * c.in * (c.format == Format::kFp8 ? 1 : 2);
    if (x.scales != nullptr) x.scales += count * x.scale_stride;
    out.data = static_cast<std::byte*>(out.data) +
               count * out.stride * (out.format == Format::kF32 ? 4 : 2);
  }
}

double relative_error(Bench& b, const float* a, const float* reference, int64_t n) {
  difference_kernel<<<1, 1024, 0, b.stream>>>(a, reference, n, b.sums);
  double sums[2] = {};
  require(cudaMemcpyAsync(sums, b.sums, sizeof sums, cudaMemcpyDeviceToHost, b.stream), "sums");
  require(cudaStreamSynchronize(b.stream), "difference");
  return std::sqrt(sums[0] / sums[1]);
}

float decode(const std::vector<uint8_t>& bytes, Format format, int64_t i) {
  if (format == Format::kFp8) {
    __nv_fp8_e4m3 code;
    code.__x = bytes[static_cast<size_t>(i)];
    return static_cast<float>(code);
  }
  uint32_t word = 0;
  std::memcpy(reinterpret_cast<uint8_t*>(&word) + 2, bytes.data() + 2 * i, 2);
  float value = 0.0F;
  std::memcpy(&value, &word, 4);
  return value;
}

// A sample of rows of W against every row of x, in double on the host.
double host_error(Bench& b, const Case& c, int64_t rows) {
  const int64_t size = c.format == Format::kFp8 ? 1 : 2;
  const int64_t blocks = (c.in + 127) / 128;
  std::vector<uint8_t> x(static_cast<size_t>(rows * c.in * size));
  std::vector<float> x_scales(static_cast<size_t>(rows * blocks));
  std::vector<float> y(static_cast<size_t>(rows * c.out));
  require(cudaMemcpy(x.data(), b.x, x.size(), cudaMemcpyDeviceToHost), "x");
  require(cudaMemcpy(x_scales.data(), b.x_scales, x_scales.size() * 4, cudaMemcpyDeviceToHost),
          "x");
  require(cudaMemcpy(y.data(), b.y, y.size() * 4, cudaMemcpyDeviceToHost), "y");
  double difference = 0.0;
  double total = 0.0;
  for (int sample = 0; sample < 4; ++sample) {
    const int64_t o = sample == 0 ? c.out - 1 : hashed(static_cast<uint64_t>(sample)) % c.out;
    std::vector<uint8_t> w(static_cast<size_t>(c.in * size));
    std::vector<float> w_scales(static_cast<size_t>(blocks));
    require(cudaMemcpy(w.data(), b.weights + o * c.in * size, w.size(), cudaMemcpyDeviceToHost),
            "w");
    require(cudaMemcpy(w_scales.data(), b.scales + o / 128 * blocks, w_scales.size() * 4,
                       cudaMemcpyDeviceToHost),
            "w");
    for (int64_t i = 0; i < rows; ++i) {
      double sum = 0.0;
      for (int64_t k = 0; k < c.in; ++k) {
        double term =
            static_cast<double>(decode(w, c.format, k)) * decode(x, c.format, i * c.in + k);
        if (c.format == Format::kFp8) {
          term *= static_cast<double>(w_scales[static_cast<size_t>(k / 128)]) *
                  x_scales[static_cast<size_t>(i * blocks + k / 128)];
        }
        sum += term;
      }
      const double d = sum - y[static_cast<size_t>(i * c.out + o)];
      difference += d * d;
      total += sum * sum;
    }
  }
  return std::sqrt(difference / total);
}

struct Checked {
  double plain_error;
  double host_error;
  bool same_alone;  // row 0's bits, run alone and among `rows`
};

Checked check(Bench& b, const Case& c, int64_t rows) {
  const int64_t n = rows * c.out;
  const kernels::Rows y{b.y, Format::kF32, c.out, nullptr, 0};
  const kernels::Rows reference{b.reference, Format::kF32, c.out, nullptr, 0};
  const auto bytes = static_cast<size_t>(n) * 4;
  kernels::linear(b.stream, activations(b, c), rows, matrix(b, c, 0), reference, Format::kF32);
  Checked result{};
  for (int repeat = 0; repeat < 2; ++repeat) {
    require(cudaMemsetAsync(b.y, 0xFF, bytes, b.stream), "poison");
    run(b, c, rows, 0, y, Format::kF32);
    result.plain_error = std::max(result.plain_error, relative_error(b, b.y, b.reference, n));
    if (std::isnan(result.plain_error)) return result;
  }
  result.host_error = host_error(b, c, rows);
  require(cudaMemsetAsync(b.reference, 0xFF, static_cast<size_t>(c.out) * 4, b.stream), "poison");
  run(b, c, 1, 0, reference, Format::kF32);
  result.same_alone = relative_error(b, b.reference, b.y, c.out) == 0.0;
  return result;
}

void measure(Bench& b, const Case& c, int64_t rows) {
  const int64_t size = c.format == Format::kFp8 ? 1 : 2;
  const int64_t bytes = c.out * c.in * size;
  const Checked checked = check(b, c, rows);
  const int64_t copies =
      std::min(kWeightBytes / bytes, std::max<int64_t>(1, (kRotatedBytes + bytes - 1) / bytes));
  const int64_t calls = std::max<int64_t>(b.calls_min, copies);
  const kernels::Rows y{b.y, Format::kBF16, c.out, nullptr, 0};
  cudaGraph_t graph = nullptr;
  cudaGraphExec_t exec = nullptr;
  require(cudaStreamBeginCapture(b.stream, cudaStreamCaptureModeThreadLocal), "capture");
  for (int64_t i = 0; i < calls; ++i) run(b, c, rows, i % copies, y, Format::kBF16);
  require(cudaStreamEndCapture(b.stream, &graph), "capture");
  require(cudaGraphInstantiate(&exec, graph, 0), "graph");
  const double us =
      median_us(b.stream, b.quick ? 20 : 25, [&] { cudaGraphLaunch(exec, b.stream); }) /
      static_cast<double>(calls);
  cudaGraphExecDestroy(exec);
  cudaGraphDestroy(graph);
  const double tb_s = 1e-6 * static_cast<double>(bytes) / us;
  const kernels::SkinnyPlan plan = plan_of(b, c, rows);
  std::printf(
      "{\"format\": \"%s\", \"n\": %lld, \"k\": %lld, \"m\": %lld, \"us\": %.2f, \"tb_s\": %.3f, "
      "\"of_read\": %.3f, \"token_tile\": %d, \"tile_rows\": %d, \"split\": %d, \"stages\": %d, "
      "\"overlap\": %d, "
      "\"calls\": %lld, \"copies\": %lld, \"error_plain\": %.2e, \"error_host\": %.2e, "
      "\"row_same_alone\": %s}\n",
      c.format == Format::kFp8 ? "fp8" : "bf16", static_cast<long long>(c.out),
      static_cast<long long>(c.in), static_cast<long long>(rows), us, tb_s, tb_s / b.read_tb_s,
      plan.token_tile, plan.tile_rows, plan.split, plan.stages, plan.overlap ? 1 : 0,
      static_cast<long long>(calls), static_cast<long long>(copies), checked.plain_error,
      checked.host_error, checked.same_alone ? "true" : "false");
  std::fflush(stdout);
}

void run_all(Bench& b) {
  measure_bandwidth(b);
  std::vector<Case> cases = {{7168, 16384, Format::kFp8},
                             {2112, 7168, Format::kFp8},
                             {4096, 4096, Format::kFp8},
                             {4096, 4096, Format::kBF16},
                             {28672, 4096, Format::kBF16}};
  if (b.models) {  // Llama-8B's and V2-Lite's, where a launch takes 128 rows
    cases = {{6144, 4096, Format::kFp8},
             {4096, 4096, Format::kFp8},
             {3072, 2048, Format::kFp8},
             {576, 2048, Format::kFp8},
             {2048, 2048, Format::kFp8}};
  }
  for (const Case& c : cases) {
    if ((b.only_out > 0 && c.out != b.only_out) || (b.only_fp8 && c.format != Format::kFp8))
      continue;
    const int64_t size = c.format == Format::kFp8 ? 1 : 2;
    fill_kernel<<<b.sms * 8, 256, 0, b.stream>>>(b.weights, c.format, kWeightBytes / size, 3, 1.0F);
    fill_kernel<<<b.sms * 8, 256, 0, b.stream>>>(b.x, c.format, kRowsMax * c.in, 5, 1.0F);
    std::vector<int64_t> rows = {1, 16, 64};
    if (!b.quick) rows = {1, 4, 8, 16, 32, 64};
    if (b.only_rows > 0) rows = {b.only_rows};
    for (const int64_t m : rows) measure(b, c, m);
  }
}

}  // namespace
}  // namespace fathom

int main(int argc, char** argv) {
  fathom::Bench b;
  for (int i = 1; i < argc; ++i) {
    const int value = i + 1 < argc ? std::atoi(argv[i + 1]) : 0;
    if (std::strcmp(argv[i], "--quick") == 0) b.quick = true;
    if (std::strcmp(argv[i], "--models") == 0) b.models = true;
    if (std::strcmp(argv[i], "--m") == 0) b.only_rows = value;
    if (std::strcmp(argv[i], "--n") == 0) b.only_out = value;
    if (std::strcmp(argv[i], "--fp8") == 0) b.only_fp8 = true;
    if (std::strcmp(argv[i], "--rows") == 0) b.tile_rows = value;
    if (std::strcmp(argv[i], "--overlap-next") == 0) b.overlap_next = value;
    if (std::strcmp(argv[i], "--calls") == 0) b.calls_min = value;
    if (std::strcmp(argv[i], "--overlap") == 0) b.overlap = value != 0;
    if (std::strcmp(argv[i], "--split") == 0) b.split = value;
    if (std::strcmp(argv[i], "--stages") == 0) b.stages = value;
    if (std::strcmp(argv[i], "--shared") == 0) b.shared = value;
  }
  fathom::set_up(b);
  fathom::run_all(b);
  return 0;
}
