// The simulated world's clock, clients and rules.
#include "simulation.h"

#include <algorithm>
#include <utility>

namespace fathom {
namespace {

// A 2-bit hash: nearly every block collides with others.
BlockHash colliding_hash() {
  return [](std::span<const std::byte> bytes) {
    return Hash128{static_cast<uint64_t>(bytes[bytes.size() - 4]) & 3, 0};
  };
}

BlockHash make_hash(bool colliding) {
  return colliding ? colliding_hash() : keyed_block_hash(KeyedHasher::Key{});
}

constexpr int32_t kStuckTicks = 20000;

}  // namespace

Simulation::Simulation(uint64_t seed, SimulationSetup setup)
    : random_(seed), setup_(std::move(setup)) {
  for (int32_t i = 0; i < setup_.tenants * setup_.prefixes; ++i) {
    std::vector<TokenId>& prefix = prefixes_.emplace_back();
    const int32_t length = random_.between(1, setup_.prompt_tokens_max);
    for (int32_t t = 0; t < length; ++t) prefix.push_back(random_.between(2, 9));
  }
  restart();
}

Simulation::~Simulation() = default;

void Simulation::restart() {
  if (scheduler_) counts_.preemptions += scheduler_->stats().preemptions_total;
  slots_.clear();
  setup_.executor.seed = random_.next();
  executor_ = std::make_unique<SimExecutor>(setup_.executor);
  executor_->advance_to(now_us_);
  scheduler_ = std::make_unique<Scheduler>(setup_.scheduler, setup_.layout,
                                           make_hash(setup_.colliding_hash));
}

void Simulation::problem(std::string what) {
  if (!problem_) problem_ = "step " + std::to_string(counts_.steps) + ": " + std::move(what);
}

std::optional<std::string> Simulation::run(int32_t steps) {
  const uint64_t end = counts_.steps + steps;
  int32_t ticks = 0;
  uint64_t last_step = counts_.steps;
  // Clients come until the last steps, then everything must end.
  while (!problem_ && (counts_.steps < end || !scheduler_->idle())) {
    tick(counts_.steps < end);
    ticks = counts_.steps == last_step ? ticks + 1 : 0;
    last_step = counts_.steps;
    if (ticks > kStuckTicks) problem("no step completes any more");
  }
  take(scheduler_->take_events().events);
  if (!problem_ && !clients_.empty()) {
    problem("request " + std::to_string(clients_.begin()->first) + " never ended");
  }
  counts_.preemptions += scheduler_->stats().preemptions_total;
  return problem_;
}

void Simulation::tick(bool clients_come) {
  if (clients_come && random_.one_in(setup_.arrival_period)) {
    for (int32_t n = random_.between(1, setup_.burst_max); n > 0; --n) arrive();
  }
  if (random_.one_in(setup_.cancel_period)) cancel_someone();
  if (problem_) return;
  // The engine may be late with a plan, or see a result before it has planned ahead.
  if (!random_.one_in(4)) make_plans();
  if (problem_) return;
  const std::optional<int64_t> ready = executor_->next_ready_us();
  now_us_ =
      ready && random_.one_in(2) ? std::max(now_us_, *ready) : now_us_ + random_.between(0, 40);
  executor_->advance_to(now_us_);
  if (random_.one_in(8)) {
    scheduler_->expire(now_us_);
    take(scheduler_->take_events().events);
  }
  complete_step();
}

Request Simulation::make_request() {
  Request r;
  r.id = next_id_++;
  const int32_t tenant = random_.between(0, setup_.tenants - 1);
  r.tenant = static_cast<uint64_t>(tenant);
  if (!random_.one_in(4)) {
    const int32_t which = tenant * setup_.prefixes + random_.between(0, setup_.prefixes - 1);
    r.prompt = prefixes_[which];
    r.prompt.resize(random_.between(1, static_cast<int32_t>(r.prompt.size())));
  }
  const int32_t more = random_.between(r.prompt.empty() ? 1 : 0, setup_.prompt_tokens_max);
  if (!random_.one_in(3) || r.prompt.empty()) {
    for (int32_t i = 0; i < more; ++i) r.prompt.push_back(random_.between(2, 9));
  }
  r.sampling.seed = random_.one_in(2) ? r.id : 7;
  r.sampling.max_tokens = random_.between(1, setup_.answer_tokens_max);
  r.sampling.min_tokens = random_.one_in(8) ? random_.between(1, r.sampling.max_tokens) : 0;
  r.sampling.ignore_eos = random_.one_in(6);
  r.sampling.prompt_logprobs = random_.one_in(12);
  if (random_.one_in(8)) r.sampling.stop_token_ids.push_back(random_.between(2, 400));
  if (random_.one_in(6)) r.sampling.presence_penalty = 0.5F;
  r.priority = random_.between(0, setup_.priorities - 1);
  if (random_.one_in(setup_.deadline_period)) r.deadline_us = now_us_ + random_.between(0, 6000);
  r.cache_prefix = !random_.one_in(10);
  // The simulated sampler does not read min_p: there it says whose slot a plan opens.
  r.sampling.min_p = static_cast<float>(r.id);
  return r;
}

void Simulation::arrive() {
  Client client;
  client.request = make_request();
  const Status status = scheduler_->admit(client.request, now_us_);
  if (!status.is_ok()) {
    ++counts_.refusals;
    const auto prompt = static_cast<int32_t>(client.request.prompt.size());
    const bool known =
        status.code() == Code::kInvalidArgument
            ? prompt >= scheduler_->max_model_len() || setup_.scheduler.penalty_slots == 0
            : status.reason() == "queue_full";
    if (!known) problem("a good request was refused: " + status.to_string());
    return;
  }
  const int32_t length_max = scheduler_->max_model_len();
  client.answer = reference_answer(setup_.executor.model, client.request.prompt,
                                   client.request.sampling, length_max);
  note_admission(std::move(client));
}

// The work that may be done before the newcomer's last token: everything that is there, and whoever
// overtakes it later. Each request's tokens may have to be computed once more a preemption.
void Simulation::note_admission(Client client) {
  ++counts_.requests;
  const Request& r = client.request;
  const int64_t key = queue_key(now_us_, r.priority, setup_.scheduler.priority_step_us);
  const uint64_t own = (r.prompt.size() + client.answer.tokens.size()) *
                       static_cast<uint64_t>(1 + setup_.scheduler.preemptions_max);
  client.key = key;
  client.admitted_step = counts_.steps;
  client.admitted_us = now_us_;
  client.work = own;
  for (auto& [id, other] : clients_) {
    client.work += (other.request.prompt.size() + other.answer.tokens.size()) *
                   static_cast<uint64_t>(1 + setup_.scheduler.preemptions_max);
    const bool passes = key < other.key || other.request.sampling.presence_penalty != 0.0F;
    if (passes || may_wait_for_prefix(other)) other.work += own;
  }
  clients_.emplace(r.id, std::move(client));
}

// It has not begun, and another request may be computing the first block of its prompt: it lets
// others pass until that block is cached.
bool Simulation::may_wait_for_prefix(const Client& client) const {
  const Request& r = client.request;
  const auto block = static_cast<size_t>(setup_.layout.block_tokens);
  const auto reads_cache = [&](const Request& request) {
    return setup_.scheduler.enable_prefix_caching && request.cache_prefix;
  };
  if (client.started || !reads_cache(r) || r.prompt.size() <= block) return false;
  return std::ranges::any_of(clients_, [&](const auto& entry) {
    const Request& other = entry.second.request;
    if (other.id == r.id || !reads_cache(other)) return false;
    if (setup_.colliding_hash) return true;
    return other.tenant == r.tenant && other.prompt.size() >= block &&
           std::equal(r.prompt.begin(), r.prompt.begin() + static_cast<ptrdiff_t>(block),
                      other.prompt.begin());
  });
}

void Simulation::cancel_someone() {
  if (clients_.empty() || random_.one_in(20)) {
    scheduler_->cancel(next_id_ + 5);
    if (!ended_.empty()) scheduler_->cancel(*ended_.rbegin());
    return;
  }
  auto it = clients_.begin();
  std::advance(it, random_.between(0, static_cast<int32_t>(clients_.size()) - 1));
  ++counts_.cancels;
  it->second.cancelled = true;
  scheduler_->cancel(it->first);
  check_books();
}

void Simulation::make_plans() {
  for (int32_t n = random_.between(1, setup_.scheduler.depth); n > 0 && !problem_; --n) {
    before_plan(*scheduler_);
    const bool empty_flight = scheduler_->plans_in_flight() == 0;
    std::optional<StepPlan> plan = scheduler_->plan(now_us_);
    check_books();
    if (!plan) {
      take(scheduler_->take_events().events);
      if (empty_flight && !scheduler_->idle()) problem("requests wait and nothing is planned");
      return;
    }
    change_plan(*plan);
    check_plan(*plan);
    executor_->submit(std::move(*plan));
    if (executor_->violation()) problem(*executor_->violation());
  }
}

void Simulation::check_plan(const StepPlan& plan) {
  for (SlotId slot : plan.close) slots_.erase(slot);
  for (const OpenSlot& open : plan.open) {
    const auto it = clients_.find(static_cast<RequestId>(open.sampling->min_p));
    if (it == clients_.end()) return problem("a plan opens a slot for no living request");
    const std::vector<TokenId>& prompt = it->second.request.prompt;
    const size_t again = setup_.scheduler.deterministic ? 0 : it->second.received;
    if (open.tokens->size() != prompt.size() + again ||
        !std::equal(prompt.begin(), prompt.end(), open.tokens->begin())) {
      problem("a plan opens a slot with wrong tokens");
    }
    if (++it->second.opens > 1 + setup_.scheduler.preemptions_max) {
      problem("a request was preempted too often");
    }
    slots_[open.slot] = it->first;
    if (open.computed_tokens >= static_cast<int32_t>(open.tokens->size())) {
      problem("a prefix-cache hit covers the whole prompt");
    }
  }
  if (plan.token_count() > setup_.scheduler.max_num_batched_tokens) problem("a plan over budget");
  std::set<SlotId> seen;
  bool prefill = false;
  for (const PlanRow& row : plan.rows) {
    if (!seen.insert(row.slot).second) problem("two rows of one slot");
    if (prefill && row.kind != RowKind::kPrefill) problem("a decode row after a prefill row");
    prefill = row.kind == RowKind::kPrefill;
    check_row(row);
  }
}

void Simulation::check_row(const PlanRow& row) {
  if (row.tokens < 1) problem("a row without tokens");
  if (row.kind == RowKind::kPrefill && !row.sample && row.tokens < setup_.layout.block_tokens) {
    problem("a prefill chunk below one block that does not end its prompt");
  }
  const auto it = slots_.find(row.slot);
  if (it == slots_.end()) return problem("a row of a slot that is not open");
  // What has ended for its client is in no plan made afterwards.
  if (ended_.contains(it->second)) {
    problem("request " + std::to_string(it->second) + " ended, and is planned");
  }
  const auto client = clients_.find(it->second);
  if (client != clients_.end() && client->second.cancelled) {
    problem("request " + std::to_string(it->second) + " was cancelled, and is planned");
  }
}

void Simulation::complete_step() {
  if (problem_) return;
  std::optional<StepResult> result = take_result(*executor_);
  if (executor_->violation()) return problem(*executor_->violation());
  if (!executor_->health().is_ok()) return fail_executor();
  if (!result) return;
  for (const RowResult& row : result->rows) {
    if (row.accepted == 0) ++counts_.surplus_rows;
    if (row.drafted + 1 > static_cast<int32_t>(row.tokens.size())) ++counts_.draft_rejections;
  }
  take(scheduler_->commit(std::move(*result), now_us_).events);
  ++counts_.steps;
  after_commit(*scheduler_);
  check_books();
  check_waits();
}

void Simulation::fail_executor() {
  ++counts_.failures;
  scheduler_->fail_all(executor_->health());
  check_books();
  take(scheduler_->take_events().events);
  if (!clients_.empty()) problem("a request did not end with its engine");
  if (!scheduler_->idle()) problem("a failed scheduler is not idle");
  restart();
}

void Simulation::check_books() {
  if (problem_) return;
  const Status status = scheduler_->find_broken_invariant();
  if (!status.is_ok()) problem(status.message());
}

// Every step serves at least one token of the work before a request's end, but for the steps that
// wait for plans in flight.
void Simulation::check_waits() {
  const uint64_t slack = 16 + 8 * static_cast<uint64_t>(setup_.scheduler.depth);
  for (const auto& [id, client] : clients_) {
    const double bound = static_cast<double>(client.work + slack);
    const double ratio = static_cast<double>(counts_.steps - client.admitted_step) / bound;
    counts_.wait_ratio_max = std::max(counts_.wait_ratio_max, ratio);
    if (ratio > 1.0) problem("request " + std::to_string(id) + " starves");
  }
}

}  // namespace fathom
