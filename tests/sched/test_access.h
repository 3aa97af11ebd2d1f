// SchedulerTestAccess: how tests plant a bug in a scheduler's private state. Nothing else uses it.
#pragma once

#include <algorithm>

#include "sched/scheduler.h"

namespace fathom {

class SchedulerTestAccess {
 public:
  explicit SchedulerTestAccess(Scheduler& scheduler) : s_(scheduler) {}

  BlockPool& pool(int32_t group) { return s_.kv_.pools_[group]; }
  const std::vector<Sequence*>& running() { return s_.running_; }
  const std::vector<Sequence*>& waiting() { return s_.waiting_; }

  // A reference that nobody will ever give back.
  void leak(int32_t group, BlockId block) { ++pool(group).references_[block]; }
  // The block is free although somebody holds it.
  void free_early(int32_t group, BlockId block) {
    BlockPool& p = pool(group);
    p.clear_entry(block);
    p.references_[block] = 0;
    p.free_.push_back(block);
  }
  // A request vanishes from the queue, with tidy books.
  bool lose_waiting() {
    if (s_.waiting_.empty()) return false;
    Sequence* s = s_.waiting_.back();
    s_.waiting_.pop_back();
    s_.waiting_tokens_ -= s->known();
    if (s->deadline_us) s_.deadlines_.erase({*s->deadline_us, s->id});
    s_.stop_queue_clock(*s);
    s_.live_.erase(s->id);
    return true;
  }
  // The request goes to the end of the queue.
  void move_back(RequestId id) {
    for (Sequence* s : s_.waiting_) {
      if (s->id == id) s->queue_key = s_.waiting_.back()->queue_key + 1;
    }
    std::ranges::sort(s_.waiting_, [](auto* a, auto* b) { return runs_before(*a, *b); });
  }
  // Two prefixes in the cache swap their blocks of a group.
  bool swap_cached_blocks(int32_t group) {
    PrefixCache& cache = s_.kv_.cache_;
    PrefixCache::Entry* first = nullptr;
    for (size_t i = 0; i < cache.entries_.size(); ++i) {
      PrefixCache::Entry& e = cache.entries_[i];
      if (e.serial == PrefixCache::kRoot || e.blocks[group] == 0) continue;
      if (first == nullptr) {
        first = &e;
        continue;
      }
      if (e.parent != first->parent || e.tokens == first->tokens) continue;
      BlockPool& p = pool(group);
      std::swap(p.entries_[e.blocks[group]], p.entries_[first->blocks[group]]);
      std::swap(e.blocks[group], first->blocks[group]);
      return true;
    }
    return false;
  }

 private:
  Scheduler& s_;
};

}  // namespace fathom
