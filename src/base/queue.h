// BoundedQueue: how threads hand values to one thread, with a bound that the producer sees.
#pragma once

#include <chrono>
#include <condition_variable>
#include <cstddef>
#include <cstdint>
#include <deque>
#include <mutex>
#include <optional>
#include <utility>
#include <vector>

#include "base/thread.h"

namespace fathom {

enum class PushOutcome { kPushed, kFull, kClosed };

// Any thread pushes; one thread pops. Order is first in, first out.
// With `wake`, each push notifies it: the consumer then waits on several things at once.
template <typename T>
class BoundedQueue {
 public:
  explicit BoundedQueue(size_t size_max, const EventFd* wake = nullptr)
      : size_max_(size_max), wake_(wake) {}

  // Never blocks. On kFull and kClosed `value` is left as it was.
  PushOutcome try_push(T&& value) {
    {
      std::lock_guard lock(mutex_);
      if (closed_) return PushOutcome::kClosed;
      if (items_.size() >= size_max_) return PushOutcome::kFull;
      items_.push_back(std::move(value));
    }
    announce();
    return PushOutcome::kPushed;
  }

  std::optional<T> try_pop() {
    std::lock_guard lock(mutex_);
    return take_front();
  }

  // Waits for a value until `timeout_us` has gone by, or for ever; empty on timeout, or when closed
  // and drained.
  std::optional<T> pop(std::optional<int64_t> timeout_us = std::nullopt) {
    std::unique_lock lock(mutex_);
    auto ready = [this] { return closed_ || !items_.empty(); };
    if (timeout_us) {
      changed_.wait_for(lock, std::chrono::microseconds(*timeout_us), ready);
    } else {
      changed_.wait(lock, ready);
    }
    return take_front();
  }

  // Everything queued so far, under one lock.
  std::vector<T> pop_all() {
    std::lock_guard lock(mutex_);
    std::vector<T> all(std::make_move_iterator(items_.begin()),
                       std::make_move_iterator(items_.end()));
    items_.clear();
    return all;
  }

  // No push succeeds after it; what is queued can still be popped.
  void close() {
    {
      std::lock_guard lock(mutex_);
      closed_ = true;
    }
    announce();
  }

  size_t size() const {
    std::lock_guard lock(mutex_);
    return items_.size();
  }

  bool closed() const {
    std::lock_guard lock(mutex_);
    return closed_;
  }

 private:
  void announce() {
    changed_.notify_one();
    if (wake_ != nullptr) wake_->notify();
  }

  std::optional<T> take_front() {
    if (items_.empty()) return std::nullopt;
    std::optional<T> front(std::move(items_.front()));
    items_.pop_front();
    return front;
  }

  const size_t size_max_;
  const EventFd* const wake_;
  mutable std::mutex mutex_;
  std::condition_variable changed_;
  std::deque<T> items_;
  bool closed_ = false;
};

}  // namespace fathom
