// What must be true between any two calls of the scheduler.
#include <algorithm>
#include <string>

#include "fathom/check.h"
#include "sched/scheduler.h"

namespace fathom {
namespace {

Status broken(const Sequence& s, const char* what) {
  return internal_error("request " + std::to_string(s.id) + ": " + what);
}

}  // namespace

void Scheduler::check_invariants() const {
  const Status status = find_broken_invariant();
  FATHOM_CHECK(status.is_ok(), status.to_string());
}

Status Scheduler::find_broken_invariant() const {
  std::vector<std::vector<int32_t>> references(kv_.groups());
  for (int32_t g = 0; g < kv_.groups(); ++g) references[g].assign(kv_.pool(g).total() + 1, 0);
  FATHOM_RETURN_IF_ERROR(check_sequences(references));
  FATHOM_RETURN_IF_ERROR(kv_.find_broken_invariant(references));
  FATHOM_RETURN_IF_ERROR(check_queues());
  return check_flights();
}

// Blocks, lengths and loads of those that run; counts what they hold into `references`.
Status Scheduler::check_sequences(std::vector<std::vector<int32_t>>& references) const {
  std::vector<int64_t> loads(kv_.groups(), 0);
  for (const Sequence* s : running_) {
    FATHOM_RETURN_IF_ERROR(check_sequence(*s));
    for (int32_t g = 0; g < kv_.groups(); ++g) {
      loads[g] += load(*s, g);
      const HeldBlocks& held = s->groups[g];
      for (int32_t b = held.first; b < held.end(); ++b) {
        if (held.ids[b] < 1 || held.ids[b] > kv_.pool(g).total()) {
          return broken(*s, "holds a block that does not exist");
        }
        ++references[g][held.ids[b]];
      }
    }
  }
  if (loads != load_) return internal_error("the promised blocks of a group are miscounted");
  return Status::ok();
}

Status Scheduler::check_sequence(const Sequence& s) const {
  if (s.phase == Phase::kWaiting || s.slot == 0) return broken(s, "runs without a slot");
  if (s.phase != Phase::kRunning && s.plans == 0) return broken(s, "stays after its last plan");
  if (!s.is_live()) return Status::ok();
  if (s.computed > s.known() || s.computed > s.reserved) return broken(s, "computed too much");
  if (s.reserved != s.computed + s.tokens_ahead) return broken(s, "its reservation is inexact");
  if (s.reserved >= s.total_tokens_max) return broken(s, "is planned beyond its length");
  if (s.computed >= s.open_tokens && s.known() != s.computed + 1) {
    return broken(s, "its length and its cache disagree");
  }
  for (int32_t g = 0; g < kv_.groups(); ++g) {
    const HeldBlocks& held = s.groups[g];
    if (int64_t{held.end()} * kv_.block_tokens() < s.reserved) {
      return broken(s, "its blocks do not cover its reservation");
    }
    const int32_t oldest = kv_.is_window(g) ? std::max(0, s.computed - kv_.window_tokens(g)) : 0;
    if (held.first * kv_.block_tokens() > oldest) {
      return broken(s, "gave back a block that it still needs");
    }
  }
  return Status::ok();
}

Status Scheduler::check_queues() const {
  int64_t tokens = 0;
  int32_t penalties = 0;
  std::vector<uint8_t> slots(options_.max_num_seqs + 1, 0);
  for (const Sequence* s : waiting_) {
    tokens += s->known();
    const bool holds = std::ranges::any_of(s->groups, [](auto& held) { return held.end() != 0; });
    if (s->phase != Phase::kWaiting || s->slot != 0 || s->plans != 0 || holds) {
      return broken(*s, "waits, but holds something");
    }
  }
  for (const Sequence* s : running_) {
    penalties += s->uses_penalties ? 1 : 0;
    if (slots[s->slot]++ != 0) return broken(*s, "shares its slot");
  }
  for (SlotId slot : free_slots_) {
    if (slots[slot]++ != 0) return internal_error("a slot is free twice, or free and used");
  }
  const auto in_order = [](const Sequence* a, const Sequence* b) { return runs_before(*a, *b); };
  if (!std::ranges::is_sorted(waiting_, in_order) || !std::ranges::is_sorted(running_, in_order)) {
    return internal_error("a queue is out of order");
  }
  if (tokens != waiting_tokens_) return internal_error("waiting tokens are miscounted");
  if (penalties != penalties_running_) return internal_error("penalty slots are miscounted");
  if (running_.size() + free_slots_.size() != static_cast<size_t>(options_.max_num_seqs)) {
    return internal_error("a slot was lost");
  }
  if (running_.size() + waiting_.size() != live_.size()) {
    return internal_error("a request is in no queue, or in two");
  }
  return Status::ok();
}

Status Scheduler::check_flights() const {
  int32_t rows = 0;
  int32_t tokens = 0;
  for (int32_t i = 0; i < flight_count_; ++i) {
    for (const PlannedRow& row : flight(i).rows) {
      if (row.sequence->slot != row.slot) return broken(*row.sequence, "left a plan's slot");
      ++rows;
      tokens += row.tokens;
    }
  }
  for (const Sequence* s : running_) {
    rows -= s->plans;
    tokens -= s->tokens_ahead;
  }
  if (rows != 0 || tokens != 0) return internal_error("plans in flight are miscounted");
  return Status::ok();
}

}  // namespace fathom
