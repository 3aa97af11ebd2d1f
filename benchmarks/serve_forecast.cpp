// Foretells serving without a GPU: the scheduler, two plans in flight, over steps that take what
// they were measured to take. For settings and policies of the scheduler before a GPU tells.
//
//   serve_forecast [--costs FILE] [--input N] [--output N] [--slowdown X] [--step-ms X]
//                  [--blocks N] MODEL CLIENTS
//
// MODEL: a name in the costs' file (benchmarks/step_costs.json, whose fields are StepCosts'). All
// clients begin at once, each with one prompt of --input tokens (1000) and an answer of --output
// (1000). One JSON object: tokens/s, times to a first token, gaps between tokens.
#include <algorithm>
#include <cmath>
#include <cstdio>
#include <cstdlib>
#include <deque>
#include <fstream>
#include <nlohmann/json.hpp>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "sched/scheduler.h"

namespace fathom {
namespace {

using nlohmann::json;

// What a step does.
struct StepWork {
  int64_t context = 0;  // cached tokens that the rows that decode see, all together
  int32_t decodes = 0;
  int32_t prompt_tokens = 0;
  double pairs = 0.0;  // of a prompt's token and one before it
};

// What steps of one model on one GPU take, microseconds.
struct StepCosts {
  double context_bytes = 0.0;   // that a cached token is read as
  double tb_per_s = 0.0;        // of that reading
  std::vector<double> rows;     // points of a line: so many rows that decode,
  std::vector<double> rows_us;  // and what their step takes beside the cache
  double prompt_step_us = 0.0;  // of a step with prompts, in place of the line,
  double token_us = 0.0;        // of a token, those that decode counted,
  int32_t tokens_at_once = 1;   // of so many each, as tiles are full,
  double decode_us = 0.0;       // of a row that decodes beside,
  double pair_us = 0.0;         // of a pair
  double between_us = 0.0;      // of two steps
  std::optional<int32_t> round_tokens;
  int32_t blocks = 0;  // of the cache, 64 tokens each

  double of(const StepWork& w) const {
    double us = between_us + static_cast<double>(w.context) * context_bytes / (tb_per_s * 1e6);
    if (w.prompt_tokens == 0) return us + line(w.decodes);
    const double turns = std::ceil(static_cast<double>(w.decodes + w.prompt_tokens) /
                                   static_cast<double>(tokens_at_once));
    us += prompt_step_us + token_us * turns * tokens_at_once;
    return us + decode_us * w.decodes + pair_us * w.pairs;
  }

 private:
  double line(double at) const {
    size_t i = 1;
    while (i + 1 < rows.size() && rows[i] < at) ++i;
    const double part = (at - rows[i - 1]) / (rows[i] - rows[i - 1]);
    return rows_us[i - 1] + part * (rows_us[i] - rows_us[i - 1]);
  }
};

StepCosts costs_of(const json& j) {
  StepCosts c;
  j.at("context_bytes").get_to(c.context_bytes);
  j.at("tb_per_s").get_to(c.tb_per_s);
  j.at("rows").get_to(c.rows);
  j.at("rows_us").get_to(c.rows_us);
  j.at("prompt_step_us").get_to(c.prompt_step_us);
  j.at("token_us").get_to(c.token_us);
  j.at("tokens_at_once").get_to(c.tokens_at_once);
  j.at("decode_us").get_to(c.decode_us);
  j.at("pair_us").get_to(c.pair_us);
  j.at("between_us").get_to(c.between_us);
  j.at("blocks").get_to(c.blocks);
  if (j.contains("round_tokens")) c.round_tokens = j.at("round_tokens").get<int32_t>();
  return c;
}

// Answers plans after what they cost.
class Device {
 public:
  Device(const StepCosts& costs, int32_t slots) : costs_(costs), slots_(slots) {}

  bool idle() const { return in_flight_.empty(); }
  void submit(StepPlan plan) { in_flight_.push_back(std::move(plan)); }

  StepResult complete() {
    const StepPlan plan = std::move(in_flight_.front());
    in_flight_.pop_front();
    for (const OpenSlot& o : plan.open) {
      slots_[o.slot] = {0, static_cast<int32_t>(o.tokens->size()),
                        o.prompt_tokens + o.sampling->max_tokens};
    }
    StepResult result;
    result.number = plan.number;
    StepWork work;
    for (const PlanRow& row : plan.rows) result.rows.push_back(run(row, work));
    result.own_us = static_cast<int64_t>(costs_.of(work));
    return result;
  }

 private:
  struct Slot {
    int32_t computed = 0;  // of the prompt
    int32_t length = 0;
    int32_t length_max = 0;
  };

  RowResult run(const PlanRow& row, StepWork& work) {
    Slot& slot = slots_[row.slot];
    RowResult r;
    r.slot = row.slot;
    if (slot.length >= slot.length_max) return r;
    r.accepted = row.tokens;
    if (row.kind == RowKind::kPrefill) {
      work.prompt_tokens += row.tokens;
      work.pairs += row.tokens * (slot.computed + row.tokens / 2.0);
      slot.computed += row.tokens;
    } else {
      work.context += slot.length;
      ++work.decodes;
    }
    if (row.sample) r.tokens.push_back(++slot.length * 7919 % 100000);
    if (slot.length >= slot.length_max) r.finish = FinishReason::kLength;
    return r;
  }

  const StepCosts& costs_;
  std::deque<StepPlan> in_flight_;
  std::vector<Slot> slots_;
};

struct Asked {
  std::string model;
  int32_t clients = 0;
  int32_t input = 1000;
  int32_t output = 1000;
  double slowdown = 2.0;
  double step_ms = 35.0;
  std::string costs = "benchmarks/step_costs.json";
  std::optional<int32_t> blocks;
};

SchedulerOptions options_of(const Asked& asked, const StepCosts& costs) {
  SchedulerOptions o;
  o.max_model_len = asked.input + asked.output;
  o.max_num_seqs = asked.clients;
  o.max_num_batched_tokens = 8192;
  o.blocks = {costs.blocks};
  o.queued_requests_max = asked.clients;
  o.queued_tokens_max = int64_t{asked.clients} * asked.input;
  o.prefill_slowdown_max = asked.slowdown;
  o.prefill_step_us_max = static_cast<int64_t>(asked.step_ms * 1000.0);
  o.round_tokens = costs.round_tokens;
  return o;
}

KvLayout layout_of_blocks() {
  KvLayout layout;
  layout.block_tokens = 64;
  layout.groups.emplace_back();
  return layout;
}

class Forecast {
 public:
  Forecast(const Asked& asked, const StepCosts& costs)
      : asked_(asked),
        scheduler_(options_of(asked, costs), layout_of_blocks(),
                   keyed_block_hash(KeyedHasher::random_key())),
        device_(costs, asked.clients + 1),
        last_us_(static_cast<size_t>(asked.clients) + 1, 0) {}

  json run() {
    for (int32_t i = 0; i < std::min(asked_.clients, 16); ++i) admit(64, 32);  // prices are learned
    serve(false);
    const int64_t begin = now_us_;
    for (int32_t i = 0; i < asked_.clients; ++i) admit(asked_.input, asked_.output);
    serve(true);
    return report(static_cast<double>(now_us_ - begin) / 1e6);
  }

 private:
  void admit(int32_t input, int32_t output) {
    Request r;
    r.id = ++last_id_;
    for (int32_t i = 0; i < input; ++i) {
      state_ = state_ * 6364136223846793005ULL + 1442695040888963407ULL;
      r.prompt.push_back(static_cast<TokenId>((state_ >> 33) % 100000));
    }
    r.sampling.max_tokens = output;
    const Status status = scheduler_.admit(std::move(r), now_us_);
    FATHOM_CHECK(status.is_ok(), status.to_string());
  }

  void serve(bool counts) {
    const int64_t begin = now_us_;
    std::ranges::fill(last_us_, 0);
    while (!scheduler_.idle()) {
      while (auto plan = scheduler_.plan(now_us_)) device_.submit(std::move(*plan));
      FATHOM_CHECK(!device_.idle(), "nothing is planned");
      StepResult result = device_.complete();
      now_us_ += result.own_us;
      if (counts) note(result, begin);
      scheduler_.commit(std::move(result), now_us_);
    }
  }

  void note(const StepResult& result, int64_t begin) {
    ++steps_;
    for (const RowResult& r : result.rows) {
      if (r.tokens.empty()) continue;
      int64_t& last = last_us_[static_cast<size_t>(r.slot)];
      (last == 0 ? first_ms_ : gaps_ms_)
          .push_back(static_cast<double>(now_us_ - (last == 0 ? begin : last)) / 1e3);
      last = r.finish == FinishReason::kNone ? now_us_ : 0;
    }
  }

  static json spread(std::vector<double> of) {
    std::ranges::sort(of);
    const auto at = [&](double part) {
      const auto index = static_cast<size_t>(part * static_cast<double>(of.size()));
      return of[std::min(of.size() - 1, index)];
    };
    return {{"p50", at(0.5)}, {"p90", at(0.9)}, {"p99", at(0.99)}, {"max", of.back()}};
  }

  json report(double seconds) const {
    const json gaps = spread(gaps_ms_);
    return {{"model", asked_.model},
            {"clients", asked_.clients},
            {"seconds", seconds},
            {"output_tokens_per_second", asked_.clients * asked_.output / seconds},
            {"ttft_ms", spread(first_ms_)},
            {"itl_ms", gaps},
            {"itl_p99_over_p50", gaps["p99"].get<double>() / gaps["p50"].get<double>()},
            {"steps", steps_},
            {"preemptions", scheduler_.stats().preemptions_total}};
  }

  Asked asked_;
  Scheduler scheduler_;
  Device device_;
  std::vector<int64_t> last_us_;  // a slot's last token
  RequestId last_id_ = 0;
  int64_t now_us_ = 0;
  uint64_t state_ = 1;
  int32_t steps_ = 0;
  std::vector<double> first_ms_;
  std::vector<double> gaps_ms_;
};

// One of its flags, or false.
bool take_flag(std::string_view flag, const char* value, Asked& asked) {
  if (flag == "--costs") {
    asked.costs = value;
  } else if (flag == "--input") {
    asked.input = std::atoi(value);
  } else if (flag == "--output") {
    asked.output = std::atoi(value);
  } else if (flag == "--slowdown") {
    asked.slowdown = std::atof(value);
  } else if (flag == "--step-ms") {
    asked.step_ms = std::atof(value);
  } else if (flag == "--blocks") {
    asked.blocks = std::atoi(value);
  } else {
    return false;
  }
  return true;
}

bool take_arguments(int argc, char** argv, Asked& asked) {
  int i = 1;
  for (; i + 1 < argc && std::string_view(argv[i]).starts_with("--"); i += 2) {
    if (!take_flag(argv[i], argv[i + 1], asked)) return false;
  }
  if (argc != i + 2) return false;
  asked.model = argv[i];
  asked.clients = std::atoi(argv[i + 1]);
  return asked.clients > 0 && asked.input > 0 && asked.output > 1 && asked.slowdown > 1.0;
}

int run(int argc, char** argv) {
  Asked asked;
  if (!take_arguments(argc, argv, asked)) {
    std::fprintf(stderr,
                 "usage: serve_forecast [--costs FILE] [--input N] [--output N] [--slowdown X] "
                 "[--step-ms X] [--blocks N] MODEL CLIENTS\n");
    return 2;
  }
  std::ifstream file(asked.costs);
  const json all = json::parse(file, nullptr, false);
  if (all.is_discarded() || !all.contains(asked.model)) {
    std::fprintf(stderr, "%s: not a file of costs, or without %s\n", asked.costs.c_str(),
                 asked.model.c_str());
    return 2;
  }
  StepCosts costs = costs_of(all.at(asked.model));
  costs.blocks = asked.blocks.value_or(costs.blocks);
  std::printf("%s\n", Forecast(asked, costs).run().dump().c_str());
  return 0;
}

}  // namespace
}  // namespace fathom

int main(int argc, char** argv) { return fathom::run(argc, argv); }
