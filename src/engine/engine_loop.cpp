// The engine thread: one pass per result, command, deadline or tick.
#include "engine/engine_loop.h"

#include <poll.h>

#include <algorithm>
#include <utility>

#include "base/log.h"

namespace fathom {
namespace {

// An idle loop proves this often that it is alive.
constexpr int64_t kIdleTickUs = 200'000;

}  // namespace

std::vector<RequestEvent> only_finished(RequestId id, FinishReason reason, Status status) {
  std::vector<RequestEvent> events(1);
  events[0].id = id;
  events[0].event.emplace<FinishedEvent>(FinishedEvent{reason, std::move(status)});
  return events;
}

Status shutting_down() { return unavailable("the server is shutting down").because("draining"); }

Result<std::unique_ptr<EngineLoop>> EngineLoop::start(std::unique_ptr<Executor> executor,
                                                      EngineLoopOptions options, EventSink& sink) {
  options.scheduler.depth = executor->depth();
  FATHOM_RETURN_IF_ERROR(Scheduler::validate(options.scheduler, options.layout));
  FATHOM_ASSIGN(EventFd wake, EventFd::make());
  std::unique_ptr<EngineLoop> loop(
      new EngineLoop(std::move(executor), std::move(options), sink, std::move(wake)));
  EngineLoop* self = loop.get();
  self->thread_ = start_thread("engine", [self](std::stop_token) { self->run(); });
  return loop;
}

EngineLoop::EngineLoop(std::unique_ptr<Executor> executor, EngineLoopOptions options,
                       EventSink& sink, EventFd wake)
    : executor_(std::move(executor)),
      sink_(sink),
      scheduler_(options.scheduler, options.layout, keyed_block_hash(KeyedHasher::random_key())),
      max_model_len_(scheduler_.max_model_len()),
      inbox_max_(static_cast<size_t>(options.scheduler.queued_requests_max)),
      wake_(std::move(wake)) {
  health_.state = EngineState::kReady;
  health_.load_progress = 1.0;
  health_.last_progress_us = clock_.now_us();
}

EngineLoop::~EngineLoop() {
  stop_.store(true);
  wake_.notify();
}

Status EngineLoop::submit(Request request) {
  {
    std::lock_guard lock(inbox_mutex_);
    if (ended_) return unavailable("the engine has ended").because("engine_failed");
    if (inbox_requests_ >= inbox_max_) {
      return resource_exhausted("the engine's inbox is full").because("queue_full");
    }
    ++inbox_requests_;
    inbox_.emplace_back(std::move(request));
  }
  wake_.notify();
  return Status::ok();
}

void EngineLoop::cancel(RequestId id) {
  {
    std::lock_guard lock(inbox_mutex_);
    if (ended_) return;
    inbox_.emplace_back(id);
  }
  wake_.notify();
}

void EngineLoop::drain() {
  {
    std::lock_guard lock(inbox_mutex_);
    if (ended_) return;
    inbox_.emplace_back(DrainCommand{});
  }
  wake_.notify();
}

EngineHealth EngineLoop::health() const {
  std::lock_guard lock(state_mutex_);
  return health_;
}

EngineStats EngineLoop::stats() const {
  std::lock_guard lock(state_mutex_);
  return stats_;
}

void EngineLoop::run() {
  while (step()) wait();
  std::lock_guard lock(inbox_mutex_);
  ended_ = true;
  for (const Command& command : inbox_) {
    const Request* request = std::get_if<Request>(&command);
    if (request == nullptr) continue;
    sink_.emit(only_finished(request->id, FinishReason::kError, shutting_down()));
  }
  inbox_.clear();
}

bool EngineLoop::step() {
  const Status broken = executor_->health();
  if (!broken.is_ok()) {
    fail(broken);
    return false;
  }
  if (stop_.load()) {
    scheduler_.fail_all(shutting_down());
    emit(scheduler_.take_events());
    return false;
  }
  const int64_t now_us = clock_.now_us();
  read_inbox(now_us);
  const bool committed = commit_results();
  if (!sink_.congested()) {
    while (std::optional<StepPlan> plan = scheduler_.plan(now_us)) {
      executor_->submit(std::move(*plan));
    }
  }
  emit(scheduler_.take_events());
  publish(now_us, committed || scheduler_.plans_in_flight() == 0);
  return true;
}

void EngineLoop::read_inbox(int64_t now_us) {
  std::vector<Command> commands;
  {
    std::lock_guard lock(inbox_mutex_);
    commands.swap(inbox_);
    inbox_requests_ = 0;
  }
  for (Command& command : commands) {
    if (Request* request = std::get_if<Request>(&command)) {
      admit(std::move(*request), now_us);
    } else if (const RequestId* id = std::get_if<RequestId>(&command)) {
      scheduler_.cancel(*id);
    } else {
      draining_ = true;
    }
  }
  scheduler_.expire(now_us);
}

void EngineLoop::admit(Request request, int64_t now_us) {
  const RequestId id = request.id;
  const Status status = draining_ ? shutting_down() : scheduler_.admit(std::move(request), now_us);
  if (!status.is_ok()) sink_.emit(only_finished(id, FinishReason::kError, status));
}

bool EngineLoop::commit_results() {
  bool committed = false;
  while (std::optional<StepResult> result = executor_->poll()) {
    emit(scheduler_.commit(std::move(*result), clock_.now_us()));
    committed = true;
  }
  return committed;
}

void EngineLoop::emit(CommitOutput output) {
  if (!output.events.empty()) sink_.emit(std::move(output.events));
}

void EngineLoop::fail(const Status& status) {
  Logger("engine").error("the executor has failed", {{"status", status.to_string()}});
  scheduler_.fail_all(unavailable("the engine has failed").because("engine_failed"));
  emit(scheduler_.take_events());
  std::lock_guard lock(state_mutex_);
  health_.state = EngineState::kFailed;
  health_.status = status;
}

void EngineLoop::publish(int64_t now_us, bool progressed) {
  const EngineStats stats = scheduler_.stats();
  std::lock_guard lock(state_mutex_);
  stats_ = stats;
  if (progressed) health_.last_progress_us = now_us;
  if (draining_) {
    health_.state = scheduler_.idle() ? EngineState::kStopped : EngineState::kDraining;
  }
}

// Sleeps until a result, a command, a deadline, or the next proof of life.
void EngineLoop::wait() const {
  int64_t timeout_us = kIdleTickUs;
  if (const std::optional<int64_t> deadline_us = scheduler_.next_deadline_us()) {
    timeout_us = std::clamp<int64_t>(*deadline_us - clock_.now_us(), 0, timeout_us);
  }
  pollfd fds[2] = {{executor_->event_fd(), POLLIN, 0}, {wake_.fd(), POLLIN, 0}};
  const int timeout_ms = static_cast<int>((timeout_us + 999) / 1000);
  (void)::poll(fds, 2, timeout_ms);
  wake_.consume();
}

}  // namespace fathom
