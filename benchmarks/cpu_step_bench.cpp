// Steps of a model on the CPU backend: decode at several batch sizes, and prefill, in tokens per
// second.
//
//   cpu_step_bench MODEL_DIR [threads: all cores, as fathomd has them] [native|reference]
#include <time.h>

#include <algorithm>
#include <chrono>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <string>
#include <thread>
#include <vector>

#include "fathom/model.h"
#include "ops/cpu/cpu_ops.h"
#include "support/step_driver.h"
#include "weights/checkpoint.h"

namespace fathom {
namespace {

using testing::StepDriver;

constexpr int32_t kPrompt = 64;

double now_s() {
  return std::chrono::duration<double>(std::chrono::steady_clock::now().time_since_epoch()).count();
}

// CPU time of the process: a busy machine does not change it much.
double cpu_s() {
  timespec t{};
  clock_gettime(CLOCK_PROCESS_CPUTIME_ID, &t);
  return static_cast<double>(t.tv_sec) + 1e-9 * static_cast<double>(t.tv_nsec);
}

// The best of a few runs.
struct Rate {
  double tokens_per_s = 0.0;
  double cpu_us_per_token = 1e30;

  void add(int64_t tokens, double wall, double cpu) {
    tokens_per_s = std::max(tokens_per_s, static_cast<double>(tokens) / wall);
    cpu_us_per_token = std::min(cpu_us_per_token, 1e6 * cpu / static_cast<double>(tokens));
  }
};

std::vector<TokenId> random_prompt(int32_t tokens, int32_t vocab, uint32_t seed) {
  std::vector<TokenId> prompt(tokens);
  uint32_t x = seed * 2654435761U + 1;
  for (TokenId& id : prompt) {
    x = x * 1664525U + 1013904223U;
    id = static_cast<TokenId>((x >> 8) % static_cast<uint32_t>(vocab));
  }
  return prompt;
}

SamplingParams sampling_of(int32_t tokens, float temperature) {
  SamplingParams sampling;
  sampling.temperature = temperature;
  sampling.max_tokens = tokens;
  sampling.ignore_eos = true;
  return sampling;
}

// `rows` sequences decoding side by side.
Rate decode_rate(StepDriver& driver, int32_t vocab, int32_t rows, int32_t steps,
                 float temperature) {
  Rate best;
  for (int run = 0; run < 3; ++run) {
    StepPlan plan;
    std::vector<SlotId> slots;
    for (int32_t r = 0; r < rows; ++r) {
      slots.push_back(driver.open(plan, random_prompt(kPrompt, vocab, r + 1),
                                  sampling_of(steps + 1, temperature)));
      plan.rows.push_back({slots.back(), RowKind::kPrefill, kPrompt, true});
    }
    driver.run(plan);
    plan = StepPlan{};
    for (const SlotId slot : slots) plan.rows.push_back({slot, RowKind::kDecode, 1, true});
    const double start = now_s();
    const double cpu = cpu_s();
    for (int32_t i = 0; i < steps; ++i) driver.run(plan);
    best.add(int64_t{rows} * steps, now_s() - start, cpu_s() - cpu);
    plan = StepPlan{};
    for (const SlotId slot : slots) driver.close(plan, slot);
    driver.run(plan);
  }
  return best;
}

Rate prefill_rate(StepDriver& driver, int32_t vocab, int32_t tokens) {
  Rate best;
  for (int run = 0; run < 3; ++run) {
    StepPlan plan;
    const SlotId slot = driver.open(plan, random_prompt(tokens, vocab, 7), sampling_of(1, 0.0F));
    plan.rows = {{slot, RowKind::kPrefill, tokens, true}};
    const double start = now_s();
    const double cpu = cpu_s();
    driver.run(plan);
    best.add(tokens, now_s() - start, cpu_s() - cpu);
    plan = StepPlan{};
    driver.close(plan, slot);
    driver.run(plan);
  }
  return best;
}

int run(const std::string& directory, int32_t threads, Numerics numerics) {
  const auto source = Checkpoint::open(directory);
  if (!source.is_ok()) {
    std::fprintf(stderr, "%s\n", source.status().to_string().c_str());
    return 1;
  }
  const auto ops = make_cpu_ops({numerics, threads, int64_t{1} << 30});
  ModelOptions options;
  options.tokens_max = 2048;
  const double start = now_s();
  auto model = load_model(directory, **source, *ops, {}, options);
  if (!model.is_ok()) {
    std::fprintf(stderr, "%s\n", model.status().to_string().c_str());
    return 1;
  }
  std::printf("load %.3f s, %d threads, %s\n", now_s() - start, threads,
              numerics == Numerics::kNative ? "native" : "reference");
  testing::DriverLimits limits;
  limits.tokens_max = 2048;
  limits.slots = 70;
  limits.blocks = 600;
  StepDriver driver(*ops, **model, limits);
  driver.keep_logits(false);
  const int32_t vocab = (*model)->info().vocab;
  const auto print = [](const char* what, int32_t n, const Rate& rate, const Rate& one) {
    std::printf("%s %4d: %8.1f tokens/s (%.2f x batch 1), %7.1f CPU us a token\n", what, n,
                rate.tokens_per_s, rate.tokens_per_s / one.tokens_per_s, rate.cpu_us_per_token);
  };
  const Rate one = decode_rate(driver, vocab, 1, 64, 0.0F);
  print("decode batch", 1, one, one);
  for (const int32_t rows : {4, 16, 64}) {
    print("decode batch", rows, decode_rate(driver, vocab, rows, 64, 0.0F), one);
  }
  print("sampled batch", 16, decode_rate(driver, vocab, 16, 64, 0.8F), one);
  for (const int32_t n : {64, 512, 1024}) print("prefill", n, prefill_rate(driver, vocab, n), one);
  return 0;
}

}  // namespace
}  // namespace fathom

int main(int argc, char** argv) {
  if (argc < 2) {
    std::fprintf(stderr, "usage: cpu_step_bench MODEL_DIR [threads] [native|reference]\n");
    return 2;
  }
  const auto cores = static_cast<int32_t>(std::thread::hardware_concurrency());
  const int32_t threads = std::max(1, argc > 2 ? std::atoi(argv[2]) : cores);
  const bool reference = argc > 3 && std::strcmp(argv[3], "reference") == 0;
  return fathom::run(argv[1], threads,
                     reference ? fathom::Numerics::kReference : fathom::Numerics::kNative);
}
