// ThreadPool: fork and join over a fixed number of threads. Work comes in numbered pieces, which a
// free thread takes in order: one that wakes late, or not at all, holds nobody up. Which thread
// takes what is never part of a result. Owned by CpuOps; `share` and `split` are called by the
// rank's thread.
#pragma once

#include <algorithm>
#include <atomic>
#include <condition_variable>
#include <cstdint>
#include <mutex>
#include <thread>
#include <vector>

namespace fathom {

class ThreadPool {
 public:
  explicit ThreadPool(int32_t threads);
  ~ThreadPool();
  ThreadPool(const ThreadPool&) = delete;
  ThreadPool& operator=(const ThreadPool&) = delete;

  int32_t size() const { return static_cast<int32_t>(workers_.size()) + 1; }

  // Calls body(piece, worker) for every piece in [0, pieces), workers being [0, size()) and the
  // caller worker 0, and waits for all.
  template <typename Body>
  void share(int64_t pieces, const Body& body) {
    if (workers_.empty() || pieces <= 1) {
      for (int64_t piece = 0; piece < pieces; ++piece) body(piece, 0);
      return;
    }
    run_task([](const void* context, int64_t piece,
                int32_t worker) { (*static_cast<const Body*>(context))(piece, worker); },
             &body, pieces);
  }

  // Splits [0, count) into contiguous parts of whole multiples of `unit` and calls
  // body(begin, end, worker). Work of a cost under kCostMin stays on the calling thread: waking
  // another costs more.
  template <typename Body>
  void split(int64_t count, int64_t unit, int64_t cost, const Body& body) {
    if (size() == 1 || cost < kCostMin || count <= unit) {
      body(int64_t{0}, count, 0);
      return;
    }
    const int64_t units = (count + unit - 1) / unit;
    const int64_t pieces = std::min(units, pieces_for_all());
    share(pieces, [&](int64_t piece, int32_t worker) {
      const int64_t begin = units * piece / pieces * unit;
      const int64_t end = units * (piece + 1) / pieces * unit;
      body(begin, end < count ? end : count, worker);
    });
  }

  // Pieces in which work is worth sharing: some for each thread, as they start at different times.
  int64_t pieces_for_all() const { return size() == 1 ? 1 : 4 * int64_t{size()}; }

  static constexpr int64_t kCostMin = int64_t{1} << 21;  // multiply-adds; 30 to 100 microseconds

 private:
  static constexpr int kLooksMax = 256;  // about 5 microseconds

  using Task = void (*)(const void* context, int64_t piece, int32_t worker);

  void run_task(Task task, const void* context, int64_t pieces);
  void work(std::unique_lock<std::mutex>& lock, int32_t worker);
  void serve(int32_t worker);

  std::mutex mutex_;
  std::condition_variable wake_;
  std::condition_variable done_;
  Task task_ = nullptr;
  const void* context_ = nullptr;
  int64_t next_ = 0;  // the piece to be taken
  int64_t pieces_ = 0;
  std::atomic<int64_t> unfinished_ = 0;  // pieces not yet done; changed under mutex_
  bool stop_ = false;
  std::vector<std::thread> workers_;
};

}  // namespace fathom
