// The pool's queue and threads.
#include "api/work_pool.h"

#include <algorithm>
#include <chrono>
#include <utility>

#include "base/thread.h"

namespace fathom::api {
namespace {

// Of the tasks that a thread takes at once.
constexpr size_t kShareMax = 16;

}  // namespace

void Task::wake() {
  if (wakes_.fetch_add(1, std::memory_order_acq_rel) == 0) pool_.push(shared_from_this());
}

void Task::run_until_quiet() {
  uint32_t seen = wakes_.load(std::memory_order_acquire);
  for (;;) {
    run();
    const uint32_t before = wakes_.fetch_sub(seen, std::memory_order_acq_rel);
    if (before == seen) return;
    seen = before - seen;
  }
}

WorkPool::WorkPool(int32_t threads) : threads_(static_cast<size_t>(threads)) {
  for (int32_t i = 0; i < threads; ++i) {
    workers_.emplace_back([this, i] {
      set_thread_name("api-work-" + std::to_string(i));
      run_worker();
    });
  }
  ticker_ = std::thread([this] {
    set_thread_name("api-tick");
    run_ticker();
  });
}

WorkPool::~WorkPool() {
  {
    std::lock_guard lock(tick_mutex_);
    tick_stopping_ = true;
  }
  tick_changed_.notify_all();
  ticker_.join();
  {
    std::lock_guard lock(mutex_);
    stopping_ = true;
  }
  changed_.notify_all();
  for (std::thread& worker : workers_) worker.join();
}

void WorkPool::post(std::function<void()> work) { push(std::move(work)); }

void WorkPool::push(Work work) {
  {
    std::lock_guard lock(mutex_);
    queue_.push_back(std::move(work));
  }
  changed_.notify_one();
}

// A step wakes every stream at once: a thread takes a share of their tasks under one lock, and
// leaves the others theirs. Posted work may be long, so that nothing waits behind it: it is taken
// alone. False: the pool is at its end.
bool WorkPool::take(std::vector<Work>& share) {
  std::unique_lock lock(mutex_);
  changed_.wait(lock, [this] { return stopping_ || !queue_.empty(); });
  if (queue_.empty()) return false;
  const size_t size_max = std::clamp<size_t>(queue_.size() / (2 * threads_), 1, kShareMax);
  do {
    share.push_back(std::move(queue_.front()));
    queue_.pop_front();
  } while (share.size() < size_max && !queue_.empty() && share.back().index() == 0 &&
           queue_.front().index() == 0);
  return true;
}

void WorkPool::run_worker() {
  std::vector<Work> share;
  while (take(share)) {
    for (Work& work : share) {
      if (auto* task = std::get_if<std::shared_ptr<Task>>(&work)) {
        (*task)->run_until_quiet();
      } else {
        std::get<std::function<void()>>(work)();
      }
    }
    share.clear();
  }
}

void WorkPool::tick(std::weak_ptr<Task> task) {
  std::lock_guard lock(tick_mutex_);
  ticked_.push_back(std::move(task));
}

void WorkPool::run_ticker() {
  std::unique_lock lock(tick_mutex_);
  while (!tick_stopping_) {
    tick_changed_.wait_for(lock, std::chrono::seconds(1));
    std::erase_if(ticked_, [](const std::weak_ptr<Task>& weak) {
      auto task = weak.lock();
      if (task) task->wake();
      return task == nullptr;
    });
  }
}

}  // namespace fathom::api
