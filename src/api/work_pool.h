// WorkPool: the threads that do text work (JSON, chat formats, tokenizing, detokenizing) so that io
// threads and the engine never wait for it. A Task runs on one of them, never on two at once.
#pragma once

#include <atomic>
#include <condition_variable>
#include <cstdint>
#include <deque>
#include <functional>
#include <memory>
#include <mutex>
#include <thread>
#include <variant>
#include <vector>

namespace fathom::api {

class WorkPool;

// Something that is woken, often and by anybody, and then runs once more than the last wake: an
// actor. Derive, implement run(); wake() from any thread. Kept alive by whoever wakes it.
class Task : public std::enable_shared_from_this<Task> {
 public:
  explicit Task(WorkPool& pool) : pool_(pool) {}
  virtual ~Task() = default;
  Task(const Task&) = delete;
  Task& operator=(const Task&) = delete;

  // Makes run() happen after this call. Quick; any thread.
  void wake();

 protected:
  virtual void run() = 0;

 private:
  friend class WorkPool;
  void run_until_quiet();

  WorkPool& pool_;
  std::atomic<uint32_t> wakes_{0};
};

// Owned by the daemon, made before the listeners and destroyed after them.
class WorkPool {
 public:
  explicit WorkPool(int32_t threads);
  ~WorkPool();  // runs what is queued, then joins
  WorkPool(const WorkPool&) = delete;
  WorkPool& operator=(const WorkPool&) = delete;

  void post(std::function<void()> work);

  // Wakes `task` about every second while it lives: for keep-alive comments.
  void tick(std::weak_ptr<Task> task);

 private:
  friend class Task;
  using Work = std::variant<std::shared_ptr<Task>, std::function<void()>>;
  void push(Work work);
  bool take(std::vector<Work>& share);
  void run_worker();
  void run_ticker();

  const size_t threads_;
  std::mutex mutex_;
  std::condition_variable changed_;
  std::deque<Work> queue_;
  bool stopping_ = false;

  std::mutex tick_mutex_;
  std::condition_variable tick_changed_;
  std::vector<std::weak_ptr<Task>> ticked_;
  bool tick_stopping_ = false;

  std::vector<std::thread> workers_;
  std::thread ticker_;
};

}  // namespace fathom::api
