// bench serve: a closed loop of clients, or an open loop of Poisson arrivals, against a server.
// One thread a client: the bench measures the server, and that costs little.
#include <pthread.h>

#include <algorithm>
#include <atomic>
#include <chrono>
#include <cmath>
#include <condition_variable>
#include <deque>
#include <mutex>
#include <ostream>
#include <random>
#include <thread>

#include "base/json.h"
#include "ctl/bench_stats.h"
#include "ctl/commands.h"

namespace fathom::ctl {
namespace {

using Clock = std::chrono::steady_clock;

constexpr int64_t kOpenLoopClientsMax = 512;
constexpr size_t kClientStackBytes = size_t{1} << 20;

double ms_between(Clock::time_point from, Clock::time_point to) {
  return std::chrono::duration<double, std::milli>(to - from).count();
}

// Ordinary words: prompts are drawn from their tokens, so that no prompt holds a control token.
constexpr const char* kWords =
    "the river runs past an old stone mill where four children count boats and the "
    "miller reads long letters about winter markets garden tools apples honey bread and small "
    "brass "
    "keys that open quiet doors while evening light falls over fields of barley and clover";

// Makes the body of request number `i`: the same for the same seed, another for every i.
class PromptMaker {
 public:
  PromptMaker(const BenchOptions& options, std::string model, std::vector<int32_t> pool)
      : options_(options), model_(std::move(model)), pool_(std::move(pool)) {
    sampling_.max_tokens = options.output_tokens;
    sampling_.temperature = 0.0;
    sampling_.ignore_eos = true;
  }

  const char* path() const { return by_text() ? "/v1/chat/completions" : "/v1/completions"; }
  std::string body(int64_t i) const {
    std::mt19937_64 random(static_cast<uint64_t>(options_.seed) * 1'000'003 +
                           static_cast<uint64_t>(i));
    if (by_text()) return chat_body(model_, {{"user", words(random)}}, sampling_, std::nullopt);
    std::vector<int32_t> prompt(static_cast<size_t>(options_.input_tokens));
    for (int32_t& id : prompt) id = pool_[random() % pool_.size()];
    return completion_body(model_, prompt, sampling_);
  }

 private:
  bool by_text() const { return options_.chat; }
  // About as many tokens as were asked for: a common word is one.
  std::string words(std::mt19937_64& random) const {
    std::vector<std::string> all;
    for (std::string_view rest = kWords; !rest.empty();) {
      const size_t end = std::min(rest.find(' '), rest.size());
      all.emplace_back(rest.substr(0, end));
      rest.remove_prefix(std::min(end + 1, rest.size()));
    }
    std::string text;
    for (int64_t i = 0; i < options_.input_tokens; ++i) {
      text += (text.empty() ? "" : " ") + all[random() % all.size()];
    }
    return text;
  }

  const BenchOptions& options_;
  std::string model_;
  std::vector<int32_t> pool_;
  SamplingFlags sampling_;
};

// Token ids of the words, from the server's tokenizer.
Result<std::vector<int32_t>> token_pool(HttpClient& client) {
  const Json body = {{"prompt", kWords}, {"add_special_tokens", false}};
  FATHOM_ASSIGN(const HttpResponse response, client.fetch({"POST", "/tokenize", body.dump()}));
  FATHOM_RETURN_IF_ERROR(status_of(response.head, response.body));
  const Result<Json> parsed = parse_json(response.body);
  std::vector<int32_t> ids;
  if (parsed.is_ok() && parsed->is_object() && parsed->contains("tokens")) {
    for (const Json& id : (*parsed)["tokens"]) {
      if (id.is_number_integer()) ids.push_back(id.get<int32_t>());
    }
  }
  if (ids.empty()) return data_loss("the server's answer to /tokenize cannot be read");
  return ids;
}

// Work that is due: request number and the moment its clock starts.
struct Due {
  int64_t number = 0;
  Clock::time_point at;
};

// Shared by the clients of a run. `next` gives a client its next request.
class Schedule {
 public:
  Schedule(const BenchOptions& options, const Console& console)
      : options_(options), console_(console), total_(options.warmup + options.requests) {
    std::mt19937_64 random(static_cast<uint64_t>(options.seed) + 77);
    start_ = Clock::now();
    if (!options.rate) return;
    // Uniform bits to exponential gaps by hand: the standard's distribution differs by library.
    double at = 0.0;
    for (int64_t i = 0; i < total_; ++i) {
      arrivals_s_.push_back(at);
      const double u = (static_cast<double>(random() >> 11) + 0.5) * 0x1p-53;
      at += -std::log(u) / *options.rate;
    }
  }

  // Waits until the request is due. Empty when there is none left.
  std::optional<Due> next() {
    const int64_t i = next_++;
    if (i >= total_ || stopped()) return std::nullopt;
    if (arrivals_s_.empty()) return Due{i, Clock::now()};
    const auto at =
        start_ + std::chrono::duration_cast<Clock::duration>(
                     std::chrono::duration<double>(arrivals_s_[static_cast<size_t>(i)]));
    while (Clock::now() < at) {
      if (stopped()) return std::nullopt;
      std::this_thread::sleep_until(std::min(at, Clock::now() + std::chrono::milliseconds(200)));
    }
    return Due{i, at};
  }

  bool stopped() const {
    if (console_.interrupted != nullptr && *console_.interrupted) return true;
    const Clock::time_point now = Clock::now();
    return cut(now) || (options_.duration_seconds &&
                        ms_between(start_, now) > *options_.duration_seconds * 1e3);
  }
  // Time is up: answers that still come are cut.
  bool cut(Clock::time_point now) const {
    return options_.stop_seconds && ms_between(start_, now) > *options_.stop_seconds * 1e3;
  }
  bool is_warmup(int64_t number) const { return number < options_.warmup; }
  Clock::time_point start() const { return start_; }
  int64_t total() const { return total_; }

 private:
  const BenchOptions& options_;
  const Console& console_;
  const int64_t total_;
  std::vector<double> arrivals_s_;
  Clock::time_point start_;
  std::atomic<int64_t> next_{0};
};

// What the clients leave behind.
struct Results {
  std::mutex mutex;
  std::condition_variable changed;
  std::vector<RequestRecord> records;  // under mutex: measured ones
  int64_t done = 0;                    // under mutex: warm-up too
  int64_t clients_running = 0;         // under mutex
};

RequestRecord run_request(HttpClient& client, const PromptMaker& prompts, const Due& due,
                          const Schedule& schedule) {
  RequestRecord record;
  record.start_ms = ms_between(schedule.start(), due.at);
  const std::string body = prompts.body(due.number);
  Clock::time_point last = due.at;
  const Result<Generated> answer = generate(client, prompts.path(), body, [&](const Delta&) {
    const Clock::time_point now = Clock::now();
    if (record.ttft_ms == 0.0) {
      record.ttft_ms = ms_between(due.at, now);
    } else {
      record.gaps_ms.push_back(ms_between(last, now));
    }
    last = now;
    return !schedule.cut(now);
  });
  record.ok = answer.is_ok();
  if (!record.ok) {
    record.error = answer.status().message();
    return record;
  }
  // An answer whose tokens are no text has no event to go by.
  if (record.ttft_ms == 0.0) last = Clock::now();
  if (record.ttft_ms == 0.0) record.ttft_ms = ms_between(due.at, last);
  record.e2e_ms = ms_between(due.at, last);
  record.prompt_tokens = answer->prompt_tokens;
  record.cached_tokens = answer->cached_tokens;
  record.output_tokens = answer->completion_tokens > 0 ? answer->completion_tokens : answer->events;
  return record;
}

void run_client(const ClientConfig& config, const PromptMaker& prompts, Schedule& schedule,
                Results& results) {
  HttpClient client(config);
  while (const std::optional<Due> due = schedule.next()) {
    RequestRecord record = run_request(client, prompts, *due, schedule);
    std::lock_guard lock(results.mutex);
    ++results.done;
    if (!schedule.is_warmup(due->number)) results.records.push_back(std::move(record));
    results.changed.notify_all();
  }
  std::lock_guard lock(results.mutex);
  --results.clients_running;
  results.changed.notify_all();
}

// While it lives, new threads have small stacks: glibc's 8 MiB for each of 512 clients is address
// space that a container may count.
class SmallStacks {
 public:
  SmallStacks() {
    pthread_getattr_default_np(&before_);
    pthread_attr_t small;
    pthread_attr_init(&small);
    pthread_attr_setstacksize(&small, kClientStackBytes);
    pthread_setattr_default_np(&small);
    pthread_attr_destroy(&small);
  }
  ~SmallStacks() {
    pthread_setattr_default_np(&before_);
    pthread_attr_destroy(&before_);
  }
  SmallStacks(const SmallStacks&) = delete;
  SmallStacks& operator=(const SmallStacks&) = delete;

 private:
  pthread_attr_t before_;
};

// Starts the clients and shows progress until the last has ended.
void run_all(const BenchOptions& options, const ClientConfig& config, const PromptMaker& prompts,
             Schedule& schedule, Results& results, Console& console) {
  const int64_t clients = std::min(options.rate ? kOpenLoopClientsMax : options.clients,
                                   options.warmup + options.requests);
  results.clients_running = clients;
  std::vector<std::jthread> threads;
  {
    const SmallStacks small;
    for (int64_t i = 0; i < clients; ++i) {
      threads.emplace_back([&] { run_client(config, prompts, schedule, results); });
    }
  }
  ProgressBar bar(console, "bench");
  std::unique_lock lock(results.mutex);
  while (results.clients_running > 0) {
    results.changed.wait_for(lock, std::chrono::milliseconds(200));
    bar.update(
        static_cast<double>(results.done) / static_cast<double>(schedule.total()),
        std::to_string(results.done) + " of " + std::to_string(schedule.total()) + " requests");
  }
}

Json parameters(const BenchOptions& o, const std::string& model) {
  Json body = {{"model", model},
               {"url", o.server.url},
               {"input_tokens", o.input_tokens},
               {"output_tokens", o.output_tokens},
               {"requests", o.requests},
               {"warmup", o.warmup},
               {"chat", o.chat},
               {"seed", o.seed}};
  if (o.rate) {
    body["rate_per_second"] = *o.rate;
  } else {
    body["clients"] = o.clients;
  }
  if (o.slo_ttft_ms) body["slo_ttft_ms"] = *o.slo_ttft_ms;
  if (o.slo_tpot_ms) body["slo_tpot_ms"] = *o.slo_tpot_ms;
  if (o.slo_e2e_ms) body["slo_e2e_ms"] = *o.slo_e2e_ms;
  return body;
}

// The measured time runs from the first measured request to the end of the last.
double measured_seconds(const std::vector<RequestRecord>& records) {
  double first = 0.0;
  double last = 0.0;
  for (const RequestRecord& r : records) {
    first = last == 0.0 ? r.start_ms : std::min(first, r.start_ms);
    last = std::max(last, r.start_ms + r.e2e_ms);
  }
  return (last - first) / 1e3;
}

}  // namespace

int run_bench_serve(const BenchOptions& options, Console& console) {
  Result<ClientConfig> config = client_config(options.server, console);
  if (!config.is_ok()) return report_error(console, config.status());
  HttpClient client(*config);
  std::string model = options.model;
  if (model.empty()) {
    Result<std::string> first = first_model(client);
    if (!first.is_ok()) return report_error(console, first.status());
    model = std::move(first).value();
  }
  std::vector<int32_t> pool;
  if (!options.chat) {
    Result<std::vector<int32_t>> ids = token_pool(client);
    if (!ids.is_ok()) return report_error(console, ids.status());
    pool = std::move(ids).value();
  }
  const PromptMaker prompts(options, model, std::move(pool));
  Schedule schedule(options, console);
  Results results;
  run_all(options, *config, prompts, schedule, results, console);

  const Slo slo{options.slo_ttft_ms, options.slo_tpot_ms, options.slo_e2e_ms};
  const BenchSummary summary = summarize(results.records, measured_seconds(results.records), slo);
  if (console.json) {
    console.out << summary_json(summary, parameters(options, model).dump()) << std::endl;
  } else {
    console.out << summary_text(summary) << std::flush;
  }
  if (summary.failed > 0 && !console.json) {
    console.err << "fathomctl: " << summary.failed
                << " requests failed; the first: " << printable(summary.first_error) << std::endl;
  }
  return summary.failed == 0 && summary.requests > 0 ? kExitOk : kExitFail;
}

}  // namespace fathom::ctl
