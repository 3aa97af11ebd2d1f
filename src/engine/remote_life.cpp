// The process's side: starting, watching, ending and starting again. On the supervisor thread.
#include <sys/socket.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <csignal>
#include <cstring>
#include <utility>

#include "base/log.h"
#include "engine/engine_loop.h"
#include "engine/remote_core.h"

namespace fathom {
namespace {

constexpr int64_t kTickUs = 250'000;
constexpr int64_t kEndUsMax = 5'000'000;  // from a closed socket to SIGKILL

// No other attempt with the same options can end differently.
bool is_permanent(const Status& status, bool was_ready) {
  switch (status.code()) {
    case Code::kInvalidArgument:
    case Code::kNotFound:
    case Code::kFailedPrecondition:
    case Code::kUnimplemented:
    case Code::kDataLoss: return true;
    case Code::kResourceExhausted: return !was_ready;
    default: return false;
  }
}

}  // namespace

void RemoteEngine::Core::begin() {
  supervisor_.post([self = shared_from_this()] {
    self->start_child();
    self->tick();
  });
}

void RemoteEngine::Core::start_child() {
  {
    std::lock_guard lock(mutex_);
    if (closing_ || draining_ || channel_ != nullptr) return;
    failure_ = Status::ok();
  }
  const Status status = try_start_child();
  if (!status.is_ok()) restart_or_fail(status);
}

Status RemoteEngine::Core::try_start_child() {
  int ends[2];
  if (::socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, ends) != 0) {
    return unavailable(std::string("socketpair: ") + std::strerror(errno));
  }
  UniqueFd ours(ends[0]);
  const UniqueFd theirs(ends[1]);
  FATHOM_ASSIGN(child_, supervisor_.spawn(options_.program, options_.arguments, theirs.get()));

  const uint64_t generation = ++generation_;
  std::weak_ptr<Core> weak = weak_from_this();
  FrameChannel::Handlers handlers;
  handlers.on_frame = [weak](Frame frame) {
    if (auto self = weak.lock()) self->receive(std::move(frame));
  };
  handlers.on_close = [weak, generation](const Status&) {
    auto self = weak.lock();
    if (self == nullptr) return;
    self->supervisor_.post([weak, generation] {
      if (auto core = weak.lock()) core->channel_closed(generation);
    });
  };
  auto channel = FrameChannel::make(std::move(ours), std::move(handlers), kTickUs);
  if (!channel.is_ok()) {
    kill_and_reap(child_, kEndUsMax);
    return channel.status();
  }
  (*channel)->send(OptionsFrame{::getpid(), options_.engine});
  {
    std::lock_guard lock(mutex_);
    channel_ = std::move(*channel);
    pid_ = child_.pid;
    last_frame_us_ = clock_.now_us();
    health_.last_progress_us = last_frame_us_;
    channel_->start("engine-link");
  }
  Logger("engine").info("engine process started", {{"pid", child_.pid}});
  set_state(EngineState::kLoading, Status::ok());
  return Status::ok();
}

// End of file: the process is dead or dying.
void RemoteEngine::Core::channel_closed(uint64_t generation) {
  if (generation != generation_) return;
  std::unique_ptr<FrameChannel> channel;
  {
    std::lock_guard lock(mutex_);
    channel = std::move(channel_);
    if (!closing_ && health_.state == EngineState::kReady) health_.state = EngineState::kStarting;
  }
  if (channel == nullptr) return;
  channel.reset();
  ::kill(child_.pid, SIGKILL);  // not reaped yet: the id is still the child's
  supervisor_.when_readable(child_.pidfd.get(),
                            [self = shared_from_this()] { self->child_ended(); });
}

void RemoteEngine::Core::child_ended() {
  const std::string how = reap(child_);
  child_ = ChildProcess{};
  Status status;
  bool closing = false;
  {
    std::lock_guard lock(mutex_);
    pid_ = 0;
    closing = closing_;
    status = failure_.is_ok() ? unavailable("the engine process ended: " + how) : failure_;
  }
  if (closing) {
    if (!std::exchange(ended_is_set_, true)) ended_.set_value();
    return;
  }
  Logger("engine").error("engine process ended", {{"how", how}, {"status", status.to_string()}});
  restart_or_fail(status);
}

// Ends every stream, but not those whose request the next process will get.
void RemoteEngine::Core::end_streams(const Status& status, bool keep_unstarted) {
  std::vector<RequestId> cancelled;
  std::vector<RequestId> failed = hub_->open_ids();
  {
    std::lock_guard lock(mutex_);
    std::unordered_map<RequestId, Unstarted> kept;
    for (auto& [id, waiting] : unstarted_) {
      if (waiting.cancelled) {
        cancelled.push_back(id);
      } else if (keep_unstarted && !std::exchange(waiting.retried, true)) {
        kept.emplace(id, std::move(waiting));
      }
    }
    std::erase_if(failed, [&](RequestId id) { return kept.contains(id); });
    unstarted_ = std::move(kept);
  }
  hub_->finish(cancelled, FinishReason::kCancelled, Status::ok());
  hub_->finish(failed, FinishReason::kError, status);
}

void RemoteEngine::Core::restart_or_fail(const Status& status) {
  const int64_t now_us = clock_.now_us();
  bool draining = false;
  bool was_ready = false;
  {
    std::lock_guard lock(mutex_);
    draining = draining_;
    was_ready = was_ready_;
    if (!closing_ && !draining_) ++restarts_;
  }
  while (!restart_times_us_.empty() &&
         restart_times_us_.front() < now_us - options_.restart_window_us) {
    restart_times_us_.pop_front();
  }
  restart_times_us_.push_back(now_us);
  const auto attempt = static_cast<int32_t>(restart_times_us_.size());
  const bool give_up =
      draining || attempt > options_.restarts_max || is_permanent(status, was_ready);
  end_streams(unavailable("the engine process ended before the answer was complete")
                  .because("engine_failed"),
              !give_up);
  if (give_up) return set_state(EngineState::kFailed, status);
  set_state(EngineState::kStarting, status);
  const int64_t backoff_us =
      std::min(options_.backoff_us_max, options_.backoff_us_min << std::min(attempt - 1, 20));
  supervisor_.post_at(now_us + backoff_us, [weak = weak_from_this()] {
    if (auto self = weak.lock()) self->start_child();
  });
}

void RemoteEngine::Core::tick() {
  const int64_t now_us = clock_.now_us();
  kill_if_stuck(now_us);
  expire_unstarted(now_us);
  supervisor_.post_at(now_us + kTickUs, [weak = weak_from_this()] {
    if (auto self = weak.lock()) self->tick();
  });
}

void RemoteEngine::Core::kill_if_stuck(int64_t now_us) {
  std::lock_guard lock(mutex_);
  if (channel_ == nullptr || closing_) return;
  int64_t proof_us = last_frame_us_;
  if (health_.state == EngineState::kReady || health_.state == EngineState::kDraining) {
    proof_us = std::min(proof_us, health_.last_progress_us);
  }
  const bool on_gpu = !info_->device.empty() && info_->device != "cpu";
  const int64_t hang_us =
      on_gpu ? options_.hang_us_gpu.value_or(options_.hang_us) : options_.hang_us;
  if (now_us - proof_us <= hang_us) return;
  Logger("engine").error("the engine proves no progress and is killed",
                         {{"pid", pid_}, {"silent_us", now_us - proof_us}});
  failure_ = unavailable("the engine made no progress for " +
                         std::to_string((now_us - proof_us) / 1'000'000) + " s and was ended");
  ::kill(child_.pid, SIGKILL);
}

// While no engine runs, nobody else looks at the deadlines of those who wait for one.
void RemoteEngine::Core::expire_unstarted(int64_t now_us) {
  std::vector<RequestId> late;
  {
    std::lock_guard lock(mutex_);
    if (health_.state == EngineState::kReady || health_.state == EngineState::kDraining) return;
    std::erase_if(unstarted_, [&](const auto& entry) {
      const std::optional<int64_t>& deadline_us = entry.second.request.deadline_us;
      if (!deadline_us || *deadline_us > now_us) return false;
      late.push_back(entry.first);
      return true;
    });
  }
  hub_->finish(late, FinishReason::kDeadline,
               Status(Code::kDeadlineExceeded, "the deadline passed before the model was ready"));
}

// The closed socket ends the process; if not, a signal does.
void RemoteEngine::Core::end_child() {
  std::unique_ptr<FrameChannel> channel;
  {
    std::lock_guard lock(mutex_);
    channel = std::move(channel_);
  }
  channel.reset();
  if (!child_.pidfd) {
    if (!std::exchange(ended_is_set_, true)) ended_.set_value();
    return;
  }
  supervisor_.when_readable(child_.pidfd.get(),
                            [self = shared_from_this()] { self->child_ended(); });
  supervisor_.post_at(clock_.now_us() + kEndUsMax, [weak = weak_from_this()] {
    auto self = weak.lock();
    if (self != nullptr && self->child_.pid != 0) ::kill(self->child_.pid, SIGKILL);
  });
}

void RemoteEngine::Core::shut_down() {
  hub_->close();
  {
    std::lock_guard lock(mutex_);
    closing_ = true;
    health_.state = EngineState::kStopped;
  }
  std::future<void> ended = ended_.get_future();
  supervisor_.post([self = shared_from_this()] { self->end_child(); });
  ended.wait();
  hub_->finish_all(FinishReason::kError, shutting_down());
}

}  // namespace fathom
