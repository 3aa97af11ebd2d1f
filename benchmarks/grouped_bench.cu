// The grouped products of a mixture of experts on one GPU: router and lists, gate and up with
// activation and quantization, down, weighted sum; each timed alone and together, results checked
// against the plain kernels in the same run. Prints one JSON object a line.
//   grouped_bench [--quick] [--repeats N] [--shape 0..5] [--tokens N] [--routes even,random,skewed]
//                 [--paired 0|1]
// Routes other than random are measured with the most tokens alone.
#include <cuda_runtime_api.h>

#include <algorithm>
#include <array>
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
#include "moe/layer_data.cuh"

namespace fathom::kernels {
namespace {

constexpr int64_t kCheckedTokens = 48;

// ---- A batch.

struct Batch {
  int64_t tokens = 0;
  std::vector<void*> memory;
  GroupedRouting routing;  // x in bf16
  GroupedRouting routed;   // `routing` as the router writes it, not what the products use
  GroupedSchedule schedule;
  GroupedLayer layer;
  Rows sums;  // bf16

  template <typename T>
  T* own(T* p) {
    memory.push_back(p);
    return p;
  }
};

enum class Routing { kEven, kRandom, kSkewed };

const char* name_of(Routing routing) {
  return std::array{"even", "random", "skewed"}[static_cast<size_t>(routing)];
}

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

GroupedSchedule make_schedule(Batch& b, const Shape& s, bool paired) {
  const int64_t pairs = b.tokens * s.k;
  GroupedSchedule schedule;
  schedule.paired = paired;
  schedule.shared_tiles = grouped_shared_tiles(b.tokens, paired);
  const int64_t tiles = grouped_tiles_max(pairs, s.experts, paired) + schedule.shared_tiles;
  schedule.order = b.own(device_array<int32_t>(pairs));
  schedule.tiles = b.own(device_array<GroupedTile>(tiles));
  schedule.done = b.own(device_array<int32_t>(tiles));
  schedule.counters = b.own(device_array<GroupedCounters>(1));
  return schedule;
}

Epilogue make_rows(Batch& b, Format format, int64_t rows, int64_t columns) {
  Epilogue e;
  e.data = b.own(device_array<uint8_t>(rows * columns * bytes_of(format)));
  e.format = format;
  e.stride = columns;
  if (format != Format::kFp8) return e;
  e.scales = b.own(device_array<float>(rows * (columns / 128)));
  e.scale_stride = columns / 128;
  return e;
}

Rows rows_of(const Epilogue& e) { return {e.data, e.format, e.stride, e.scales, e.scale_stride}; }

void make_routing(cudaStream_t stream, const Layer& l, Batch& b, Routing routing) {
  const Shape& s = l.s;
  const int64_t pairs = b.tokens * s.k;
  GroupedRouting& r = b.routing;
  r.shape.experts = s.experts;
  r.shape.experts_per_token = s.k;
  r.shape.sigmoid = false;
  r.tokens = b.tokens;
  r.columns = s.hidden;
  r.x = rows_of(make_rows(b, Format::kBF16, b.tokens, s.hidden));
  fill(stream, r.x.data, Format::kBF16, b.tokens * s.hidden, 5, 1.0F);
  r.router = l.router;
  r.expert_count = s.experts;
  r.ids = b.own(on_device(route_ids(s, b.tokens, routing)));
  r.weights = b.own(device_array<float>(pairs));
  fill_scales_kernel<<<static_cast<unsigned>(pairs / 256 + 1), 256, 0, stream>>>(
      r.weights, pairs, 13, 1.0F / static_cast<float>(s.k));
  auto* valid = b.own(device_array<uint8_t>(b.tokens));
  require(cudaMemsetAsync(valid, 1, static_cast<size_t>(b.tokens), stream), "valid");
  r.token_valid = valid;
  r.scores = b.own(device_array<float>(grouped_score_parts(b.tokens, s.hidden, s.experts) *
                                       b.tokens * s.experts));
  if (s.format == Format::kFp8) r.quantized = make_rows(b, Format::kFp8, b.tokens, s.hidden);
  b.routed = r;
  b.routed.ids = b.own(device_array<int32_t>(pairs));
  b.routed.weights = b.own(device_array<float>(pairs));
}

Batch make_batch(cudaStream_t stream, const Layer& l, int64_t tokens, Routing routing,
                 bool paired) {
  const Shape& s = l.s;
  Batch b;
  b.tokens = tokens;
  make_routing(stream, l, b, routing);
  b.schedule = make_schedule(b, s, paired);
  GroupedLayer& g = b.layer;
  g.format = s.format;
  g.gate_up = l.gate_up;
  g.down = l.down;
  g.hidden = s.hidden;
  g.width = s.width;
  g.shared_width = s.shared_width;
  g.k = s.k;
  g.x = s.format == Format::kFp8 ? rows_of(b.routing.quantized) : b.routing.x;
  g.inner = make_rows(b, s.format, tokens * s.k, s.width);
  g.shared_inner = make_rows(b, s.format, tokens, s.shared_width);
  g.pairs = rows_of(make_rows(b, Format::kBF16, tokens * s.k, s.hidden));
  g.shared = rows_of(make_rows(b, Format::kBF16, tokens, s.hidden));
  b.sums = rows_of(make_rows(b, Format::kBF16, tokens, s.hidden));
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
  std::string routes;
  int paired = -1;  // -1: as steps choose
};

// Scores, x in e4m3, choices and lists; the products use the lists of `lists`.
void route(const Run& r, const Batch& b) {
  require(grouped_route(r.stream, b.routed, b.schedule), "route");
}
void lists(const Run& r, const Batch& b) {
  require(grouped_lists(r.stream, b.routing, b.schedule), "lists");
}
void products(const Run& r, const Batch& b, GroupedPart part) {
  require(grouped_experts(r.stream, b.layer, b.schedule, r.sms, part), "products");
}
void sum(const Run& r, const Batch& b) {
  require(grouped_combine(r.stream, b.routing, b.layer.pairs, b.layer.shared, b.sums), "sum");
}
void all(const Run& r, const Batch& b) {
  route(r, b);
  lists(r, b);
  products(r, b, GroupedPart::kBoth);
  sum(r, b);
}
// A whole layer, on the router's own choices.
void layer_of(const Run& r, const Batch& b) {
  route(r, b);
  products(r, b, GroupedPart::kBoth);
  require(grouped_combine(r.stream, b.routed, b.layer.pairs, b.layer.shared, b.sums), "sum");
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
  int64_t choices_changed = 0;  // of ids, against the plain router; near ties may fall otherwise
};

int64_t changed_choices(const Run& r, const Layer& l, const Batch& b) {
  const Shape& s = l.s;
  std::vector<void*> memory;
  auto* scores = device_array<float>(b.tokens * s.experts);
  auto* ids = device_array<int32_t>(b.tokens * s.k);
  auto* weights = device_array<float>(b.tokens * s.k);
  Matrix router;
  router.data = l.router;
  router.out = s.experts;
  router.in = router.stride = s.hidden;
  linear(r.stream, b.routing.x, b.tokens, router, {scores, Format::kF32, s.experts, nullptr, 0},
         Format::kF32);
  kernels::route(r.stream, b.routing.shape, b.tokens, scores, nullptr, ids, weights);
  route(r, b);
  require(cudaStreamSynchronize(r.stream), "routes");
  std::vector<int32_t> both[2];
  for (int i = 0; i < 2; ++i) {
    both[i].resize(static_cast<size_t>(b.tokens * s.k));
    require(cudaMemcpy(both[i].data(), i == 0 ? ids : b.routed.ids, both[i].size() * 4,
                       cudaMemcpyDeviceToHost),
            "ids");
  }
  memory = {scores, ids, weights};
  release(memory);
  int64_t changed = 0;
  for (size_t i = 0; i < both[0].size(); ++i) changed += both[0][i] != both[1][i] ? 1 : 0;
  return changed;
}

// The shared expert's rows by the plain kernels: every token on the one matrix.
struct Plain {
  const Run& r;
  const Layer& l;
  const Batch& b;
  std::vector<void*> memory;

  template <typename T>
  T* own(T* p) {
    memory.push_back(p);
    return p;
  }

  float* run(const Matrix* gate_up, const Matrix* down, int32_t experts, const int32_t* ids,
             int64_t tokens, int32_t k, int64_t width) {
    const Shape& s = l.s;
    const int64_t pairs = tokens * k;
    const uint8_t* valid = b.routing.token_valid;
    auto* both = own(device_array<float>(pairs * 2 * width));
    auto* gated = own(device_array<float>(pairs * width));
    auto* values = own(device_array<float>(pairs * s.hidden));
    expert_linear(r.stream, gate_up, 0, experts, ids, valid, tokens, k, b.layer.x, false, 2 * width,
                  both, Format::kBF16);
    kernels::gate(r.stream, both, pairs, width, gated);
    Epilogue inner = b.layer.inner;
    inner.stride = width;
    inner.scale_stride = width / 128;
    inner.data = own(device_array<uint8_t>(pairs * width * 2));
    if (inner.scales != nullptr) inner.scales = own(device_array<float>(pairs * width / 128));
    finish_rows(r.stream, gated, pairs, width, width, inner);
    expert_linear(r.stream, down, 0, experts, ids, valid, tokens, k, rows_of(inner), true, s.hidden,
                  values, Format::kBF16);
    return values;
  }
};

Checked check(const Run& r, const Layer& l, const Batch& b) {
  const Shape& s = l.s;
  const int64_t tokens = std::min(b.tokens, kCheckedTokens);
  const int64_t n = tokens * s.hidden;
  Plain plain{r, l, b, {}};
  for (const Rows& rows : {b.layer.pairs, b.layer.shared}) {
    const int64_t count = rows.data == b.layer.pairs.data ? b.tokens * s.k : b.tokens;
    require(cudaMemsetAsync(rows.data, 0xFF, static_cast<size_t>(count * s.hidden * 2), r.stream),
            "m");
  }
  all(r, b);
  require(cudaStreamSynchronize(r.stream), "grouped");
  auto* sums = plain.own(device_array<float>(n));
  auto* result = plain.own(device_array<double>(2));
  auto* zeros = plain.own(device_array<int32_t>(tokens));
  require(cudaMemsetAsync(result, 0, 16, r.stream), "sums");
  require(cudaMemsetAsync(zeros, 0, static_cast<size_t>(tokens) * 4, r.stream), "ids");
  float* values =
      plain.run(l.plain_gate_up, l.plain_down, s.experts, b.routing.ids, tokens, s.k, s.width);
  const float* shared = plain.run(l.plain_gate_up + s.experts, l.plain_down + s.experts, 1, zeros,
                                  tokens, 1, s.shared_width);
  combine(r.stream, {values, Format::kF32, s.hidden, nullptr, 0}, b.routing.ids, b.routing.weights,
          b.routing.token_valid, tokens, s.k, 0, s.experts, s.hidden, shared,
          {sums, Format::kF32, s.hidden, nullptr, 0});
  difference_kernel<<<64, 256, 0, r.stream>>>(b.sums.data, Format::kBF16, sums, n, result);
  require(cudaStreamSynchronize(r.stream), "plain");
  Checked checked;
  checked.plain_error = relative(result);
  concat(r.stream, b.sums, s.hidden, {}, 0, tokens, sums);
  require(cudaStreamSynchronize(r.stream), "sums");
  require(cudaMemsetAsync(result, 0, 16, r.stream), "sums");
  Batch alone = b;
  alone.tokens = tokens;
  alone.routing.tokens = alone.routed.tokens = tokens;
  alone.schedule.paired = false;
  alone.schedule.shared_tiles = grouped_shared_tiles(tokens, false);
  all(r, alone);
  difference_kernel<<<64, 256, 0, r.stream>>>(b.sums.data, Format::kBF16, sums, n, result);
  require(cudaStreamSynchronize(r.stream), "alone");
  checked.alone_error = relative(result);
  release(plain.memory);
  checked.choices_changed = changed_choices(r, l, b);
  return checked;
}

// Median of repeats of `launch`, microseconds, without what `before` takes.
template <typename Before, typename Launch>
double median_us(const Run& r, const Before& before, const Launch& launch) {
  const auto repeats = static_cast<size_t>(r.repeats);
  std::vector<cudaEvent_t> events(2 * repeats);
  for (cudaEvent_t& e : events) require(cudaEventCreate(&e), "event");
  for (int i = 0; i < 3; ++i) before(), launch();
  for (size_t i = 0; i < repeats; ++i) {
    before();
    require(cudaEventRecord(events[2 * i], r.stream), "event");
    launch();
    require(cudaEventRecord(events[2 * i + 1], r.stream), "event");
  }
  require(cudaStreamSynchronize(r.stream), "timing");
  std::vector<double> times;
  for (size_t i = 0; i < repeats; ++i) {
    float ms = 0.0F;
    require(cudaEventElapsedTime(&ms, events[2 * i], events[2 * i + 1]), "event");
    times.push_back(1e3 * static_cast<double>(ms));
  }
  for (cudaEvent_t e : events) cudaEventDestroy(e);
  std::sort(times.begin(), times.end());
  return times[times.size() / 2];
}

// The time of one of many in a graph: launches overlap as they do in a step.
template <typename Launch>
double replayed_us(const Run& r, int launches, const Launch& launch) {
  cudaGraph_t graph = nullptr;
  cudaGraphExec_t replay = nullptr;
  require(cudaStreamBeginCapture(r.stream, cudaStreamCaptureModeThreadLocal), "capture");
  for (int i = 0; i < launches; ++i) launch();
  require(cudaStreamEndCapture(r.stream, &graph), "capture");
  require(cudaGraphInstantiate(&replay, graph, 0), "graph");
  const double us = median_us(
      r, [] {}, [&] { require(cudaGraphLaunch(replay, r.stream), "replay"); });
  cudaGraphExecDestroy(replay);
  cudaGraphDestroy(graph);
  return us / launches;
}

void measure(const Run& r, const Layer& l, int64_t tokens, Routing routing) {
  const Shape& s = l.s;
  const bool paired = r.paired < 0
                          ? grouped_pairs_blocks(s.format == Format::kFp8, tokens * s.k, s.experts)
                          : r.paired != 0;
  Batch b = make_batch(r.stream, l, tokens, routing, paired);
  const Checked checked = check(r, l, b);
  const auto nothing = [] {};
  const auto made = [&] { lists(r, b); };
  const auto part_us = [&](GroupedPart part) {
    return median_us(r, made, [&] { products(r, b, part); });
  };
  const double route_us = median_us(r, nothing, [&] { route(r, b); });
  const double gate_up_us = part_us(GroupedPart::kGateUp);
  const double down_us = part_us(GroupedPart::kDown);
  const double both_us = part_us(GroupedPart::kBoth);
  const double sum_us = median_us(r, nothing, [&] { sum(r, b); });
  const double layer_us = median_us(r, nothing, [&] { layer_of(r, b); });
  const double replayed = replayed_us(r, tokens > 4096 ? 3 : 16, [&] { layer_of(r, b); });
  const auto product =
      static_cast<double>(2 * tokens * s.hidden * (s.k * s.width + s.shared_width));  // of down
  std::printf(
      "{\"shape\": \"%s\", \"format\": \"%s\", \"tokens\": %lld, \"routing\": \"%s\", "
      "\"paired\": %s, "
      "\"route_us\": %.1f, \"gate_up_us\": %.1f, \"down_us\": %.1f, \"both_us\": %.1f, "
      "\"sum_us\": %.1f, \"layer_us\": %.1f, \"replayed_layer_us\": %.1f, \"both_tflops\": %.0f, "
      "\"plain_error\": %.2e, \"alone_error\": %.2e, \"choices_changed\": %lld}\n",
      s.name, s.format == Format::kFp8 ? "fp8" : "bf16", static_cast<long long>(tokens),
      name_of(routing), paired ? "true" : "false", route_us, gate_up_us, down_us, both_us, sum_us,
      layer_us, replayed, 3e-6 * product / both_us, checked.plain_error, checked.alone_error,
      static_cast<long long>(checked.choices_changed));
  std::fflush(stdout);
  release(b.memory);
}

void run_shape(const Run& r, const Shape& s, const std::vector<int64_t>& tokens) {
  Layer layer;
  layer.s = s;
  make_layer(r.stream, layer);
  const int64_t most = *std::max_element(tokens.begin(), tokens.end());
  for (const Routing routing : {Routing::kEven, Routing::kRandom, Routing::kSkewed}) {
    if (r.routes.find(name_of(routing)) == std::string::npos) continue;
    for (const int64_t t : tokens)
      if (routing == Routing::kRandom || t == most) measure(r, layer, t, routing);
  }
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
    if (std::strcmp(argv[i], "--routes") == 0 && i + 1 < argc) r.routes = argv[i + 1];
    if (std::strcmp(argv[i], "--paired") == 0) r.paired = value;
  }
  if (r.routes.empty()) r.routes = quick ? "random" : "even,random,skewed";
  cudaDeviceProp properties{};
  require(cudaGetDeviceProperties(&properties, 0), "device");
  r.sms = properties.multiProcessorCount;
  require(cudaStreamCreateWithFlags(&r.stream, cudaStreamNonBlocking), "stream");
  require(load_grouped_gemm(), "load");
  std::printf("{\"device\": \"%s\", \"sms\": %d}\n", properties.name, r.sms);
  const std::vector<int64_t> few = {128, 256, 1024, 8192};
  const std::vector<int64_t> many = {8192, 64, 128, 256, 512, 1024, 2048, 4096};
  const Shape shapes[] = {{"v3", Format::kFp8, 256, 8, 7168, 2048, 2048},
                          {"v3", Format::kBF16, 256, 8, 7168, 2048, 2048},
                          {"v2 lite", Format::kFp8, 64, 6, 2048, 1408, 2816},
                          {"v2 lite", Format::kBF16, 64, 6, 2048, 1408, 2816},
                          {"tiny", Format::kFp8, 8, 2, 512, 256, 512},
                          {"tiny", Format::kBF16, 8, 2, 512, 256, 512}};
  for (int i = 0; i < 6; ++i) {
    if (shape < 0 ? i >= 4 : shape != i) continue;
    const bool wide = shapes[i].hidden > 4096 && shapes[i].format == Format::kBF16;
    std::vector<int64_t> sizes = quick || wide ? few : many;
    if (tokens > 0) sizes = {tokens};
    run_shape(r, shapes[i], sizes);
  }
  return 0;
}
