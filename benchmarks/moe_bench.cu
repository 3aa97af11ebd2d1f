// Times a mixture of experts for few tokens, route to weighted sum, on a GPU: calls in one graph,
// over layers whose weights no cache holds, random data. The floor is the bytes of the experts that
// were chosen, the shared one and the router, at the read bandwidth measured first. Beside it the
// kernels, each by itself. Results are checked by tests/gpu.
//
//   moe_bench [TEXT]   cases whose name has TEXT in it; prints one JSON
#include <cuda_runtime_api.h>

#include <algorithm>
#include <cstdio>
#include <cstdlib>
#include <functional>
#include <set>
#include <string>
#include <vector>

#include "benchmarks/ops/bandwidth.h"
#include "kernels/moe_few.h"

namespace {

using fathom::kernels::Format;
using fathom::kernels::Matrix;
using fathom::kernels::MoeFew;

constexpr int kCalls = 32;
constexpr int kRounds = 21;
constexpr int kWarmUps = 3;

void check(cudaError_t error, const char* what) {
  if (error == cudaSuccess) return;
  std::fprintf(stderr, "%s: %s\n", what, cudaGetErrorString(error));
  std::exit(1);
}

enum class Fill { kE4m3, kBF16, kFloats };

__global__ void fill_kernel(uint32_t* to, int64_t words, Fill fill, float scale, uint32_t seed) {
  for (int64_t i = int64_t{blockIdx.x} * blockDim.x + threadIdx.x; i < words;
       i += int64_t{gridDim.x} * blockDim.x) {
    uint32_t h = static_cast<uint32_t>(i) * 2654435761U + seed * 40503U +
                 static_cast<uint32_t>(i >> 32) * 97U;
    h = (h ^ h >> 16) * 0x7FEB352DU;
    h = (h ^ h >> 15) * 0x846CA68BU;
    h ^= h >> 16;
    if (fill == Fill::kE4m3) {
      to[i] = h & 0xBFBFBFBFU;  // below 2
    } else if (fill == Fill::kBF16) {
      to[i] = (h & 0x81FF81FFU) | 0x3C003C00U;  // 0.008 to 0.06
    } else {
      reinterpret_cast<float*>(to)[i] = scale * (static_cast<float>(h) * 4.6566129e-10F - 1.0F);
    }
  }
}

// Device memory of one case, filled or zero.
class Memory {
 public:
  ~Memory() {
    for (void* p : all_) cudaFree(p);
  }
  template <typename T = void>
  T* take(int64_t bytes) {
    void* p = nullptr;
    check(cudaMalloc(&p, static_cast<size_t>(bytes + 256)), "cudaMalloc");
    check(cudaMemset(p, 0, static_cast<size_t>(bytes + 256)), "cudaMemset");
    all_.push_back(p);
    return static_cast<T*>(p);
  }
  template <typename T = void>
  T* filled(int64_t bytes, Fill fill, float scale = 1.0F) {
    T* p = take<T>(bytes);
    fill_kernel<<<1024, 256>>>(reinterpret_cast<uint32_t*>(p), bytes / 4, fill, scale, ++seed_);
    return p;
  }

 private:
  std::vector<void*> all_;
  uint32_t seed_ = 0;
};

struct Shape {
  const char* name;
  Format format;
  int32_t hidden, width, shared_width, experts, k, groups, groups_per_token;
  bool sigmoid;
  int32_t copies;
  int32_t tokens_max;
};

int64_t element_bytes(const Shape& s) { return s.format == Format::kFp8 ? 1 : 2; }

Matrix make_matrix(Memory& memory, const Shape& s, int64_t out, int64_t in) {
  Matrix w;
  w.format = s.format;
  w.out = out;
  w.in = w.stride = in;
  const Fill fill = s.format == Format::kFp8 ? Fill::kE4m3 : Fill::kBF16;
  w.data = memory.filled(out * in * element_bytes(s), fill);
  if (s.format == Format::kFp8) {
    w.scale_stride = in / 128;
    w.scales = memory.filled<float>(out / 128 * w.scale_stride * 4, Fill::kFloats, 0.03F);
  }
  return w;
}

fathom::kernels::MoeFewExpert* make_experts(Memory& memory, const Shape& s) {
  std::vector<fathom::kernels::MoeFewExpert> all(static_cast<size_t>(s.experts) + 1);
  for (auto& expert : all) {
    const int64_t width = &expert == &all.back() ? s.shared_width : s.width;
    const Matrix gate_up = make_matrix(memory, s, 2 * width, s.hidden);
    const Matrix down = make_matrix(memory, s, s.hidden, width);
    check(fathom::kernels::moe_few_expert(gate_up, down, &expert), "map");
  }
  const auto bytes = static_cast<int64_t>(all.size() * sizeof(all[0]));
  auto* table = memory.take<fathom::kernels::MoeFewExpert>(bytes);
  check(cudaMemcpy(table, all.data(), static_cast<size_t>(bytes), cudaMemcpyHostToDevice), "copy");
  return table;
}

// Weights of one layer and scratch for the most tokens.
MoeFew make_layer(Memory& memory, const Shape& s, int32_t sms, const uint8_t* valid) {
  MoeFew m;
  m.router = {s.experts, s.k, s.groups, s.groups_per_token, s.sigmoid, s.sigmoid, s.sigmoid, 1.0F};
  m.format = s.format;
  m.hidden = s.hidden;
  m.width = s.width;
  m.shared_parts = s.shared_width / s.width;
  m.experts_here = s.experts;
  m.sms = sms;
  const int64_t tokens = s.tokens_max;
  const int64_t pairs = tokens * s.k;
  m.x = {memory.filled(tokens * s.hidden * 2, Fill::kBF16), Format::kBF16, s.hidden, nullptr, 0};
  m.gate = memory.filled<float>(int64_t{4} * s.experts * s.hidden, Fill::kFloats);
  if (s.sigmoid) m.bias = memory.filled<float>(int64_t{4} * s.experts, Fill::kFloats, 0.01F);
  m.token_valid = valid;
  m.experts = make_experts(memory, s);
  m.arrivals = memory.take<int32_t>(4 * fathom::kernels::kMoeArrivalWords);
  m.scores = memory.take<float>(4 * tokens * s.experts);
  m.ids = memory.take<int32_t>(4 * pairs);
  m.weights = memory.take<float>(4 * pairs);
  m.codes = memory.take<uint8_t>(tokens * s.hidden);
  m.code_scales = memory.take<float>(4 * tokens * s.hidden / 128);
  const int64_t rows = pairs + tokens * m.shared_parts;
  m.inner = memory.take(rows * s.width * 2);
  m.rows = memory.take<float>(rows * s.hidden * 4);
  m.out = {memory.take(tokens * s.hidden * 2), Format::kBF16, s.hidden, nullptr, 0};
  return m;
}

double median_us(cudaStream_t stream, const std::vector<MoeFew>& layers,
                 const std::function<void(const MoeFew&)>& call) {
  cudaGraph_t graph = nullptr;
  check(cudaStreamBeginCapture(stream, cudaStreamCaptureModeThreadLocal), "capture");
  for (int i = 0; i < kCalls; ++i) call(layers[static_cast<size_t>(i) % layers.size()]);
  check(cudaStreamEndCapture(stream, &graph), "capture");
  cudaGraphExec_t exec = nullptr;
  check(cudaGraphInstantiate(&exec, graph, 0), "graph");
  cudaEvent_t begin = nullptr;
  cudaEvent_t end = nullptr;
  check(cudaEventCreate(&begin), "event");
  check(cudaEventCreate(&end), "event");
  std::vector<float> times;
  for (int round = 0; round < kWarmUps + kRounds; ++round) {
    check(cudaEventRecord(begin, stream), "event");
    check(cudaGraphLaunch(exec, stream), "launch");
    check(cudaEventRecord(end, stream), "event");
    check(cudaEventSynchronize(end), "run");
    float ms = 0.0F;
    check(cudaEventElapsedTime(&ms, begin, end), "time");
    if (round >= kWarmUps) times.push_back(ms);
  }
  cudaGraphExecDestroy(exec);
  cudaGraphDestroy(graph);
  std::sort(times.begin(), times.end());
  return 1e3 * static_cast<double>(times[times.size() / 2]) / kCalls;
}

// Least bytes of a call, from the experts that it chose.
double bytes_of(const Shape& s, const MoeFew& m) {
  std::vector<int32_t> ids(static_cast<size_t>(m.tokens * s.k));
  check(cudaMemcpy(ids.data(), m.ids, ids.size() * 4, cudaMemcpyDeviceToHost), "ids");
  const auto chosen = static_cast<double>(std::set<int32_t>(ids.begin(), ids.end()).size());
  const double width = chosen * s.width + s.shared_width;
  return width * 3.0 * s.hidden * static_cast<double>(element_bytes(s)) +
         4.0 * s.experts * s.hidden + 4.0 * m.tokens * s.hidden;
}

double read_bandwidth(cudaStream_t stream) {
  constexpr int64_t kBytes = int64_t{4} << 30;
  Memory memory;
  auto* from = memory.filled(kBytes, Fill::kFloats);
  auto* sink = memory.take<uint32_t>(4);
  cudaEvent_t begin = nullptr;
  cudaEvent_t end = nullptr;
  check(cudaEventCreate(&begin), "event");
  check(cudaEventCreate(&end), "event");
  float best = 1e9F;
  for (int round = 0; round < 10; ++round) {
    check(cudaEventRecord(begin, stream), "event");
    fathom::bench::read_all(stream, from, kBytes, sink);
    check(cudaEventRecord(end, stream), "event");
    check(cudaEventSynchronize(end), "read");
    float ms = 0.0F;
    check(cudaEventElapsedTime(&ms, begin, end), "time");
    best = std::min(best, ms);
  }
  return static_cast<double>(kBytes) / (1e-3 * static_cast<double>(best));
}

// Of the first layer's results: builds of the same arithmetic agree in it.
uint64_t digest(const MoeFew& m) {
  std::vector<uint16_t> out(static_cast<size_t>(m.tokens) * static_cast<size_t>(m.hidden));
  check(cudaMemcpy(out.data(), m.out.data, out.size() * 2, cudaMemcpyDeviceToHost), "out");
  uint64_t hash = 1469598103934665603ULL;
  for (const uint16_t one : out) hash = (hash ^ one) * 1099511628211ULL;
  return hash;
}

const char* comma = "";

void run_shape(const Shape& s, cudaStream_t stream, int32_t sms, double bandwidth) {
  Memory memory;
  auto* valid = memory.take<uint8_t>(s.tokens_max);
  check(cudaMemset(valid, 1, static_cast<size_t>(s.tokens_max)), "valid");
  std::vector<MoeFew> layers;
  for (int32_t i = 0; i < s.copies; ++i) layers.push_back(make_layer(memory, s, sms, valid));
  check(cudaDeviceSynchronize(), "fill");
  const auto route = [&](const MoeFew& m) {
    check(fathom::kernels::moe_few_route(stream, m), "route");
  };
  const auto gate_up = [&](const MoeFew& m) {
    check(fathom::kernels::moe_few_gate_up(stream, m), "gate_up");
  };
  const auto down = [&](const MoeFew& m) {
    check(fathom::kernels::moe_few_down(stream, m), "down");
  };
  const auto sum = [&](const MoeFew& m) {
    check(fathom::kernels::moe_few_combine(stream, m), "combine");
  };
  for (const int32_t tokens : {1, 2, 4, 8, 16, 32}) {
    if (tokens > s.tokens_max) continue;
    for (MoeFew& m : layers) m.tokens = tokens;
    const double us = median_us(stream, layers, [&](const MoeFew& m) {
      route(m);
      gate_up(m);
      down(m);
      sum(m);
    });
    double bytes = 0.0;
    for (const MoeFew& m : layers) bytes += bytes_of(s, m) / s.copies;
    const double floor_us = bytes / bandwidth * 1e6;
    const uint64_t hash = digest(layers.front());
    const double parts[4] = {median_us(stream, layers, route), median_us(stream, layers, gate_up),
                             median_us(stream, layers, down), median_us(stream, layers, sum)};
    std::printf(
        "%s\n  {\"case\": \"%s\", \"tokens\": %d, \"us\": %.2f, \"floor_us\": %.2f, "
        "\"ratio\": %.2f, \"tb_s\": %.3f, \"route_us\": %.2f, \"gate_up_us\": %.2f, "
        "\"down_us\": %.2f, \"combine_us\": %.2f, \"digest\": \"%016llx\"}",
        comma, s.name, tokens, us, floor_us, us / floor_us, bytes / us * 1e-6, parts[0], parts[1],
        parts[2], parts[3], static_cast<unsigned long long>(hash));
    comma = ",";
  }
}

}  // namespace

int main(int argc, char** argv) {
  const std::string wanted = argc > 1 ? argv[1] : "";
  check(fathom::kernels::load_moe_few(), "load");
  cudaStream_t stream = nullptr;
  check(cudaStreamCreate(&stream), "stream");
  int32_t sms = 0;
  check(cudaDeviceGetAttribute(&sms, cudaDevAttrMultiProcessorCount, 0), "device");
  const double bandwidth = read_bandwidth(stream);
  std::printf("{\"read_tb_s\": %.3f, \"calls\": %d, \"rounds\": %d, \"cases\": [",
              bandwidth * 1e-12, kCalls, kRounds);
  for (const Shape& s : {
           Shape{"V2-Lite fp8", Format::kFp8, 2048, 1408, 2816, 64, 6, 1, 1, false, 8, 32},
           Shape{"V2-Lite bf16", Format::kBF16, 2048, 1408, 2816, 64, 6, 1, 1, false, 8, 32},
           Shape{"V3 fp8", Format::kFp8, 7168, 2048, 2048, 256, 8, 8, 4, true, 2, 16},
       }) {
    if (std::string(s.name).find(wanted) != std::string::npos) run_shape(s, stream, sms, bandwidth);
  }
  std::printf("\n]}\n");
  check(cudaDeviceSynchronize(), "end");
  return 0;
}
