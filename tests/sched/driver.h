// Driver: a scheduler in a unit test's hands. It keeps the plans in flight and answers them as a
// well-behaved executor would, one token a sampling row, unless the test says otherwise. One
// thread.
#pragma once

#include <gtest/gtest.h>

#include <deque>
#include <map>
#include <optional>
#include <utility>
#include <vector>

#include "sched/scheduler.h"

namespace fathom {

inline BlockHash test_hash() { return keyed_block_hash(KeyedHasher::Key{}); }

// One growing group of `blocks` usable blocks of four tokens.
inline KvLayout small_layout() {
  KvLayout layout;
  layout.block_tokens = 4;
  layout.groups.resize(1);
  layout.groups[0].name = "latent";
  return layout;
}

// No margin and no reserve, so that tests count blocks by hand.
inline SchedulerOptions small_options(int32_t blocks = 64) {
  SchedulerOptions o;
  o.max_model_len = 64;
  o.max_num_seqs = 8;
  o.max_num_batched_tokens = 32;
  o.blocks = {blocks + 1};
  o.answer_margin_tokens = 0;
  o.free_percent = 0;
  o.enable_prefix_caching = false;
  return o;
}

inline Request make_request(RequestId id, int32_t prompt, int32_t max_tokens = 4) {
  Request r;
  r.id = id;
  for (int32_t i = 0; i < prompt; ++i) r.prompt.push_back(static_cast<TokenId>(id * 1000 + i));
  r.sampling.max_tokens = max_tokens;
  return r;
}

class Driver {
 public:
  explicit Driver(SchedulerOptions options, const KvLayout& layout = small_layout(),
                  BlockHash hash = test_hash())
      : scheduler(std::move(options), layout, std::move(hash)) {}

  Status admit(Request request) { return scheduler.admit(std::move(request), now_us); }

  // The next plan, submitted.
  std::optional<StepPlan> plan() {
    std::optional<StepPlan> made = scheduler.plan(now_us);
    EXPECT_TRUE(scheduler.find_broken_invariant().is_ok())
        << scheduler.find_broken_invariant().to_string();
    if (!made) return made;
    for (const OpenSlot& o : made->open) {
      slots[o.slot] = {static_cast<int32_t>(o.tokens->size()),
                       o.prompt_tokens + o.sampling->max_tokens};
    }
    in_flight.push_back(*made);
    return made;
  }

  // What the oldest plan in flight does; verify rows accept `accepted` tokens at most.
  StepResult result(int32_t accepted = 1) {
    StepResult r;
    r.number = in_flight.front().number;
    for (const PlanRow& row : in_flight.front().rows) r.rows.push_back(row_result(row, accepted));
    in_flight.pop_front();
    return r;
  }

  // Commits the oldest plan in flight.
  std::vector<RequestEvent> commit(int32_t accepted = 1) { return commit(result(accepted)); }
  std::vector<RequestEvent> commit(StepResult r) {
    CommitOutput out = scheduler.commit(std::move(r), now_us);
    EXPECT_TRUE(scheduler.find_broken_invariant().is_ok())
        << scheduler.find_broken_invariant().to_string();
    for (const RequestEvent& e : out.events) note(e);
    return std::move(out.events);
  }
  void take_events() {
    for (const RequestEvent& e : scheduler.take_events().events) note(e);
  }

  // One plan and its commit, with nothing else in flight.
  std::optional<StepPlan> step() {
    std::optional<StepPlan> made = plan();
    if (made) commit();
    return made;
  }
  // Until everything has ended.
  void run(int32_t steps_max = 10000) {
    while (!scheduler.idle() && steps_max-- > 0) {
      while (plan()) {
      }
      if (!in_flight.empty()) commit();
    }
    take_events();
    EXPECT_TRUE(scheduler.idle());
  }

  int32_t token_count(RequestId id) { return static_cast<int32_t>(tokens[id].size()); }
  std::optional<FinishReason> finish(RequestId id) {
    const auto it = finished.find(id);
    if (it == finished.end()) return std::nullopt;
    return it->second.reason;
  }

  Scheduler scheduler;
  int64_t now_us = 0;
  std::deque<StepPlan> in_flight;
  std::map<RequestId, StartedEvent> started;
  std::map<RequestId, std::vector<TokenId>> tokens;
  std::map<RequestId, FinishedEvent> finished;
  std::vector<RequestId> finish_order;
  std::map<SlotId, FinishReason> finish_at_next_row;  // a test plants an end of sequence here

 private:
  struct Slot {
    int32_t length = 0;
    int32_t length_max = 0;
    bool finished = false;
  };

  RowResult row_result(const PlanRow& row, int32_t accepted) {
    RowResult r;
    r.slot = row.slot;
    Slot& slot = slots[row.slot];
    if (slot.finished) return r;
    r.accepted = row.kind == RowKind::kPrefill ? row.tokens : std::min(accepted, row.tokens);
    const int32_t made = row.kind == RowKind::kPrefill ? int32_t{row.sample} : r.accepted;
    for (int32_t i = 0; i < made; ++i) r.tokens.push_back(++slot.length);
    if (slot.length >= slot.length_max) r.finish = FinishReason::kLength;
    const auto it = finish_at_next_row.find(row.slot);
    if (it != finish_at_next_row.end() && made > 0) {
      r.finish = it->second;
      finish_at_next_row.erase(it);
    }
    slot.finished = r.finish != FinishReason::kNone;
    return r;
  }

  void note(const RequestEvent& e) {
    EXPECT_FALSE(finished.contains(e.id)) << "an event after the end of request " << e.id;
    if (const auto* s = std::get_if<StartedEvent>(&e.event)) started[e.id] = *s;
    if (const auto* t = std::get_if<TokensEvent>(&e.event)) {
      tokens[e.id].insert(tokens[e.id].end(), t->tokens.begin(), t->tokens.end());
    }
    if (const auto* f = std::get_if<FinishedEvent>(&e.event)) {
      finished[e.id] = *f;
      finish_order.push_back(e.id);
    }
  }

  std::map<SlotId, Slot> slots;
};

inline int32_t rows_of(const StepPlan& plan, RowKind kind) {
  int32_t n = 0;
  for (const PlanRow& row : plan.rows) n += row.kind == kind ? 1 : 0;
  return n;
}

}  // namespace fathom
