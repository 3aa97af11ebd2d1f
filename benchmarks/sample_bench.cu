// Times the sampler on a GPU: 128 rows of 129,280 random logits, and what a request may ask. Prints
// one JSON. Sums and order are checked by tests/gpu; here only that every id is in range.
//
//   sample_bench [--written-back] [--rows N] [--calls N]
//
// Of up to 64 rows each case stands twice: a block a row, and measured by all of the GPU first,
// which must say the same ids.
//
// A call finds its logits as the product before it in a step leaves them: written a moment ago, so
// that the second-level cache holds what fits, and still has to write it to memory. With
// --written-back they were, and the cache holds none of them.
#include <cuda_runtime_api.h>

#include <algorithm>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <functional>
#include <random>
#include <string>
#include <vector>

#include "kernels/steps.h"

namespace {

using fathom::kernels::SlotSamplingData;

constexpr int32_t kRows = 128;
constexpr int32_t kVocab = 129280;
constexpr int32_t kHistory = 2048;
constexpr int32_t kPrompt = 1024;

void check(cudaError_t error, const char* what) {
  if (error == cudaSuccess) return;
  std::fprintf(stderr, "%s: %s\n", what, cudaGetErrorString(error));
  std::exit(1);
}

template <typename T>
T* device(size_t count) {
  void* p = nullptr;
  check(cudaMalloc(&p, count * sizeof(T)), "cudaMalloc");
  check(cudaMemset(p, 0, count * sizeof(T)), "cudaMemset");
  return static_cast<T*>(p);
}

template <typename T>
void put(T* to, const std::vector<T>& from) {
  check(cudaMemcpy(to, from.data(), from.size() * sizeof(T), cudaMemcpyHostToDevice), "copy");
}

struct Bench {
  fathom::kernels::SlotArrays slots;
  fathom::kernels::BatchArrays batch;
  fathom::kernels::OutputArrays out;
  fathom::kernels::SampleScratchArrays scratch;
  float* random_logits = nullptr;  // kept; a call edits its copy
  float* measured = nullptr;
  int32_t calls = 21;
  bool written_back = false;
  float* logits = nullptr;
  int32_t* lengths = nullptr;
};

Bench make_bench() {
  Bench b;
  const size_t slots = kRows + 1;
  b.slots.history = device<int32_t>(slots * (kHistory + 8));
  b.slots.history_stride = kHistory + 8;
  b.slots.length = device<int32_t>(slots);
  b.slots.computed = device<int32_t>(slots);
  b.slots.finished = device<uint8_t>(slots);
  b.slots.draft_count = device<int32_t>(slots);
  b.slots.sampling = device<SlotSamplingData>(slots);
  b.slots.bias_ids = device<int32_t>(slots * fathom::kernels::kBiasMax);
  b.slots.bias_values = device<float>(slots * fathom::kernels::kBiasMax);
  b.slots.vocab = b.slots.vocab_padded = kVocab;
  b.batch.row_slot = device<int32_t>(kRows);
  b.batch.row_kind = device<int32_t>(kRows);
  b.batch.row_query = device<int32_t>(kRows);
  b.batch.row_context = device<int32_t>(kRows);
  b.batch.sample_row = device<int32_t>(kRows);
  b.batch.rows = b.batch.tokens = b.batch.sample_rows = kRows;
  b.out.accepted = device<int32_t>(kRows);
  b.out.new_count = device<int32_t>(kRows);
  b.out.new_tokens = device<int32_t>(kRows);
  b.out.new_stride = 1;
  b.out.drafted = device<int32_t>(kRows);
  b.out.finish = device<uint8_t>(kRows);
  b.out.draft_count = device<int32_t>(kRows);
  b.out.logprob = device<float>(kRows);
  b.out.top_stride = fathom::kernels::kTopMax;
  b.out.top_ids = device<int32_t>(size_t{kRows} * b.out.top_stride);
  b.out.top_logprobs = device<float>(size_t{kRows} * b.out.top_stride);
  const size_t numbers = size_t{kRows} * kVocab;
  b.scratch.blocks = kRows;  // fewer than a GPU has SMs
  b.scratch.raw = device<float>(numbers);
  b.scratch.probabilities = device<float>(numbers);
  b.scratch.counts = device<int32_t>(numbers);
  b.random_logits = device<float>(numbers);
  b.logits = device<float>(numbers);
  b.lengths = device<int32_t>(slots);
  b.measured = device<float>(fathom::kernels::kSampleMeasuredRowsMax *
                             fathom::kernels::kSampleMeasuredWords);

  std::mt19937 random(1);
  std::normal_distribution<float> normal(0.0F, 3.0F);
  std::vector<float> logits(numbers);
  for (float& x : logits) x = normal(random);
  put(b.random_logits, logits);
  std::vector<int32_t> ids(slots * b.slots.history_stride);
  for (int32_t& id : ids) id = static_cast<int32_t>(random() % kVocab);
  put(b.slots.history, ids);
  std::vector<int32_t> rows(kRows);
  std::vector<int32_t> one_up(kRows);
  for (int32_t r = 0; r < kRows; ++r) {
    rows[static_cast<size_t>(r)] = r;
    one_up[static_cast<size_t>(r)] = r + 1;
  }
  put(b.batch.sample_row, rows);
  put(b.batch.row_slot, one_up);
  put(b.batch.row_query, std::vector<int32_t>(kRows, 1));
  put(b.batch.row_context, std::vector<int32_t>(kRows, kHistory - 1));
  put(b.lengths, std::vector<int32_t>(slots, kHistory));
  return b;
}

__global__ void read_kernel(const float4* from, size_t count, float* out) {
  float sum = 0.0F;
  for (size_t i = blockIdx.x * size_t{blockDim.x} + threadIdx.x; i < count;
       i += size_t{gridDim.x} * blockDim.x) {
    const float4 v = from[i];
    sum += v.x + v.y + v.z + v.w;
  }
  if (sum == 0.123F) *out = sum;  // so that it is computed
}

void restore(const Bench& b, cudaStream_t stream) {
  const size_t numbers = size_t{kRows} * kVocab * sizeof(float);
  check(cudaMemcpyAsync(b.logits, b.random_logits, numbers, cudaMemcpyDeviceToDevice, stream), "");
  check(cudaMemcpyAsync(b.slots.length, b.lengths, (kRows + 1) * sizeof(int32_t),
                        cudaMemcpyDeviceToDevice, stream),
        "");
  if (!b.written_back) return;
  for (const float* other : {b.random_logits, b.scratch.raw, b.scratch.probabilities})
    read_kernel<<<1024, 256, 0, stream>>>(reinterpret_cast<const float4*>(other), numbers / 16,
                                          b.out.logprob);
}

// Median of some calls, each between two events, after a copy of 66 MB has passed through the L2;
// `tokens` are the last one's.
double median_us(const Bench& b, const SlotSamplingData& sampling, cudaStream_t stream,
                 std::vector<int32_t>& tokens) {
  std::vector<SlotSamplingData> all(kRows + 1, sampling);
  for (size_t i = 0; i < all.size(); ++i) all[i].seed_low = static_cast<uint32_t>(77 * i);
  put(b.slots.sampling, all);
  cudaEvent_t begin = nullptr;
  cudaEvent_t end = nullptr;
  check(cudaEventCreate(&begin), "event");
  check(cudaEventCreate(&end), "event");
  std::vector<float> times;
  for (int i = 0; i < b.calls + 3; ++i) {
    restore(b, stream);
    check(cudaEventRecord(begin, stream), "event");
    fathom::kernels::sample(stream, b.slots, b.batch, b.logits, nullptr, 0, b.scratch, b.out);
    check(cudaEventRecord(end, stream), "event");
    check(cudaEventSynchronize(end), "sample");
    float ms = 0.0F;
    check(cudaEventElapsedTime(&ms, begin, end), "event");
    if (i >= 3) times.push_back(1000.0F * ms);
  }
  tokens.resize(static_cast<size_t>(b.batch.rows));
  check(cudaMemcpy(tokens.data(), b.out.new_tokens, tokens.size() * sizeof(int32_t),
                   cudaMemcpyDeviceToHost),
        "tokens");
  for (const int32_t token : tokens) {
    if (token >= 0 && token < kVocab) continue;
    std::fprintf(stderr, "token %d is out of range\n", token);
    std::exit(1);
  }
  std::sort(times.begin(), times.end());
  return times[times.size() / 2];
}

void take_rows(Bench& b, const char* word) {
  const int32_t rows = std::clamp(std::atoi(word), 1, kRows);
  b.batch.rows = b.batch.tokens = b.batch.sample_rows = b.scratch.blocks = rows;
}

}  // namespace

int main(int argc, char** argv) {
  check(fathom::kernels::load_sampler(), "load");
  cudaStream_t stream = nullptr;
  check(cudaStreamCreate(&stream), "stream");
  Bench bench = make_bench();
  for (int i = 1; i < argc; ++i) {
    if (std::strcmp(argv[i], "--written-back") == 0) bench.written_back = true;
    if (std::strcmp(argv[i], "--rows") == 0 && i + 1 < argc) take_rows(bench, argv[++i]);
    if (std::strcmp(argv[i], "--calls") == 0 && i + 1 < argc)
      bench.calls = std::max(1, std::atoi(argv[++i]));
  }
  const bool few = bench.batch.rows <= fathom::kernels::kSampleMeasuredRowsMax;
  SlotSamplingData plain{};
  plain.temperature = 0.8F;
  plain.top_p = 1.0F;
  plain.repetition_penalty = 1.0F;
  plain.logprobs = -1;
  plain.prompt_tokens = kPrompt;
  plain.total_tokens_max = kHistory + 8;
  plain.ignore_eos = 1;
  struct Case {
    const char* name;
    std::function<void(SlotSamplingData&)> set;
  };
  const std::vector<Case> cases = {
      {"greedy", [](auto& s) { s.temperature = 0.0F; }},
      {"temperature", [](auto&) {}},
      {"top_k 50, top_p 0.9", [](auto& s) { s.top_k = 50, s.top_p = 0.9F; }},
      {"top_p 0.9", [](auto& s) { s.top_p = 0.9F; }},
      {"top_p 0.9, temperature 0.3", [](auto& s) { s.top_p = 0.9F, s.temperature = 0.3F; }},
      {"min_p 0.05", [](auto& s) { s.min_p = 0.05F; }},
      {"20 logprobs", [](auto& s) { s.logprobs = 20; }},
      {"top_k 50, top_p 0.9, penalties, 20 logprobs",
       [](auto& s) {
         s.top_k = 50, s.top_p = 0.9F, s.logprobs = 20;
         s.uses_penalties = 1, s.presence_penalty = 0.5F, s.frequency_penalty = 0.2F;
         s.repetition_penalty = 1.1F;
       }},
  };
  const double floor_us = double(bench.batch.rows) * kVocab * sizeof(float) / 3.0e6;
  std::printf(
      "{\"rows\": %d, \"vocab\": %d, \"written_back\": %s, \"floor_us_at_3_tb_s\": %.1f, "
      "\"cases\": {",
      bench.batch.rows, kVocab, bench.written_back ? "true" : "false", floor_us);
  const char* comma = "";
  for (const Case& one : cases) {
    SlotSamplingData sampling = plain;
    one.set(sampling);
    std::vector<int32_t> tokens;
    bench.scratch.measured = nullptr;
    std::printf("%s\n  \"%s\": %s%.1f", comma, one.name, few ? "[" : "",
                median_us(bench, sampling, stream, tokens));
    comma = ",";
    if (!few) continue;
    std::vector<int32_t> same;
    bench.scratch.measured = bench.measured;
    std::printf(", %.1f]", median_us(bench, sampling, stream, same));
    if (same != tokens) {
      std::fprintf(stderr, "%s: other tokens where chunks are measured first\n", one.name);
      return 1;
    }
  }
  std::printf("\n}}\n");
  return 0;
}
