// Microseconds of CPU time that the scheduler takes for a step (plan and commit), two plans in
// flight, at up to 256 sequences. The results of steps are made outside the clock.
// Usage: sched_bench [--steps=N]
#include <time.h>

#include <algorithm>
#include <cstdio>
#include <cstdlib>
#include <deque>
#include <string_view>
#include <vector>

#include "sched/scheduler.h"

namespace fathom {
namespace {

struct Load {
  const char* name = "";
  KvLayout layout;
  SchedulerOptions options;
  int32_t prompt_min = 512;
  int32_t prompt_max = 512;
  int32_t answer_min = 1;
  int32_t answer_max = 1;
  int32_t shared_prefix = 0;
  bool arrivals = false;  // as many as end, or only those at the start
};

// Answers plans as a device would, at no cost that is measured: random-looking tokens, all drafts
// kept.
class Device {
 public:
  explicit Device(int32_t slots) : slots_(slots) {}

  void submit(StepPlan plan) { in_flight_.push_back(std::move(plan)); }

  StepResult complete() {
    const StepPlan plan = std::move(in_flight_.front());
    in_flight_.pop_front();
    for (const OpenSlot& o : plan.open) {
      slots_[o.slot] = {static_cast<int32_t>(o.tokens->size()),
                        o.prompt_tokens + o.sampling->max_tokens};
    }
    StepResult result;
    result.number = plan.number;
    for (const PlanRow& row : plan.rows) {
      RowResult& r = result.rows.emplace_back();
      Slot& slot = slots_[row.slot];
      r.slot = row.slot;
      if (slot.length >= slot.length_max) continue;
      r.accepted = row.tokens;
      const int32_t made = row.kind == RowKind::kPrefill ? int32_t{row.sample} : row.tokens;
      for (int32_t i = 0; i < made; ++i) r.tokens.push_back(++slot.length * 7919 % 100000);
      if (slot.length >= slot.length_max) r.finish = FinishReason::kLength;
    }
    return result;
  }

 private:
  struct Slot {
    int32_t length = 0;
    int32_t length_max = 0;
  };
  std::deque<StepPlan> in_flight_;
  std::vector<Slot> slots_;
};

class Run {
 public:
  explicit Run(const Load& load)
      : load_(load),
        scheduler_(load.options, load.layout, keyed_block_hash(KeyedHasher::random_key())),
        device_(load.options.max_num_seqs + 1) {}

  void measure(int32_t steps) {
    for (int32_t i = 0; i < load_.options.max_num_seqs; ++i) admit();
    std::vector<double> us;
    uint64_t rows = 0;
    uint64_t tokens = 0;
    for (int32_t step = -200; step < steps && !scheduler_.idle(); ++step) {
      double step_us = plan_all(rows, tokens, step >= 0);
      StepResult result = device_.complete();
      const double start = cpu_us();
      const CommitOutput out = scheduler_.commit(std::move(result), ++now_us_);
      step_us += cpu_us() - start;
      for (const RequestEvent& e : out.events) {
        if (load_.arrivals && std::holds_alternative<FinishedEvent>(e.event)) admit();
      }
      if (step >= 0) us.push_back(step_us);
    }
    report(us, rows, tokens);
  }

 private:
  // CPU time of this thread: other processes of a busy machine do not count.
  static double cpu_us() {
    timespec t{};
    clock_gettime(CLOCK_THREAD_CPUTIME_ID, &t);
    return static_cast<double>(t.tv_sec) * 1e6 + static_cast<double>(t.tv_nsec) / 1e3;
  }

  int32_t random(int32_t low, int32_t high) {
    state_ = state_ * 6364136223846793005ULL + 1442695040888963407ULL;
    return low + static_cast<int32_t>((state_ >> 33) % static_cast<uint64_t>(high - low + 1));
  }

  void admit() {
    Request r;
    r.id = ++last_id_;
    const int32_t prompt = random(load_.prompt_min, load_.prompt_max);
    for (int32_t i = 0; i < prompt; ++i) {
      r.prompt.push_back(i < load_.shared_prefix ? i : random(0, 100000));
    }
    r.sampling.max_tokens = random(load_.answer_min, load_.answer_max);
    const Status status = scheduler_.admit(std::move(r), now_us_);
    FATHOM_CHECK(status.is_ok(), status.to_string());
  }

  double plan_all(uint64_t& rows, uint64_t& tokens, bool counts) {
    double us = 0.0;
    for (;;) {
      const double start = cpu_us();
      std::optional<StepPlan> plan = scheduler_.plan(now_us_);
      us += cpu_us() - start;
      if (!plan) return us;
      if (counts) {
        rows += plan->rows.size();
        tokens += static_cast<uint64_t>(plan->token_count());
      }
      device_.submit(std::move(*plan));
    }
  }

  void report(std::vector<double>& us, uint64_t rows, uint64_t tokens) const {
    std::ranges::sort(us);
    double sum = 0.0;
    for (double u : us) sum += u;
    const auto n = static_cast<double>(us.size());
    const EngineStats stats = scheduler_.stats();
    std::printf(
        "%-44s %6zu steps  %5.0f rows  %6.0f tokens  mean %6.1f  p50 %6.1f  p99 %6.1f us"
        "  (goal 50)  hits %.0f%%  preemptions %llu\n",
        load_.name, us.size(), static_cast<double>(rows) / n, static_cast<double>(tokens) / n,
        sum / n, us[us.size() / 2], us[us.size() * 99 / 100],
        100.0 * static_cast<double>(stats.prefix_hit_tokens_total) /
            static_cast<double>(std::max<uint64_t>(1, stats.prefix_query_tokens_total)),
        static_cast<unsigned long long>(stats.preemptions_total));
  }

  const Load& load_;
  Scheduler scheduler_;
  Device device_;
  RequestId last_id_ = 0;
  int64_t now_us_ = 0;
  uint64_t state_ = 12345;
};

KvLayout layout_of(std::vector<std::optional<int32_t>> windows, int32_t block_tokens) {
  KvLayout layout;
  layout.block_tokens = block_tokens;
  for (const auto& w : windows) layout.groups.emplace_back().window_tokens = w;
  return layout;
}

Load decode_load(const char* name, KvLayout layout, int32_t steps, int32_t drafts) {
  Load load;
  load.name = name;
  load.layout = std::move(layout);
  const int32_t tokens = 512 + (steps + 400) * (1 + drafts);
  load.options.max_model_len = tokens + 1;
  load.options.speculative_tokens = drafts;
  load.options.blocks.assign(load.layout.groups.size(),
                             256 * (tokens / load.layout.block_tokens + 3));
  load.answer_min = load.answer_max = tokens - 512;
  return load;
}

Load mixed_load(const char* name, int32_t blocks) {
  Load load;
  load.name = name;
  load.layout = layout_of({std::nullopt}, 64);
  load.options.max_model_len = 8192;
  load.options.blocks = {blocks};
  load.prompt_min = 200;
  load.prompt_max = 2000;
  load.answer_min = 64;
  load.answer_max = 512;
  load.shared_prefix = 256;
  load.arrivals = true;
  return load;
}

}  // namespace
}  // namespace fathom

int main(int argc, char** argv) {
  using namespace fathom;
  int32_t steps = 2000;
  for (int i = 1; i < argc; ++i) {
    const std::string_view text(argv[i]);
    if (!text.starts_with("--steps=")) {
      std::fprintf(stderr, "unknown argument %s\n", argv[i]);
      return 2;
    }
    steps = std::max(1, std::atoi(argv[i] + 8));
  }
  const Load loads[] = {
      decode_load("256 decodes, one group (V3)", layout_of({std::nullopt}, 64), steps, 0),
      decode_load("256 verify rows of 2, latent and draft groups",
                  layout_of({std::nullopt, std::nullopt}, 64), steps, 1),
      decode_load("256 decodes, growing and window groups (V4)",
                  layout_of({std::nullopt, std::nullopt, 128}, 128), steps, 0),
      mixed_load("256 slots, mixed prefill, room for all", 256 * 40),
      mixed_load("256 slots, mixed prefill, scarce blocks", 256 * 12),
  };
  for (const Load& load : loads) Run(load).measure(steps);
  return 0;
}
