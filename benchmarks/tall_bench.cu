// Tall products on one GPU: microseconds in a captured chain of calls, weights rotated, with the
// results checked against the plain kernels in the same run, and cuBLASLt beside them. Prints one
// JSON object a line.
//   tall_bench [--quick] [--hot] CASE ...
// CASE: t,n,k,m,gated (0 or 1)[,columns,pairing (a, s, c or t; capital: with multicast)
// [,token_step[,stages]]]: the tall kernel's, the chooser's plan without more; l,n,k,m,gated:
// cuBLASLt's, with the kernels beside it; layer,m: the four products of a layer of Llama-8B, as
// chosen and all by cuBLASLt; m,n,k,m,gated,shared (0 or 1): the kernel of many rows, its last
// round shared or not; b,n,k,m,how: a vocabulary's in bf16, by that kernel (how: 0 or 1, as above)
// or cuBLASLt (-1). --quick, for a sanitizer: two calls. --hot: one copy of the weights for all
// calls, until --cold.
#include <cctype>
#include <cmath>
#include <cstring>
#include <string>

#include "gemm/gemm_data.cuh"
#include "kernels/dense.h"
#include "kernels/gated.h"
#include "kernels/many_gemm.h"
#include "kernels/scales.h"
#include "kernels/tall_gemm.h"
#include "ops/cuda/choose_tall.h"
#include "ops/cuda/large_gemm.h"

namespace fathom {
namespace {

using namespace bench;

constexpr int64_t kWeightBytes = int64_t{1} << 30;
constexpr int64_t kWorkspaceBytes = int64_t{32} << 20;
constexpr int64_t kRowsMax = 2048;
constexpr int64_t kInMax = 16384;
constexpr int64_t kOutMax = 36864;
constexpr int64_t kRotatedBytes = int64_t{420} << 20;

struct Case {
  int64_t out = 0;
  int64_t in = 0;
  int64_t rows = 0;
  bool gated = false;
  kernels::TallPlan plan;
  int many = -1;  // 0: the kernel of many rows; 1: with its last round shared
  int64_t width() const { return gated ? out / 2 : out; }
};

struct Bench {
  cudaStream_t stream = nullptr;
  int sms = 0;
  std::unique_ptr<LargeGemm> large;
  LargeMemory workspace;
  uint8_t* weights = nullptr;
  uint8_t* x = nullptr;
  uint16_t* y = nullptr;
  uint8_t* codes = nullptr;  // [2, rows, columns]
  float* code_scales = nullptr;
  float* checked = nullptr;
  float* reference = nullptr;
  float* scales = nullptr;
  int32_t* scale_rows = nullptr;
  float* x_scales = nullptr;
  float* transposed = nullptr;
  double* sums = nullptr;
  float* shared_sums = nullptr;
  uint32_t* shared_words = nullptr;
  bool quick = false;
  bool hot = false;
};

void set_up(Bench& b) {
  require(cudaSetDevice(0), "device");
  require(cudaDeviceGetAttribute(&b.sms, cudaDevAttrMultiProcessorCount, 0), "device");
  require(cudaStreamCreateWithFlags(&b.stream, cudaStreamNonBlocking), "stream");
  require(kernels::load_tall_gemm(), "load");
  require(kernels::load_many_gemm(), "load");
  b.shared_sums = device_array<float>(kernels::many_sums_bytes(b.sms / 2) / 4);
  b.shared_words = device_array<uint32_t>(kernels::many_words(b.sms / 2));
  require(cudaMemsetAsync(b.shared_words, 0,
                          static_cast<size_t>(kernels::many_words(b.sms / 2)) * 4, b.stream),
          "words");
  b.workspace = {device_array<uint8_t>(kWorkspaceBytes), static_cast<size_t>(kWorkspaceBytes)};
  b.large = LargeGemm::make(b.workspace);
  b.weights = device_array<uint8_t>(kWeightBytes);
  b.x = device_array<uint8_t>(kRowsMax * kInMax);
  b.y = device_array<uint16_t>(kRowsMax * kOutMax);
  b.codes = device_array<uint8_t>(2 * kRowsMax * kOutMax);
  b.code_scales = device_array<float>(2 * kRowsMax * kOutMax / 128);
  b.checked = device_array<float>(kRowsMax * kOutMax);
  b.reference = device_array<float>(kRowsMax * kOutMax);
  b.transposed = device_array<float>(ScaleData::kCount);
  b.sums = device_array<double>(2);
  const ScaleData scales = make_scales(b.stream);
  b.scales = scales.weights;
  b.x_scales = scales.rows;
  b.scale_rows = scales.places;
}

kernels::Matrix matrix_at(const Bench& b, const Case& c, int64_t byte) {
  kernels::Matrix w;
  w.data = b.weights + byte;
  w.format = Format::kFp8;
  w.out = c.out;
  w.in = c.in;
  w.stride = c.in;
  w.scales = b.scales;
  w.scale_rows = b.scale_rows;
  w.scale_stride = (c.in + 127) / 128;
  return w;
}

kernels::Rows activations(const Bench& b, const Case& c) {
  kernels::Rows x{b.x, Format::kFp8, c.in, nullptr, 0};
  x.scale_stride = (c.in + 127) / 128;
  x.scales = b.x_scales;
  return x;
}

kernels::Epilogue quantized(const Bench& b, const Case& c, int which) {
  kernels::Epilogue to;
  to.data = b.codes + which * kRowsMax * kOutMax;
  to.format = Format::kFp8;
  to.stride = c.width();
  to.scales = b.code_scales + which * (kRowsMax * kOutMax / 128);
  to.scale_stride = (c.width() + 127) / 128;
  return to;
}

// Without what is given as 0: token tiles of even size, all the stages that fit.
void complete(kernels::TallPlan& p, int64_t rows) {
  const int64_t tiles = (rows + kernels::kTallTokens - 1) / kernels::kTallTokens;
  if (p.token_step == 0) {
    p.token_step = static_cast<int32_t>(((rows + tiles - 1) / tiles + 15) / 16 * 16);
  }
  if (p.stages != 0) return;
  p.stages = 1;
  while (p.stages < kernels::kTallStagesMax &&
         kernels::tall_shared_bytes(p, p.stages + 1) <= kernels::kTallSharedMax) {
    ++p.stages;
  }
}

cudaError_t launch_tall(Bench& b, const Case& c, const kernels::Rows& x, int64_t byte) {
  const kernels::Matrix w = matrix_at(b, c, byte);
  if (c.many >= 0) {
    kernels::ManyCall call;
    call.x = x;
    call.rows = c.rows;
    call.w = w;
    call.gated = c.gated;
    call.out = c.gated ? quantized(b, c, 0) : kernels::Epilogue{b.y, Format::kBF16, c.out};
    if (c.many == 1) {
      call.sums = b.shared_sums;
      call.words = b.shared_words;
    }
    return kernels::many_gemm(b.stream, call, b.sms);
  }
  if (c.gated) {
    return kernels::tall_gated_gemm(b.stream, x, c.rows, w, quantized(b, c, 0), c.plan, b.sms);
  }
  return kernels::tall_gemm(b.stream, x, c.rows, w,
                            kernels::Rows{b.y, Format::kBF16, c.out, nullptr, 0}, c.plan, b.sms);
}

void run_tall(Bench& b, const Case& c, const kernels::Rows& x, int64_t byte) {
  require(launch_tall(b, c, x, byte), "tall_gemm");
}

void run_library(Bench& b, const Case& c, const kernels::Rows& x, int64_t byte) {
  const kernels::Rows y{b.y, Format::kBF16, c.out, nullptr, 0};
  require(kernels::transpose_scales(b.stream, x.scales, x.scale_stride, c.rows, (c.in + 127) / 128,
                                    b.transposed),
          "scales");
  if (!b.large->run(b.stream, x, c.rows, b.transposed, matrix_at(b, c, byte), y)) {
    std::fprintf(stderr, "cuBLASLt refused\n");
  }
  if (c.gated) {
    require(kernels::gate_rows(b.stream, y, c.rows, c.width(), quantized(b, c, 1)), "gate_rows");
  }
}

__global__ void widen_kernel(const uint16_t* from, int64_t n, float* to) {
  const int64_t i = int64_t{blockIdx.x} * blockDim.x + threadIdx.x;
  if (i < n) to[i] = kernels::load_number(from, Format::kBF16, i);
}

__global__ void dequantize_kernel(kernels::Epilogue from, int64_t rows, int64_t columns,
                                  float* to) {
  const int64_t i = int64_t{blockIdx.x} * blockDim.x + threadIdx.x;
  if (i >= rows * columns) return;
  const int64_t row = i / columns;
  const int64_t column = i % columns;
  to[i] = kernels::load_number(from.data, Format::kFp8, row * from.stride + column) *
          from.scales[row * from.scale_stride + column / 128];
}

// Relative to the plain kernels' mean square, the worse of two runs.
double error_of(Bench& b, const Case& c) {
  const int64_t n = c.rows * c.width();
  const auto grid = static_cast<unsigned>((n + 255) / 256);
  const kernels::Rows plain{b.reference, Format::kF32, c.out, nullptr, 0};
  kernels::linear(b.stream, activations(b, c), c.rows, matrix_at(b, c, 0), plain, Format::kBF16);
  if (c.gated) {
    require(kernels::gate_rows(b.stream, plain, c.rows, c.width(), quantized(b, c, 1)), "gate");
    dequantize_kernel<<<grid, 256, 0, b.stream>>>(quantized(b, c, 1), c.rows, c.width(),
                                                  b.reference);
  }
  double worst = 0.0;
  for (int repeat = 0; repeat < (b.quick ? 1 : 2); ++repeat) {
    require(cudaMemsetAsync(b.y, 0xFF, static_cast<size_t>(c.rows * c.out) * 2, b.stream), "y");
    require(cudaMemsetAsync(b.codes, 0x7F, static_cast<size_t>(n), b.stream), "codes");
    run_tall(b, c, activations(b, c), 0);
    if (c.gated) {
      dequantize_kernel<<<grid, 256, 0, b.stream>>>(quantized(b, c, 0), c.rows, c.width(),
                                                    b.checked);
    } else {
      widen_kernel<<<grid, 256, 0, b.stream>>>(b.y, n, b.checked);
    }
    difference_kernel<<<1, 1024, 0, b.stream>>>(b.checked, b.reference, n, b.sums);
    double sums[2] = {};
    require(cudaMemcpyAsync(sums, b.sums, sizeof sums, cudaMemcpyDeviceToHost, b.stream), "sums");
    require(cudaStreamSynchronize(b.stream), "difference");
    const double error = std::sqrt(sums[0] / sums[1]);
    if (!(error <= worst)) worst = error;
  }
  return worst;
}

// Of one of `calls` calls in a graph.
template <typename Call>
double time_of(Bench& b, int64_t calls, const Call& call) {
  cudaGraph_t graph = nullptr;
  cudaGraphExec_t exec = nullptr;
  require(cudaStreamBeginCapture(b.stream, cudaStreamCaptureModeThreadLocal), "capture");
  for (int64_t i = 0; i < calls; ++i) call(i);
  require(cudaStreamEndCapture(b.stream, &graph), "capture");
  require(cudaGraphInstantiate(&exec, graph, 0), "graph");
  const double us = median_us(b.stream, b.quick ? 1 : 20, [&] { cudaGraphLaunch(exec, b.stream); });
  cudaGraphExecDestroy(exec);
  cudaGraphDestroy(graph);
  return us / static_cast<double>(calls);
}

int64_t copies_of(const Bench& b, int64_t bytes) {
  const int64_t room = std::min(kWeightBytes / bytes, (kRotatedBytes + bytes - 1) / bytes);
  return b.quick ? 2 : b.hot ? 1 : std::max<int64_t>(1, room);
}

void add_library(Bench& b, const Case& c, int64_t byte) {
  b.large->add(b.stream, matrix_at(b, c, byte), {{0, c.out, b.scales}}, b.workspace);
}

void measure(Bench& b, const Case& c, bool library) {
  const int64_t bytes = c.out * c.in;
  if (!library && launch_tall(b, c, activations(b, c), 0) == cudaErrorInvalidValue) {
    std::printf("{\"kernel\": \"tall\", \"n\": %lld, \"columns\": %d, \"us\": null}\n",
                static_cast<long long>(c.out), c.plan.columns);
    return;
  }
  const int64_t copies = copies_of(b, bytes);
  const int64_t calls = b.quick ? 2 : std::max<int64_t>(copies, bytes > 100000000 ? 16 : 32);
  const double error = library ? 0.0 : error_of(b, c);
  if (library) {
    for (int64_t copy = 0; copy < copies; ++copy) add_library(b, c, copy * bytes);
  }
  const double us = time_of(b, calls, [&](int64_t i) {
    const int64_t byte = i % copies * bytes;
    library ? run_library(b, c, activations(b, c), byte) : run_tall(b, c, activations(b, c), byte);
  });
  const double flops = 2.0 * static_cast<double>(c.rows * c.out) * static_cast<double>(c.in);
  std::printf(
      "{\"kernel\": \"%s\", \"n\": %lld, \"k\": %lld, \"m\": %lld, \"gated\": %d, \"us\": %.2f, "
      "\"tb_s\": %.2f, \"tflops\": %.0f, \"columns\": %d, \"pairing\": %d, \"multicast\": %d, "
      "\"step\": %d, "
      "\"stages\": %d, \"error\": %.2e}\n",
      library       ? "cublaslt"
      : c.many >= 0 ? ("many" + std::to_string(c.many)).c_str()
                    : "tall",
      static_cast<long long>(c.out), static_cast<long long>(c.in), static_cast<long long>(c.rows),
      c.gated ? 1 : 0, us, static_cast<double>(bytes) / us * 1e-6, flops / us * 1e-6,
      c.plan.columns, static_cast<int>(c.plan.pairing), c.plan.multicast ? 1 : 0, c.plan.token_step,
      c.plan.stages, error);
  std::fflush(stdout);
}

std::optional<kernels::TallPlan> chosen(const Bench& b, const Case& c) {
  TallProblem p;
  p.rows = c.rows;
  p.out = c.out;
  p.in = c.in;
  p.gated = c.gated;
  p.whole_blocks = true;
  p.sms = b.sms;
  return choose_tall(p);
}

// q, k and v; output; gate and up; down. Each layer has weights of its own.
void measure_layer(Bench& b, int64_t rows) {
  struct {
    Case c;
    bool tall = false;
  } products[4];
  const int64_t shapes[4][2] = {{6144, 4096}, {4096, 4096}, {28672, 4096}, {4096, 14336}};
  int64_t bytes = 0;
  for (int i = 0; i < 4; ++i) {
    Case& c = products[i].c;
    c.out = shapes[i][0];
    c.in = shapes[i][1];
    c.rows = rows;
    c.gated = i == 2;
    const auto plan = chosen(b, c);
    products[i].tall = plan.has_value();
    if (plan) c.plan = *plan;
    bytes += c.out * c.in;
  }
  const int64_t layers = copies_of(b, bytes);
  const auto run_layers = [&](bool tall) {
    return time_of(b, 2 * layers, [&](int64_t layer) {
      int64_t byte = layer % layers * bytes;
      for (const auto& [c, fits] : products) {
        const kernels::Rows x = activations(b, c);
        tall&& fits ? run_tall(b, c, x, byte) : run_library(b, c, x, byte);
        byte += c.out * c.in;
      }
    });
  };
  for (int64_t layer = 0; layer < layers; ++layer) {
    int64_t byte = layer * bytes;
    for (const auto& [c, fits] : products) {
      add_library(b, c, byte);
      byte += c.out * c.in;
    }
  }
  const double tall = run_layers(true);
  const double library = run_layers(false);
  std::printf("{\"layer\": %lld, \"us_tall\": %.1f, \"us_library\": %.1f}\n",
              static_cast<long long>(rows), tall, library);
  std::fflush(stdout);
}

// A vocabulary's product in bf16, with float32 sums stored: ours (many: 0 or 1) or cuBLASLt's.
void measure_exact(Bench& b, const Case& c) {
  const auto grid = static_cast<unsigned>(b.sms * 8);
  fill_kernel<<<grid, 256, 0, b.stream>>>(b.weights, Format::kBF16, c.out * c.in, 3, 0.02F);
  fill_kernel<<<grid, 256, 0, b.stream>>>(b.x, Format::kBF16, c.rows * c.in, 5, 1.0F);
  kernels::Matrix w;
  w.data = b.weights;
  w.format = Format::kBF16;
  w.out = c.out;
  w.in = c.in;
  w.stride = c.in;
  const kernels::Rows x{b.x, Format::kBF16, c.in, nullptr, 0};
  const kernels::Rows y{b.checked, Format::kF32, c.out, nullptr, 0};
  if (c.many < 0) b.large->add(b.stream, w, {{0, c.out, nullptr}}, b.workspace);
  const auto call = [&] {
    if (c.many < 0) {
      if (!b.large->run(b.stream, x, c.rows, nullptr, w, y)) std::fprintf(stderr, "refused\n");
      return;
    }
    kernels::ManyCall m;
    m.x = x;
    m.rows = c.rows;
    m.w = w;
    m.out = {b.checked, Format::kF32, c.out};
    if (c.many == 1) {
      m.sums = b.shared_sums;
      m.words = b.shared_words;
    }
    require(kernels::many_gemm(b.stream, m, b.sms), "many_gemm");
  };
  const kernels::Rows plain{b.reference, Format::kF32, c.out, nullptr, 0};
  kernels::linear(b.stream, x, c.rows, w, plain, Format::kF32);
  double sums[2] = {};
  double error = 0.0;
  for (int repeat = 0; repeat < 2; ++repeat) {
    require(cudaMemsetAsync(b.checked, 0xFF, static_cast<size_t>(c.rows * c.out) * 4, b.stream),
            "y");
    call();
    difference_kernel<<<1, 1024, 0, b.stream>>>(b.checked, b.reference, c.rows * c.out, b.sums);
    require(cudaMemcpyAsync(sums, b.sums, sizeof sums, cudaMemcpyDeviceToHost, b.stream), "sums");
    require(cudaStreamSynchronize(b.stream), "difference");
    if (!(std::sqrt(sums[0] / sums[1]) <= error)) error = std::sqrt(sums[0] / sums[1]);
  }
  const double us = time_of(b, 2, [&](int64_t) { call(); });
  std::printf(
      "{\"exact\": %d, \"n\": %lld, \"k\": %lld, \"m\": %lld, \"us\": %.2f, \"tflops\": %.0f, "
      "\"error\": %.2e}\n",
      c.many, static_cast<long long>(c.out), static_cast<long long>(c.in),
      static_cast<long long>(c.rows), us,
      2e-6 * static_cast<double>(c.rows * c.out) * static_cast<double>(c.in) / us, error);
  std::fflush(stdout);
}

bool run_case(Bench& b, const char* word) {
  long long n = 0;
  long long k = 0;
  long long m = 0;
  int gated = 0;
  if (std::sscanf(word, "layer,%lld", &m) == 1) {
    measure_layer(b, m);
    return true;
  }
  Case c;
  if (std::sscanf(word, "m,%lld,%lld,%lld,%d,%d", &n, &k, &m, &gated, &c.many) == 5) {
    c.out = n;
    c.in = k;
    c.rows = m;
    c.gated = gated != 0;
    measure(b, c, false);
    return true;
  }
  if (std::sscanf(word, "b,%lld,%lld,%lld,%d", &n, &k, &m, &c.many) == 4) {
    c.out = n;
    c.in = k;
    c.rows = m;
    measure_exact(b, c);
    return true;
  }
  char kind = 0;
  char pairing = 'a';
  const int got = std::sscanf(word, "%c,%lld,%lld,%lld,%d,%d,%c,%d,%d", &kind, &n, &k, &m, &gated,
                              &c.plan.columns, &pairing, &c.plan.token_step, &c.plan.stages);
  if (got < 5 || (kind != 't' && kind != 'l')) return false;
  constexpr const char* kPairings = "asct";
  const char* found = std::strchr(kPairings, std::tolower(pairing));
  if (found == nullptr) return false;
  c.plan.pairing = static_cast<kernels::TallPairing>(found - kPairings);
  c.plan.multicast = std::isupper(pairing) != 0;
  c.out = n;
  c.in = k;
  c.rows = m;
  c.gated = gated != 0;
  complete(c.plan, m);
  if (got == 5 && kind == 't') {
    const auto plan = chosen(b, c);
    if (!plan) return false;
    c.plan = *plan;
  }
  measure(b, c, kind == 'l');
  return true;
}

}  // namespace
}  // namespace fathom

int main(int argc, char** argv) {
  fathom::Bench b;
  fathom::set_up(b);
  const auto grid = static_cast<unsigned>(b.sms * 8);
  fathom::fill_kernel<<<grid, 256, 0, b.stream>>>(b.weights, fathom::Format::kFp8,
                                                  fathom::kWeightBytes, 3, 1.0F);
  fathom::fill_kernel<<<grid, 256, 0, b.stream>>>(b.x, fathom::Format::kFp8,
                                                  fathom::kRowsMax * fathom::kInMax, 5, 1.0F);
  for (int i = 1; i < argc; ++i) {
    if (std::strcmp(argv[i], "--quick") == 0) {
      b.quick = true;
    } else if (std::strcmp(argv[i], "--hot") == 0) {
      b.hot = true;
    } else if (std::strcmp(argv[i], "--cold") == 0) {
      b.hot = false;
    } else if (!fathom::run_case(b, argv[i])) {
      std::fprintf(stderr, "no case: %s\n", argv[i]);
      return 1;
    }
  }
  return 0;
}
