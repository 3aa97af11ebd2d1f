// How sequences lose their place: preemption, ends, and the return of what they held.
#include <algorithm>

#include "fathom/check.h"
#include "sched/scheduler.h"

namespace fathom {

// Blocks of `group` that come back when the plans in flight commit (at most: shared ones stay).
int32_t Scheduler::leaving_blocks(int32_t group) const {
  int32_t n = 0;
  for (const Sequence* s : running_) {
    if (s->phase != Phase::kRunning) n += s->groups[group].held();
  }
  return n;
}

// Preempts until `needy` has `blocks` of a growing group, or will have them once the plans in
// flight have committed, or nobody is left to give way.
void Scheduler::make_room(const Sequence& needy, int32_t group, int32_t blocks) {
  if (kv_.is_window(group)) return;
  while (kv_.pool(group).available() + leaving_blocks(group) < blocks) {
    Sequence* victim = choose_victim(running_, needy, group, options_.preemptions_max);
    if (victim == nullptr) return;
    preempt(*victim);
  }
}

void Scheduler::preempt(Sequence& s) {
  ++totals_.preemptions_total;
  unload(s);
  ++s.preemptions;
  s.phase = Phase::kPreempting;
  reload(s);
  if (s.plans == 0) leave(s);
}

// The request is over for its client. What it held stays owned until no plan names it.
void Scheduler::end(Sequence& s, FinishReason reason, Status status) {
  emit(s.id, FinishedEvent{reason, std::move(status)});
  if (s.deadline_us) deadlines_.erase({*s.deadline_us, s.id});
  stop_queue_clock(s);
  if (s.phase == Phase::kWaiting) {
    remove_waiting(s);
    s.phase = Phase::kEnding;
    gone_.push_back(&s);
    return;
  }
  unload(s);
  s.phase = Phase::kEnding;
  reload(s);
  if (s.plans == 0) leave(s);
}

// No plan names the sequence: its slot and blocks are free. It waits again, or is destroyed.
void Scheduler::leave(Sequence& s) {
  FATHOM_CHECK(s.plans == 0 && s.slot != 0, "a sequence leaves while a plan names it");
  release_blocks(s);
  free_slots_.push_back(s.slot);
  closing_slots_.push_back(s.slot);
  s.slot = 0;
  if (s.uses_penalties) --penalties_running_;
  if (s.phase == Phase::kPreempting) {
    s.open_tokens = 0;
    s.computed = 0;
    s.reserved = 0;
    if (options_.deterministic) forget_answer(s);
    enqueue(s);
  } else {
    gone_.push_back(&s);
  }
}

// The answer so far will be computed again, step by step.
void Scheduler::forget_answer(Sequence& s) {
  const auto end = s.tokens.begin() + s.prompt_tokens;
  std::vector<TokenId> answer(end, s.tokens.end());
  // Preempted again before it had caught up: what was to come still is.
  answer.insert(answer.end(), s.told.begin(), s.told.end());
  s.told = std::move(answer);
  s.tokens.erase(end, s.tokens.end());
}

void Scheduler::release_blocks(Sequence& s) {
  unload(s);
  for (int32_t g = 0; g < kv_.groups(); ++g) {
    HeldBlocks& held = s.groups[g];
    // Last first: the end of a chain is evicted before what leads to it.
    for (int32_t b = held.end() - 1; b >= held.first; --b) kv_.release(g, held.ids[b]);
    held.ids.clear();
    held.first = 0;
    held.hits = 0;
    held.wanted = 0;
  }
}

// Takes those that left out of the running, and destroys those that ended. After a loop over the
// running, never inside one.
void Scheduler::sweep() {
  if (std::ranges::any_of(running_, [](const Sequence* s) { return s->slot == 0; })) {
    std::erase_if(running_, [](const Sequence* s) { return s->slot == 0; });
  }
  for (const Sequence* s : gone_) live_.erase(s->id);
  gone_.clear();
}

}  // namespace fathom
