// Scheduler: continuous batching as pure logic. It deals in ids and values: no clock, no I/O, no
// device, no threads. Owned by the engine; every call on the engine thread.
//
// Up to `depth` plans are in flight: plan n+1 is made before result n is known. Each sequence
// carries what has committed and what the plans in flight reserve; blocks cover the reservation.
// Whatever a plan names stays owned until that plan commits.
#pragma once

#include <cstdint>
#include <memory>
#include <optional>
#include <set>
#include <span>
#include <unordered_map>
#include <utility>
#include <vector>

#include "fathom/engine.h"
#include "fathom/kv_layout.h"
#include "fathom/plan.h"
#include "fathom/request.h"
#include "fathom/status.h"
#include "sched/kv_blocks.h"
#include "sched/options.h"
#include "sched/policy.h"
#include "sched/sequence.h"
#include "sched/step_pace.h"

namespace fathom {

// What to tell a client. Per admitted request in this order: StartedEvent when it begins to run,
// TokensEvents, and exactly one FinishedEvent (a request that ends in the queue has only that).
struct RequestEvent {
  RequestId id = 0;
  StreamEvent event;
};

struct CommitOutput {
  std::vector<RequestEvent> events;
};

class Scheduler {
 public:
  // Names the setting that is wrong, or that contradicts the layout.
  static Status validate(const SchedulerOptions& options, const KvLayout& layout);

  // `options` are valid for `layout`.
  Scheduler(SchedulerOptions options, const KvLayout& layout, BlockHash hash);
  ~Scheduler();
  Scheduler(const Scheduler&) = delete;
  Scheduler& operator=(const Scheduler&) = delete;

  // After ok, exactly one FinishedEvent will follow. kInvalidArgument (subject: the field; reason
  // "context_length_exceeded"), kResourceExhausted (reason "queue_full"), kAlreadyExists.
  Status admit(Request request, int64_t now_us);
  // The request is in no plan made from here on. Unknown and finished ids are ignored.
  void cancel(RequestId id);
  // Ends the requests whose deadline has passed, or that waited too long for their first step.
  // plan() and commit() do it too.
  void expire(int64_t now_us);
  // The executor failed: every request ends with kError and `status`, and nothing is planned any
  // more.
  void fail_all(const Status& status);

  // The next plan; none while `depth` plans are in flight or nothing can run now. Every plan must
  // be submitted, in order.
  std::optional<StepPlan> plan(int64_t now_us);
  // What the oldest plan in flight did. Returns every event since the last call.
  CommitOutput commit(StepResult result, int64_t now_us);
  // Events that no commit has returned yet (of cancel, expire, plan, fail_all).
  CommitOutput take_events();

  // The earliest deadline of a request that has not ended.
  std::optional<int64_t> next_deadline_us() const;
  // No request is left and no plan is in flight.
  bool idle() const { return live_.empty() && flight_count_ == 0; }
  int32_t plans_in_flight() const { return flight_count_; }
  EngineStats stats() const;
  // The option, or what the cache groups can hold.
  int32_t max_model_len() const { return max_model_len_; }

  // Blocks conserved, references and counts exact, every request in exactly one place.
  Status find_broken_invariant() const;
  void check_invariants() const;

 private:
  friend class SchedulerTestAccess;

  struct PlannedRow {
    Sequence* sequence = nullptr;
    SlotId slot = 0;
    RowKind kind = RowKind::kDecode;
    int32_t tokens = 0;
    int32_t context = 0;  // before them, as planned
    bool sample = true;
  };
  struct PlanInFlight {
    uint64_t number = 0;
    std::vector<PlannedRow> rows;
  };
  // A plan being made.
  struct Draft {
    StepPlan plan;
    std::vector<PlannedRow> rows;
    StepBudget budget;
    int64_t now_us = 0;
    int32_t prompt_logprob_tokens_left = 0;
    bool short_of_blocks = false;
  };
  // The last request that found no room, and how much there was: no need to look again with less.
  struct BlockedHead {
    RequestId id = 0;
    int64_t free_blocks = 0;
  };

  // Whether a waiting request began: kNoRoom stops the queue, kLater lets others pass.
  enum class Start : uint8_t { kBegun, kNoRoom, kLater };

  // admission.cpp
  Status check_request(const Request& request) const;
  Status check_queue(const Request& request) const;
  void enqueue(Sequence& s);
  void remove_waiting(const Sequence& s);
  void start_waiting(Draft& draft);
  Start try_start(Sequence& s, Draft& draft);
  bool look_up_prefix(Sequence& s);
  bool prefix_is_coming(const Sequence& s) const;
  void stop_queue_clock(const Sequence& s);
  bool fits(const Sequence& s) const;
  int32_t blocks_wanted(const Sequence& s, int32_t group) const;
  void open(Sequence& s, Draft& draft);
  void announce_start(Sequence& s, int64_t now_us);
  int64_t unpromised_blocks() const;

  // planning.cpp
  void plan_decodes(Draft& draft);
  void bound_prefills(Draft& draft);
  void round_prefills(Draft& draft);
  std::optional<int32_t> prompts_within(StepBudget budget) const;
  void plan_prefills(Draft& draft);
  bool add_prefill_row(Sequence& s, Draft& draft);
  void add_row(Sequence& s, RowKind kind, int32_t tokens, Draft& draft);
  std::optional<int32_t> short_group(const Sequence& s, int32_t tokens) const;
  int32_t room_tokens(const Sequence& s) const;
  int32_t next_chunk(int32_t rest, int32_t tokens_left) const;
  // What the draft has left for a prefill row of `s` that begins at `from`.
  static int32_t prefill_tokens_left(const Sequence& s, int32_t from, const Draft& draft);
  void append_blocks(Sequence& s, int32_t tokens, StepPlan& plan);
  int32_t window_room(const Sequence& s, int32_t group) const;
  StepPlan launch(Draft& draft);

  // commit.cpp, scheduler.cpp
  void count_step(const PlanInFlight& step, const StepResult& result);
  void apply_row(const PlannedRow& row, RowResult& result);
  void check_row(const PlannedRow& row, const RowResult& result) const;
  void report_tokens(Sequence& s, RowResult& result);
  bool drop_repeated_tokens(Sequence& s, RowResult& result) const;
  void drop_repeated_logprobs(Sequence& s, RowResult& result) const;
  void remember_blocks(Sequence& s);
  void slide_windows(Sequence& s);
  bool is_checkpoint(const Sequence& s, int32_t group, int32_t block) const;

  // preemption.cpp
  void make_room(const Sequence& needy, int32_t group, int32_t blocks);
  int32_t leaving_blocks(int32_t group) const;
  void preempt(Sequence& s);
  void end(Sequence& s, FinishReason reason, Status status);
  void leave(Sequence& s);
  void forget_answer(Sequence& s);
  void release_blocks(Sequence& s);
  void sweep();

  // invariants.cpp
  Status check_sequences(std::vector<std::vector<int32_t>>& references) const;
  Status check_sequence(const Sequence& s) const;
  Status check_queues() const;
  Status check_flights() const;

  // What a sequence holds of a group's capacity beyond what the pool itself counts. Growing groups:
  // blocks that admission promised and that it has not taken yet. Window groups: everything it may
  // come to hold, as a bound that no other sequence can eat into.
  int32_t load(const Sequence& s, int32_t group) const;
  // Around a change of a running sequence's blocks or phase.
  void unload(const Sequence& s);
  void reload(const Sequence& s);
  PlanInFlight& flight(int32_t index) {
    return flights_[(flight_first_ + index) % flights_.size()];
  }
  const PlanInFlight& flight(int32_t index) const {
    return flights_[(flight_first_ + index) % flights_.size()];
  }
  void emit(RequestId id, StreamEvent event);

  const SchedulerOptions options_;
  KvBlocks kv_;
  const ChunkShape chunk_shape_;
  int32_t max_model_len_ = 0;
  bool failed_ = false;

  std::unordered_map<RequestId, std::unique_ptr<Sequence>> live_;  // until nothing names them
  std::vector<Sequence*> waiting_;                                 // in runs_before order
  std::vector<Sequence*> running_;  // those with a slot, in runs_before order
  std::vector<Sequence*> gone_;     // to be destroyed by sweep()
  std::set<std::pair<int64_t, RequestId>> deadlines_;
  std::set<std::pair<int64_t, RequestId>> queue_deadlines_;  // of those that never ran
  int64_t waiting_tokens_ = 0;
  uint64_t next_order_ = 1;

  std::vector<SlotId> free_slots_;
  std::vector<SlotId> closing_slots_;  // for the next plan's close list
  int32_t penalties_running_ = 0;
  std::vector<int64_t> load_;  // per group, sum over running_
  BlockedHead blocked_;
  PrefixMatch match_;  // of the request being looked at; kept for its memory

  std::vector<PlanInFlight> flights_;  // ring
  int32_t flight_first_ = 0;
  int32_t flight_count_ = 0;
  uint64_t next_number_ = 1;

  StepPace pace_;
  int32_t plans_to_probe_ = 0;  // until the next step may go without prompts, for pace_
  std::vector<RequestEvent> events_;
  EngineStats totals_;  // counters only
};

}  // namespace fathom
