// The grouped products of a mixture of experts on one GPU: schedule, gate and up with activation
// and quantization, down, weighted sum; each timed alone and together, results checked against the
// plain kernels in the same run. Prints one JSON object a line.
//   grouped_bench [--quick] [--repeats N] [--shape 0..3] [--tokens N]
#include <cuda_runtime_api.h>

#include <algorithm>
#include <cmath>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <numeric>
#include <random>
#include <string>
#include <vector>

#include "kernels/dense.h"
#include "kernels/grouped_gemm.h"
#include "kernels/moe.h"
#include "kernels/number.cuh"

namespace fathom::kernels {
namespace {

constexpr int64_t kCheckedTokens = 48;

void require(cudaError_t error, const char* what) {
  if (error == cudaSuccess) return;
  std::fprintf(stderr, "%s: %s\n", what, cudaGetErrorString(error));
  std::exit(1);
}

// ---- Data: normal values in the format's range, a function of (seed, index).

__device__ uint32_t hashed(uint64_t x) {
  x ^= x >> 33;
  x *= 0xFF51AFD7ED558CCDULL;
  x ^= x >> 33;
  x *= 0xC4CEB9FE1A85EC53ULL;
  return static_cast<uint32_t>(x >> 32);
}

__device__ float normal_at(uint64_t seed, int64_t i) {
  const uint32_t a = hashed(seed * 0x9E3779B97F4A7C15ULL + 2 * i);
  const uint32_t b = hashed(seed * 0x9E3779B97F4A7C15ULL + 2 * i + 1);
  const float u = (static_cast<float>(a >> 8) + 1.0F) * (1.0F / 16777217.0F);
  return sqrtf(-2.0F * __logf(u)) * cospif(2.0F * static_cast<float>(b >> 8) * 0x1p-24F);
}

__global__ void fill_kernel(void* p, Format format, int64_t n, uint64_t seed, float scale) {
  const int64_t step = int64_t{gridDim.x} * blockDim.x;
  for (int64_t i = int64_t{blockIdx.x} * blockDim.x + threadIdx.x; i < n; i += step) {
    const float x = normal_at(seed, i) * scale;
    if (format == Format::kFp8) {
      static_cast<uint8_t*>(p)[i] = __nv_cvt_float_to_fp8(x, __NV_SATFINITE, __NV_E4M3);
    } else {
      store_number(p, format, i, x);
    }
  }
}

__global__ void fill_scales_kernel(float* p, int64_t n, uint64_t seed, float scale) {
  const int64_t i = int64_t{blockIdx.x} * blockDim.x + threadIdx.x;
  if (i < n) p[i] = scale * (0.5F + static_cast<float>(hashed(seed + i) & 1023) / 1024.0F);
}

__global__ void scale_rows_kernel(int32_t* p, int64_t n) {
  const int64_t i = int64_t{blockIdx.x} * blockDim.x + threadIdx.x;
  if (i < n) p[i] = static_cast<int32_t>(i / 128);
}

// sums[0] += |a - b|^2, sums[1] += |b|^2; NaN when an output was not written. b: float32.
__global__ void difference_kernel(const void* a, Format format, const float* b, int64_t n,
                                  double* sums) {
  double difference = 0.0;
  double size = 0.0;
  const int64_t step = int64_t{gridDim.x} * blockDim.x;
  for (int64_t i = int64_t{blockIdx.x} * blockDim.x + threadIdx.x; i < n; i += step) {
    const double d = static_cast<double>(load_number(a, format, i)) - b[i];
    difference += d * d;
    size += static_cast<double>(b[i]) * b[i];
  }
  atomicAdd(&sums[0], difference);
  atomicAdd(&sums[1], size);
}

template <typename T>
T* device_array(int64_t n) {
  void* p = nullptr;
  require(cudaMalloc(&p, static_cast<size_t>(std::max<int64_t>(n, 1)) * sizeof(T)), "cudaMalloc");
  return static_cast<T*>(p);
}

template <typename T>
T* on_device(const std::vector<T>& host) {
  T* p = device_array<T>(static_cast<int64_t>(host.size()));
  require(cudaMemcpy(p, host.data(), host.size() * sizeof(T), cudaMemcpyHostToDevice), "upload");
  return p;
}

// ---- A layer.

struct Shape {
  const char* name;
  Format format;
  int32_t experts;
  int32_t k;
  int64_t hidden;
  int64_t width;
};

struct Layer {
  Shape s;
  std::vector<void*> memory;
  GroupedMatrix* gate_up = nullptr;
  GroupedMatrix* down = nullptr;
  Matrix* plain_gate_up = nullptr;
  Matrix* plain_down = nullptr;

  template <typename T>
  T* own(T* p) {
    memory.push_back(p);
    return p;
  }
};

int64_t bytes_of(Format format) { return format == Format::kFp8 ? 1 : 2; }

void fill(cudaStream_t stream, void* p, Format format, int64_t n, uint64_t seed, float scale) {
  fill_kernel<<<132 * 8, 256, 0, stream>>>(p, format, n, seed, scale);
}

// Matrices [out, in] of all experts, one after another.
void make_matrices(cudaStream_t stream, Layer& layer, int64_t out, int64_t in, uint64_t seed,
                   GroupedMatrix** grouped, Matrix** plain) {
  const Shape& s = layer.s;
  const int64_t each = out * in;
  const bool fp8 = s.format == Format::kFp8;
  auto* values = layer.own(device_array<uint8_t>(s.experts * each * bytes_of(s.format)));
  const int64_t scales_each = out / 128 * (in / 128);
  auto* scales = layer.own(device_array<float>(s.experts * scales_each));
  auto* scale_rows = layer.own(device_array<int32_t>(out));
  const float deviation = 1.0F / std::sqrt(static_cast<float>(in));
  fill(stream, values, s.format, s.experts * each, seed, fp8 ? 60.0F : deviation);
  fill_scales_kernel<<<static_cast<unsigned>(s.experts * scales_each / 256 + 1), 256, 0, stream>>>(
      scales, s.experts * scales_each, seed + 1, deviation / 60.0F);
  scale_rows_kernel<<<static_cast<unsigned>(out / 128 + 1), 128, 0, stream>>>(scale_rows, out);
  std::vector<GroupedMatrix> maps(static_cast<size_t>(s.experts));
  std::vector<Matrix> matrices(static_cast<size_t>(s.experts));
  for (int32_t e = 0; e < s.experts; ++e) {
    Matrix& m = matrices[static_cast<size_t>(e)];
    m.data = values + e * each * bytes_of(s.format);
    m.format = s.format;
    m.out = out;
    m.in = in;
    m.stride = in;
    if (fp8) {
      m.scales = scales + e * scales_each;
      m.scale_rows = scale_rows;
      m.scale_stride = in / 128;
    }
    require(grouped_matrix(m, &maps[static_cast<size_t>(e)]), "map");
  }
  *grouped = layer.own(on_device(maps));
  *plain = layer.own(on_device(matrices));
}

// ---- A batch.

struct Batch {
  int64_t tokens = 0;
  std::vector<void*> memory;
  Rows x;
  int32_t* ids = nullptr;
  float* weights = nullptr;
  uint8_t* valid = nullptr;
  GroupedSchedule schedule;
  Epilogue inner;
  Rows inner_rows;
  Rows pairs;
  void* sums = nullptr;  // bf16

  template <typename T>
  T* own(T* p) {
    memory.push_back(p);
    return p;
  }
};

enum class Routing { kEven, kRandom, kSkewed };

// k experts a token, ascending. kEven: every expert equally often.
std::vector<int32_t> route_ids(const Shape& s, int64_t tokens, Routing routing) {
  std::mt19937 random(7);
  std::vector<int32_t> ids;
  std::vector<int32_t> all(static_cast<size_t>(s.experts));
  std::iota(all.begin(), all.end(), 0);
  const int32_t groups = s.experts / s.k;
  for (int64_t t = 0; t < tokens; ++t) {
    std::vector<int32_t> mine;
    if (routing == Routing::kEven) {
      const auto first = static_cast<int32_t>((t * 37) % groups);
      for (int32_t j = 0; j < s.k; ++j) mine.push_back(first + j * groups);
    } else {
      const auto pool = static_cast<uint32_t>(
          routing == Routing::kSkewed && t % 4 != 0 ? s.experts / 4 : s.experts);
      for (int32_t j = 0; j < s.k; ++j)
        std::swap(all[static_cast<size_t>(j)], all[j + random() % (pool - j)]);
      mine.assign(all.begin(), all.begin() + s.k);
      std::sort(all.begin(), all.end());
    }
    std::sort(mine.begin(), mine.end());
    ids.insert(ids.end(), mine.begin(), mine.end());
  }
  return ids;
}

Batch make_batch(cudaStream_t stream, const Shape& s, int64_t tokens, Routing routing) {
  Batch b;
  b.tokens = tokens;
  const int64_t pairs = tokens * s.k;
  const bool fp8 = s.format == Format::kFp8;
  auto* x = b.own(device_array<uint8_t>(tokens * s.hidden * bytes_of(s.format)));
  fill(stream, x, s.format, tokens * s.hidden, 5, fp8 ? 100.0F : 1.0F);
  b.x = {x, s.format, s.hidden, nullptr, 0};
  auto* inner = b.own(device_array<uint8_t>(pairs * s.width * bytes_of(s.format)));
  b.inner.data = inner;
  b.inner.format = s.format;
  b.inner.stride = s.width;
  b.inner_rows = {inner, s.format, s.width, nullptr, 0};
  if (fp8) {
    auto* scales = b.own(device_array<float>(tokens * s.hidden / 128));
    fill_scales_kernel<<<static_cast<unsigned>(tokens * s.hidden / 128 / 256 + 1), 256, 0,
                         stream>>>(scales, tokens * s.hidden / 128, 9, 0.01F);
    b.x.scales = scales;
    b.x.scale_stride = s.hidden / 128;
    b.inner.scales = b.own(device_array<float>(pairs * s.width / 128));
    b.inner.scale_stride = s.width / 128;
    b.inner_rows.scales = b.inner.scales;
    b.inner_rows.scale_stride = s.width / 128;
  }
  b.ids = b.own(on_device(route_ids(s, tokens, routing)));
  b.weights = b.own(device_array<float>(pairs));
  fill_scales_kernel<<<static_cast<unsigned>(pairs / 256 + 1), 256, 0, stream>>>(
      b.weights, pairs, 13, 1.0F / static_cast<float>(s.k));
  b.valid = b.own(device_array<uint8_t>(tokens));
  require(cudaMemsetAsync(b.valid, 1, static_cast<size_t>(tokens), stream), "valid");
  b.schedule.order = b.own(device_array<int32_t>(pairs));
  b.schedule.cursors = b.own(device_array<int32_t>(2 * kMoeExpertsMax));
  b.schedule.tiles = b.own(device_array<GroupedTile>(grouped_tiles_max(pairs, s.experts)));
  b.schedule.tile_count = b.own(device_array<int32_t>(1));
  auto* out = b.own(device_array<uint8_t>(pairs * s.hidden * 2));
  b.pairs = {out, Format::kBF16, s.hidden, nullptr, 0};
  b.sums = b.own(device_array<uint16_t>(tokens * s.hidden));
  require(cudaStreamSynchronize(stream), "batch");
  return b;
}

void release(std::vector<void*>& memory) {
  for (void* p : memory) cudaFree(p);
  memory.clear();
}

struct Run {
  cudaStream_t stream = nullptr;
  int32_t sms = 0;
  int repeats = 20;
};

void schedule(const Run& r, const Layer& l, const Batch& b) {
  grouped_schedule(r.stream, b.ids, b.valid, b.tokens, l.s.k, 0, l.s.experts, b.schedule);
}
void gate_up(const Run& r, const Layer& l, const Batch& b) {
  grouped_gate_up(r.stream, l.gate_up, l.s.format, l.s.hidden, l.s.width, b.x, l.s.k, b.schedule,
                  b.inner, r.sms);
}
void down(const Run& r, const Layer& l, const Batch& b) {
  grouped_down(r.stream, l.down, l.s.format, l.s.width, 0, l.s.hidden, b.inner_rows, b.schedule,
               b.pairs, r.sms);
}
void sum(const Run& r, const Layer& l, const Batch& b) {
  combine(r.stream, b.pairs, b.ids, b.weights, b.valid, b.tokens, l.s.k, 0, l.s.experts, l.s.hidden,
          nullptr, {b.sums, Format::kBF16, l.s.hidden, nullptr, 0});
}
void all(const Run& r, const Layer& l, const Batch& b) {
  schedule(r, l, b);
  gate_up(r, l, b);
  down(r, l, b);
  sum(r, l, b);
}

double relative(double* sums) {
  double host[2] = {};
  require(cudaMemcpy(host, sums, sizeof host, cudaMemcpyDeviceToHost), "sums");
  return std::sqrt(host[0] / host[1]);
}

// The first tokens' sums against the plain kernels', and how many of their numbers differ when
// those tokens are run alone.
struct Checked {
  double plain_error = 0.0;
  double alone_error = 0.0;
};

Checked check(const Run& r, const Layer& l, const Batch& b) {
  const Shape& s = l.s;
  const int64_t tokens = std::min(b.tokens, kCheckedTokens);
  const int64_t pairs = tokens * s.k;
  const int64_t n = tokens * s.hidden;
  std::vector<void*> memory;
  const auto own = [&](auto* p) {
    memory.push_back(p);
    return p;
  };
  require(cudaMemsetAsync(b.pairs.data, 0xFF, static_cast<size_t>(b.tokens * s.k * s.hidden * 2),
                          r.stream),
          "m");
  all(r, l, b);
  require(cudaStreamSynchronize(r.stream), "grouped");
  auto* both = own(device_array<float>(pairs * 2 * s.width));
  auto* gated = own(device_array<float>(pairs * s.width));
  auto* values = own(device_array<float>(pairs * s.hidden));
  auto* sums = own(device_array<float>(n));
  auto* result = own(device_array<double>(2));
  require(cudaMemsetAsync(result, 0, 16, r.stream), "sums");
  expert_linear(r.stream, l.plain_gate_up, 0, s.experts, b.ids, b.valid, tokens, s.k, b.x, false,
                2 * s.width, both, Format::kBF16);
  kernels::gate(r.stream, both, pairs, s.width, gated);
  Epilogue inner = b.inner;
  inner.data = own(device_array<uint8_t>(pairs * s.width * 2));
  if (inner.scales != nullptr) inner.scales = own(device_array<float>(pairs * s.width / 128));
  finish_rows(r.stream, gated, pairs, s.width, s.width, inner);
  const Rows rows{inner.data, inner.format, inner.stride, inner.scales, inner.scale_stride};
  expert_linear(r.stream, l.plain_down, 0, s.experts, b.ids, b.valid, tokens, s.k, rows, true,
                s.hidden, values, Format::kBF16);
  combine(r.stream, {values, Format::kF32, s.hidden, nullptr, 0}, b.ids, b.weights, b.valid, tokens,
          s.k, 0, s.experts, s.hidden, nullptr, {sums, Format::kF32, s.hidden, nullptr, 0});
  difference_kernel<<<64, 256, 0, r.stream>>>(b.sums, Format::kBF16, sums, n, result);
  require(cudaStreamSynchronize(r.stream), "plain");
  Checked checked;
  checked.plain_error = relative(result);
  concat(r.stream, {b.sums, Format::kBF16, s.hidden, nullptr, 0}, s.hidden, {}, 0, tokens, sums);
  require(cudaStreamSynchronize(r.stream), "sums");
  require(cudaMemsetAsync(result, 0, 16, r.stream), "sums");
  Batch alone = b;
  alone.tokens = tokens;
  all(r, l, alone);
  difference_kernel<<<64, 256, 0, r.stream>>>(b.sums, Format::kBF16, sums, n, result);
  require(cudaStreamSynchronize(r.stream), "alone");
  checked.alone_error = relative(result);
  release(memory);
  return checked;
}

// Median of repeats of `launch`, microseconds.
template <typename Launch>
double median_us(const Run& r, const Launch& launch) {
  const auto repeats = static_cast<size_t>(r.repeats);
  std::vector<cudaEvent_t> events(repeats + 1);
  for (cudaEvent_t& e : events) require(cudaEventCreate(&e), "event");
  for (int i = 0; i < 3; ++i) launch();
  require(cudaEventRecord(events[0], r.stream), "event");
  for (size_t i = 0; i < repeats; ++i) {
    launch();
    require(cudaEventRecord(events[i + 1], r.stream), "event");
  }
  require(cudaStreamSynchronize(r.stream), "timing");
  std::vector<double> times;
  for (size_t i = 0; i < repeats; ++i) {
    float ms = 0.0F;
    require(cudaEventElapsedTime(&ms, events[i], events[i + 1]), "event");
    times.push_back(1e3 * static_cast<double>(ms));
  }
  for (cudaEvent_t e : events) cudaEventDestroy(e);
  std::sort(times.begin(), times.end());
  return times[times.size() / 2];
}

void measure(const Run& r, const Layer& l, int64_t tokens, Routing routing) {
  const Shape& s = l.s;
  Batch b = make_batch(r.stream, s, tokens, routing);
  const Checked checked = check(r, l, b);
  const double list_us = median_us(r, [&] { schedule(r, l, b); });
  const double gate_up_us = median_us(r, [&] { gate_up(r, l, b); });
  const double down_us = median_us(r, [&] { down(r, l, b); });
  const double sum_us = median_us(r, [&] { sum(r, l, b); });
  const double all_us = median_us(r, [&] { all(r, l, b); });
  const double both_us = median_us(r, [&] {
    gate_up(r, l, b);
    down(r, l, b);
  });
  const auto product = static_cast<double>(2 * tokens * s.k * s.hidden * s.width);
  const char* names[] = {"even", "random", "skewed"};
  std::printf(
      "{\"shape\": \"%s\", \"format\": \"%s\", \"tokens\": %lld, \"routing\": \"%s\", "
      "\"list_us\": %.1f, \"gate_up_us\": %.1f, \"down_us\": %.1f, \"sum_us\": %.1f, "
      "\"both_us\": %.1f, \"all_us\": %.1f, \"gate_up_tflops\": %.0f, \"down_tflops\": %.0f, "
      "\"both_tflops\": %.0f, \"all_tflops\": %.0f, \"plain_error\": %.2e, "
      "\"alone_error\": %.2e}\n",
      s.name, s.format == Format::kFp8 ? "fp8" : "bf16", static_cast<long long>(tokens),
      names[static_cast<int>(routing)], list_us, gate_up_us, down_us, sum_us, both_us, all_us,
      2e-6 * product / gate_up_us, 1e-6 * product / down_us, 3e-6 * product / both_us,
      3e-6 * product / all_us, checked.plain_error, checked.alone_error);
  std::fflush(stdout);
  release(b.memory);
}

void run_shape(const Run& r, const Shape& s, const std::vector<int64_t>& tokens, bool quick) {
  Layer layer{s, {}, nullptr, nullptr, nullptr, nullptr};
  make_matrices(r.stream, layer, 2 * s.width, s.hidden, 1, &layer.gate_up, &layer.plain_gate_up);
  make_matrices(r.stream, layer, s.hidden, s.width, 2, &layer.down, &layer.plain_down);
  require(cudaStreamSynchronize(r.stream), "weights");
  measure(r, layer, tokens.front(), Routing::kEven);
  for (const int64_t t : tokens) measure(r, layer, t, Routing::kRandom);
  if (!quick) measure(r, layer, tokens.front(), Routing::kSkewed);
  release(layer.memory);
}

}  // namespace
}  // namespace fathom::kernels

int main(int argc, char** argv) {
  using namespace fathom::kernels;
  Run r;
  bool quick = false;
  int shape = -1;
  int64_t tokens = 0;
  for (int i = 1; i < argc; ++i) {
    if (std::strcmp(argv[i], "--quick") == 0) quick = true;
    const int value = i + 1 < argc ? std::atoi(argv[i + 1]) : 0;
    if (std::strcmp(argv[i], "--repeats") == 0) r.repeats = value;
    if (std::strcmp(argv[i], "--shape") == 0) shape = value;
    if (std::strcmp(argv[i], "--tokens") == 0) tokens = value;
  }
  cudaDeviceProp properties{};
  require(cudaGetDeviceProperties(&properties, 0), "device");
  r.sms = properties.multiProcessorCount;
  require(cudaStreamCreateWithFlags(&r.stream, cudaStreamNonBlocking), "stream");
  require(load_grouped_gemm(), "load");
  std::printf("{\"device\": \"%s\", \"sms\": %d}\n", properties.name, r.sms);
  const std::vector<int64_t> few = {8192, 64, 256};
  const std::vector<int64_t> many = {8192, 64, 128, 256, 512, 1024, 2048, 4096};
  const Shape shapes[] = {{"v3", Format::kFp8, 256, 8, 7168, 2048},
                          {"v3", Format::kBF16, 256, 8, 7168, 2048},
                          {"v2 lite", Format::kFp8, 64, 6, 2048, 1408},
                          {"v2 lite", Format::kBF16, 64, 6, 2048, 1408}};
  for (int i = 0; i < 4; ++i) {
    if (shape >= 0 && shape != i) continue;
    const bool wide = shapes[i].hidden > 4096 && shapes[i].format == Format::kBF16;
    std::vector<int64_t> sizes = quick || wide ? few : many;
    if (tokens > 0) sizes = {tokens};
    run_shape(r, shapes[i], sizes, quick);
  }
  return 0;
}
