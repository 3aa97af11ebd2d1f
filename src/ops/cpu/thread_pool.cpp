// Fork and join of the CPU backend's threads: condition variables, and a few microseconds of
// looking before the caller sleeps, since the last pieces end almost together.
#include "ops/cpu/thread_pool.h"

#include <immintrin.h>

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

void ThreadPool::run_task(Task task, const void* context, int64_t pieces) {
  std::unique_lock lock(mutex_);
  task_ = task;
  context_ = context;
  next_ = 0;
  pieces_ = pieces;
  unfinished_ = pieces;
  lock.unlock();
  wake_.notify_all();
  lock.lock();
  work(lock, 0);
  lock.unlock();
  for (int i = 0; i < kLooksMax && unfinished_.load(std::memory_order_relaxed) != 0; ++i) {
    _mm_pause();
  }
  lock.lock();
  done_.wait(lock, [this] { return unfinished_ == 0; });
}

void ThreadPool::work(std::unique_lock<std::mutex>& lock, int32_t worker) {
  while (next_ < pieces_) {
    const Task task = task_;
    const void* context = context_;
    const int64_t piece = next_++;
    lock.unlock();
    task(context, piece, worker);
    lock.lock();
    if (--unfinished_ == 0) done_.notify_one();
  }
}

void ThreadPool::serve(int32_t worker) {
  std::unique_lock lock(mutex_);
  while (true) {
    wake_.wait(lock, [this] { return stop_ || next_ < pieces_; });
    if (stop_) return;
    work(lock, worker);
  }
}

}  // namespace fathom
