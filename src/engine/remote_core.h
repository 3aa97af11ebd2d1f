// RemoteEngine's insides: shared by the handle, the supervisor thread (the process's life) and the
// channel's I/O thread (frames). The mutex guards what they share; what only the supervisor thread
// touches is marked.
#pragma once

#include <atomic>
#include <cstdint>
#include <deque>
#include <future>
#include <memory>
#include <mutex>
#include <unordered_map>

#include "base/clock.h"
#include "engine/frame_channel.h"
#include "engine/remote_engine.h"
#include "engine/stream_hub.h"

namespace fathom {

class RemoteEngine::Core : public std::enable_shared_from_this<RemoteEngine::Core> {
 public:
  Core(EngineSupervisor& supervisor, RemoteEngineOptions options);

  // Any thread.
  void begin();
  Result<std::unique_ptr<TokenStream>> submit(Request request);
  void drain();
  void cut();
  EngineHealth health() const;
  EngineStats stats() const;
  EngineInfo info() const;
  int32_t pid() const;
  uint64_t restarts() const;
  // Ends the process; returns when it is gone.
  void shut_down();

 private:
  // A request that has emitted nothing: kept for the next process, should this one die.
  struct Unstarted {
    Request request;
    bool retried = false;
    bool cancelled = false;
  };

  void cancel(RequestId id);

  // I/O thread.
  void receive(Frame frame);
  void take_events(EventsFrame frame);
  void take_heartbeat(const HeartbeatFrame& frame);
  void take_ready(ReadyFrame frame);
  void take_failure(FailedFrame frame);

  // Supervisor thread.
  void start_child();
  Status try_start_child();
  void channel_closed(uint64_t generation);
  void child_ended();
  void end_streams(const Status& status, bool keep_unstarted);
  void restart_or_fail(const Status& status);
  void tick();
  void kill_if_stuck(int64_t now_us);
  void expire_unstarted(int64_t now_us);
  void end_child();

  void send_request(const Request& request);  // under mutex_
  void set_state(EngineState state, const Status& status);
  void notify_health();

  EngineSupervisor& supervisor_;
  const RemoteEngineOptions options_;
  const SystemClock clock_;
  std::shared_ptr<StreamHub> hub_;
  std::atomic<RequestId> next_id_{1};

  mutable std::mutex mutex_;
  EngineHealth health_;
  EngineStats stats_;
  std::shared_ptr<const EngineInfo> info_ = std::make_shared<EngineInfo>();
  std::unique_ptr<FrameChannel> channel_;
  std::unordered_map<RequestId, Unstarted> unstarted_;
  Status failure_;  // what the engine said last
  int32_t pid_ = 0;
  uint64_t restarts_ = 0;
  int64_t last_frame_us_ = 0;
  bool draining_ = false;
  bool closing_ = false;
  bool was_ready_ = false;

  // Supervisor thread.
  ChildProcess child_;
  uint64_t generation_ = 0;
  std::deque<int64_t> restart_times_us_;
  std::promise<void> ended_;
  bool ended_is_set_ = false;

  std::mutex notify_mutex_;
  EngineState notified_state_ = EngineState::kStarting;
  int notified_percent_ = -1;
};

}  // namespace fathom
