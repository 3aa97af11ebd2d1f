// EngineLoop: the engine thread. Reads requests and cancels, asks the Scheduler for plans one step
// ahead of the Executor, commits results and hands out one batch of events a step. Whoever made it
// owns it; the other calls are for any thread.
#pragma once

#include <atomic>
#include <cstdint>
#include <functional>
#include <memory>
#include <mutex>
#include <thread>
#include <variant>
#include <vector>

#include "base/clock.h"
#include "base/thread.h"
#include "fathom/engine.h"
#include "fathom/executor.h"
#include "fathom/kv_layout.h"
#include "sched/scheduler.h"

namespace fathom {

// Where the events of each step go. Called on the engine thread; must not block.
class EventSink {
 public:
  virtual ~EventSink() = default;
  virtual void emit(std::vector<RequestEvent> events) = 0;
  // While true nothing new is planned: too much is unsent. Followed by EngineLoop::wake().
  virtual bool congested() const { return false; }
};

// The batch that only says how one request ended.
std::vector<RequestEvent> only_finished(RequestId id, FinishReason reason, Status status);

// What a request gets that an ending engine does not serve: kUnavailable, reason "draining".
Status shutting_down();

struct EngineLoopOptions {
  SchedulerOptions scheduler;
  KvLayout layout;
};

class EngineLoop {
 public:
  // `sink` outlives the loop.
  static Result<std::unique_ptr<EngineLoop>> start(std::unique_ptr<Executor> executor,
                                                   EngineLoopOptions options, EventSink& sink);
  // Ends every request with shutting_down(), then the thread.
  ~EngineLoop();
  EngineLoop(const EngineLoop&) = delete;
  EngineLoop& operator=(const EngineLoop&) = delete;

  // Ok: exactly one FinishedEvent will be emitted. kResourceExhausted when the inbox is full.
  Status submit(Request request);
  void cancel(RequestId id);
  void drain();
  void wake() { wake_.notify(); }

  EngineHealth health() const;
  EngineStats stats() const;
  // What the pools allow, at most the option.
  int32_t max_model_len() const { return max_model_len_; }

 private:
  struct DrainCommand {};
  using Command = std::variant<Request, RequestId, DrainCommand>;

  EngineLoop(std::unique_ptr<Executor> executor, EngineLoopOptions options, EventSink& sink,
             EventFd wake);
  void run();
  bool step();  // false: the loop is over
  void read_inbox(int64_t now_us);
  void admit(Request request, int64_t now_us);
  bool commit_results();
  void emit(CommitOutput output);
  void fail(const Status& status);
  void publish(int64_t now_us, bool progressed);
  void wait() const;

  const std::unique_ptr<Executor> executor_;
  EventSink& sink_;
  Scheduler scheduler_;  // engine thread
  const int32_t max_model_len_;
  const size_t inbox_max_;
  const EventFd wake_;
  const SystemClock clock_;
  bool draining_ = false;  // engine thread

  std::mutex inbox_mutex_;
  std::vector<Command> inbox_;
  size_t inbox_requests_ = 0;
  bool ended_ = false;  // under inbox_mutex_: nothing is read any more

  std::atomic<bool> stop_{false};
  mutable std::mutex state_mutex_;
  EngineHealth health_;
  EngineStats stats_;
  std::jthread thread_;  // last: its end must come before the rest's
};

}  // namespace fathom
