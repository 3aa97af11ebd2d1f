// The handle's side: requests, events, health.
#include "engine/remote_core.h"

#include <algorithm>
#include <utility>

#include "engine/engine_loop.h"
#include "engine/request_check.h"

namespace fathom {
namespace {

Status not_ready(EngineState state) {
  switch (state) {
    case EngineState::kDraining:
    case EngineState::kStopped: return shutting_down();
    case EngineState::kFailed:
      return unavailable("the model's engine has failed").because("engine_failed");
    default: return unavailable("the model is loading").because("model_loading");
  }
}

}  // namespace

RemoteEngine::Core::Core(EngineSupervisor& supervisor, RemoteEngineOptions options)
    : supervisor_(supervisor),
      options_(std::move(options)),
      hub_(StreamHub::make({options_.engine.queued_requests_max, options_.engine.queued_tokens_max},
                           [this](RequestId id) { cancel(id); })) {}

Result<std::unique_ptr<TokenStream>> RemoteEngine::Core::submit(Request request) {
  std::shared_ptr<const EngineInfo> info;
  {
    std::lock_guard lock(mutex_);
    if (health_.state != EngineState::kReady) return not_ready(health_.state);
    info = info_;
  }
  FATHOM_RETURN_IF_ERROR(check_request(request, *info));
  if (request.id == 0) request.id = next_id_.fetch_add(1);
  const RequestId id = request.id;
  FATHOM_ASSIGN(auto stream, hub_->open(id, static_cast<int64_t>(request.prompt.size())));
  EngineState state = EngineState::kReady;
  {
    std::lock_guard lock(mutex_);
    state = health_.state;
    if (state == EngineState::kReady) {
      send_request(request);
      unstarted_.emplace(id, Unstarted{std::move(request)});
      return stream;
    }
  }
  hub_->forget(id);
  return not_ready(state);
}

void RemoteEngine::Core::send_request(const Request& request) {
  std::vector<Frame> frames = split_request(request);
  const bool is_long = frames.size() > 1;
  channel_->send(std::move(frames),
                 is_long ? FrameChannel::Lane::kBulk : FrameChannel::Lane::kOrdered);
}

void RemoteEngine::Core::cancel(RequestId id) {
  std::lock_guard lock(mutex_);
  const auto at = unstarted_.find(id);
  bool unheard = false;
  if (channel_ != nullptr && was_ready_ && health_.state != EngineState::kLoading) {
    unheard = channel_->retract(id);
    channel_->send(CancelFrame{{id}});
    if (at != unstarted_.end()) at->second.cancelled = true;
  } else {
    unheard = at != unstarted_.end();
  }
  if (!unheard) return;
  if (at != unstarted_.end()) unstarted_.erase(at);
  // Not from here: the caller may hold what its waker needs.
  supervisor_.post(
      [hub = hub_, id] { hub->finish(std::vector{id}, FinishReason::kCancelled, Status::ok()); });
}

void RemoteEngine::Core::drain() {
  {
    std::lock_guard lock(mutex_);
    if (std::exchange(draining_, true)) return;
    if (health_.state == EngineState::kReady) {
      health_.state = EngineState::kDraining;
      channel_->send(DrainFrame{});
    } else {
      health_.state = EngineState::kStopped;  // nothing runs
    }
  }
  notify_health();
}

void RemoteEngine::Core::cut() { hub_->finish_all(FinishReason::kError, shutting_down()); }

EngineHealth RemoteEngine::Core::health() const {
  std::lock_guard lock(mutex_);
  return health_;
}

EngineStats RemoteEngine::Core::stats() const {
  std::lock_guard lock(mutex_);
  return stats_;
}

EngineInfo RemoteEngine::Core::info() const {
  std::lock_guard lock(mutex_);
  return *info_;
}

int32_t RemoteEngine::Core::pid() const {
  std::lock_guard lock(mutex_);
  return pid_;
}

uint64_t RemoteEngine::Core::restarts() const {
  std::lock_guard lock(mutex_);
  return restarts_;
}

void RemoteEngine::Core::receive(Frame frame) {
  {
    std::lock_guard lock(mutex_);
    last_frame_us_ = clock_.now_us();
  }
  if (auto* events = std::get_if<EventsFrame>(&frame)) {
    take_events(std::move(*events));
  } else if (const auto* heartbeat = std::get_if<HeartbeatFrame>(&frame)) {
    take_heartbeat(*heartbeat);
  } else if (auto* ready = std::get_if<ReadyFrame>(&frame)) {
    take_ready(std::move(*ready));
  } else if (auto* failed = std::get_if<FailedFrame>(&frame)) {
    take_failure(std::move(*failed));
  }
}

// Its process may take a while to end (a driver cleans up): who asks meanwhile is told at once.
void RemoteEngine::Core::take_failure(FailedFrame frame) {
  {
    std::lock_guard lock(mutex_);
    failure_ = std::move(frame.status);
    if (health_.state == EngineState::kReady) health_.state = EngineState::kStarting;
  }
  notify_health();
}

void RemoteEngine::Core::take_events(EventsFrame frame) {
  {
    std::lock_guard lock(mutex_);
    // The step loop made them: who reads an answer may ask again before the next heartbeat.
    health_.last_progress_us = std::max(health_.last_progress_us, last_frame_us_);
    // A failing engine ends all its requests; one that had not begun waits for the next process.
    auto waits_for_the_next = [&](const RequestEvent& event) {
      const auto at = unstarted_.find(event.id);
      if (at == unstarted_.end()) return false;
      const auto* finished = std::get_if<FinishedEvent>(&event.event);
      if (finished != nullptr && finished->status.reason() == "engine_failed" &&
          !at->second.retried) {
        return true;
      }
      unstarted_.erase(at);
      return false;
    };
    std::erase_if(frame.events, waits_for_the_next);
  }
  hub_->deliver(std::move(frame.events));
}

void RemoteEngine::Core::take_heartbeat(const HeartbeatFrame& frame) {
  {
    std::lock_guard lock(mutex_);
    stats_ = frame.stats;
    health_.load_progress = frame.health.load_progress;
    health_.last_progress_us = std::max(health_.last_progress_us, frame.health.last_progress_us);
    // Readiness is the ReadyFrame's to say, and draining ours.
    if (health_.state == EngineState::kDraining && frame.health.state == EngineState::kStopped) {
      health_.state = EngineState::kStopped;
    }
  }
  notify_health();
}

void RemoteEngine::Core::take_ready(ReadyFrame frame) {
  {
    std::lock_guard lock(mutex_);
    info_ = std::make_shared<EngineInfo>(std::move(frame.info));
    was_ready_ = true;
    if (health_.state == EngineState::kLoading) health_.state = EngineState::kReady;
    health_.status = Status::ok();
    health_.load_progress = 1.0;
    health_.last_progress_us = clock_.now_us();
    for (const auto& [id, waiting] : unstarted_) send_request(waiting.request);
  }
  notify_health();
}

void RemoteEngine::Core::set_state(EngineState state, const Status& status) {
  {
    std::lock_guard lock(mutex_);
    health_.state = draining_ ? EngineState::kStopped : state;
    health_.status = status;
    if (state != EngineState::kReady) health_.load_progress = 0.0;
  }
  notify_health();
}

void RemoteEngine::Core::notify_health() {
  if (!options_.on_health) return;
  std::lock_guard notify(notify_mutex_);
  const EngineHealth now = health();
  const int percent = static_cast<int>(now.load_progress * 100.0);
  if (now.state == notified_state_ && percent == notified_percent_) return;
  notified_state_ = now.state;
  notified_percent_ = percent;
  options_.on_health(now);
}

}  // namespace fathom
