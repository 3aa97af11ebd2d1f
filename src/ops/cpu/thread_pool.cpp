// Fork and join of the CPU backend's threads: one condition variable, no spinning.
#include "ops/cpu/thread_pool.h"

namespace fathom {

ThreadPool::ThreadPool(int32_t threads) {
  for (int32_t i = 1; i < threads; ++i) workers_.emplace_back([this, i] { serve(i); });
}

ThreadPool::~ThreadPool() {
  {
    std::lock_guard lock(mutex_);
    stop_ = true;
  }
  wake_.notify_all();
  for (std::thread& worker : workers_) worker.join();
}

void ThreadPool::run_task(Task task, const void* context) {
  if (workers_.empty()) {
    task(context, 0);
    return;
  }
  {
    std::lock_guard lock(mutex_);
    task_ = task;
    context_ = context;
    pending_ = static_cast<int32_t>(workers_.size());
    ++round_;
  }
  wake_.notify_all();
  task(context, 0);
  std::unique_lock lock(mutex_);
  done_.wait(lock, [this] { return pending_ == 0; });
}

void ThreadPool::serve(int32_t worker) {
  uint64_t seen = 0;
  while (true) {
    Task task = nullptr;
    const void* context = nullptr;
    {
      std::unique_lock lock(mutex_);
      wake_.wait(lock, [&] { return stop_ || round_ != seen; });
      if (stop_) return;
      seen = round_;
      task = task_;
      context = context_;
    }
    task(context, worker);
    std::lock_guard lock(mutex_);
    if (--pending_ == 0) done_.notify_one();
  }
}

}  // namespace fathom
