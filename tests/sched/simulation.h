// Simulation: a seed's world around one scheduler. Random clients (shared prefixes, tenants,
// priorities, deadlines, cancels), a simulated executor with a virtual clock, failures and
// restarts; after every step the scheduler's invariants, and at every event the rules a client may
// rely on. One thread.
#pragma once

#include <cstdint>
#include <map>
#include <memory>
#include <optional>
#include <set>
#include <string>
#include <vector>

#include "sched/scheduler.h"
#include "support/sim_executor.h"

namespace fathom {

// The world of one seed.
struct SimulationSetup {
  SchedulerOptions scheduler;
  KvLayout layout;
  SimOptions executor;
  int32_t tenants = 1;
  int32_t prefixes = 2;  // shared beginnings of prompts, per tenant
  int32_t prompt_tokens_max = 1;
  int32_t answer_tokens_max = 1;
  int32_t arrival_period = 4;  // one request in so many ticks while clients come
  int32_t burst_max = 1;
  int32_t cancel_period = 50;    // one cancel in so many ticks
  int32_t deadline_period = 20;  // one request in so many has a deadline
  int32_t priorities = 1;
  bool colliding_hash = false;
};

SimulationSetup make_setup(uint64_t seed);

// How often things happened: a simulation that never reaches a state proves nothing about it.
struct SimulationCounts {
  uint64_t steps = 0;
  uint64_t requests = 0;
  uint64_t tokens = 0;
  uint64_t cached_tokens = 0;
  uint64_t preemptions = 0;
  uint64_t cancels = 0;
  uint64_t deadlines = 0;
  uint64_t refusals = 0;
  uint64_t failures = 0;
  uint64_t surplus_rows = 0;
  uint64_t draft_rejections = 0;
  double wait_ratio_max = 0.0;  // of the bound on a request's steps, the most that one needed

  void add(const SimulationCounts& other);
};

class Simulation {
 public:
  Simulation(uint64_t seed, SimulationSetup setup);
  virtual ~Simulation();

  // Runs `steps` commits, clients coming and going, then lets everything end. The first broken
  // rule, or none.
  std::optional<std::string> run(int32_t steps);
  const SimulationCounts& counts() const { return counts_; }

 protected:
  // Where tests plant a bug.
  virtual void before_plan(Scheduler&) {}
  virtual void after_commit(Scheduler&) {}
  virtual void change_plan(StepPlan&) {}
  virtual std::optional<StepResult> take_result(SimExecutor& executor) { return executor.poll(); }

  SimRandom random_;

 private:
  struct Client {
    Request request;
    SimAnswer answer;
    size_t received = 0;
    bool started = false;
    bool finished = false;
    bool cancelled = false;
    int32_t prompt_logprobs = 0;
    int32_t opens = 0;
    uint64_t admitted_step = 0;
    int64_t admitted_us = 0;
    uint64_t work = 0;  // tokens that may be served before its last, its own included
    int64_t key = 0;
  };

  void restart();
  void tick(bool clients_come);
  void arrive();
  Request make_request();
  void note_admission(Client client);
  bool may_wait_for_prefix(const Client& client) const;
  void cancel_someone();
  void make_plans();
  void check_plan(const StepPlan& plan);
  void check_row(const PlanRow& row);
  void complete_step();
  void fail_executor();
  void take(const std::vector<RequestEvent>& events);
  void take_started(Client& client, const StartedEvent& event);
  void take_tokens(Client& client, const TokensEvent& event);
  void take_finished(Client& client, const FinishedEvent& event);
  void check_books();
  void check_waits();
  void problem(std::string what);

  SimulationSetup setup_;
  SimulationCounts counts_;
  std::optional<std::string> problem_;
  int64_t now_us_ = 0;
  RequestId next_id_ = 1;
  std::map<RequestId, Client> clients_;  // not finished yet
  std::set<RequestId> ended_;
  std::map<SlotId, RequestId> slots_;  // by the plans' OpenSlots
  std::vector<std::vector<TokenId>> prefixes_;
  std::unique_ptr<Scheduler> scheduler_;
  std::unique_ptr<SimExecutor> executor_;
};

}  // namespace fathom
