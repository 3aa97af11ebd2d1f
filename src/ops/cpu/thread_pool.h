// ThreadPool: fork and join over a fixed number of threads with a static partition, so that which
// thread does what is never part of a result. Owned by CpuOps; `run` is called by the rank's
// thread.
#pragma once

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

  // Calls body(worker) for worker in [0, size()), the caller being worker 0, and waits for all.
  template <typename Body>
  void run(const Body& body) {
    run_task(
        [](const void* context, int32_t worker) { (*static_cast<const Body*>(context))(worker); },
        &body);
  }

  // Splits [0, count) into at most size() contiguous parts of whole multiples of `unit` and calls
  // body(begin, end, worker). Work of a cost under kCostMin stays on the calling thread: waking
  // another costs more.
  template <typename Body>
  void split(int64_t count, int64_t unit, int64_t cost, const Body& body) {
    if (size() == 1 || cost < kCostMin || count <= unit) {
      body(int64_t{0}, count, 0);
      return;
    }
    const int64_t units = (count + unit - 1) / unit;
    run([&](int32_t worker) {
      const int64_t begin = units * worker / size() * unit;
      const int64_t end = units * (worker + 1) / size() * unit;
      if (begin < count && begin < end) body(begin, end < count ? end : count, worker);
    });
  }

  static constexpr int64_t kCostMin = int64_t{1} << 21;  // multiply-adds; about 100 microseconds

 private:
  using Task = void (*)(const void* context, int32_t worker);

  void run_task(Task task, const void* context);
  void serve(int32_t worker);

  std::mutex mutex_;
  std::condition_variable wake_;
  std::condition_variable done_;
  Task task_ = nullptr;
  const void* context_ = nullptr;
  uint64_t round_ = 0;
  int32_t pending_ = 0;
  bool stop_ = false;
  std::vector<std::thread> workers_;
};

}  // namespace fathom
