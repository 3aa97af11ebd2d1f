// The reactors.
#include <utility>

#include "api/grpc_sinks.h"

namespace fathom::api {

std::shared_ptr<EventWriter> EventWriter::make(size_t queued_events_max, OnCallEnd on_end) {
  std::shared_ptr<EventWriter> writer(new EventWriter(queued_events_max, std::move(on_end)));
  writer->self_ = writer;
  return writer;
}

void EventWriter::push(v1::GenerationEvent event) {
  std::unique_lock lock(mutex_);
  if (gone_ || finished_ || end_) return;
  queue_.push_back(std::move(event));
  if (queue_.size() > queued_events_max_) {
    // A reader this slow would hold its events in our memory: cut it.
    while (queue_.size() > 1) queue_.pop_back();
    end_ = grpc::Status(grpc::StatusCode::RESOURCE_EXHAUSTED, "the client reads too slowly");
    return report_gone(lock);
  }
  advance(lock);
}

void EventWriter::end(grpc::Status status) {
  std::unique_lock lock(mutex_);
  if (finished_ || end_) return;
  end_ = std::move(status);
  advance(lock);
}

// Starts the next write, or ends the call when nothing is left. Calls gRPC without the lock.
void EventWriter::advance(std::unique_lock<std::mutex>& lock) {
  if (writing_ || finished_) return;
  if (!queue_.empty() && !gone_) {
    writing_ = true;
    const v1::GenerationEvent* next = &queue_.front();
    lock.unlock();
    StartWrite(next);
    return;
  }
  if (!end_) return;
  finished_ = true;
  grpc::Status status = *end_;
  lock.unlock();
  Finish(std::move(status));
}

void EventWriter::OnWriteDone(bool ok) {
  std::unique_lock lock(mutex_);
  writing_ = false;
  queue_.pop_front();
  if (!ok && !gone_) {
    report_gone(lock);
    lock.lock();
  }
  advance(lock);
}

void EventWriter::OnCancel() {
  std::unique_lock lock(mutex_);
  if (gone_) return;
  report_gone(lock);
}

// Leaves with the lock released.
void EventWriter::report_gone(std::unique_lock<std::mutex>& lock) {
  gone_ = true;
  if (!end_) end_ = grpc::Status::CANCELLED;
  auto on_gone = std::exchange(on_gone_, nullptr);
  lock.unlock();
  if (on_gone) on_gone();
  lock.lock();
  advance(lock);
  if (lock.owns_lock()) lock.unlock();
}

void EventWriter::set_on_gone(std::function<void()> on_gone) {
  std::unique_lock lock(mutex_);
  if (!gone_) {
    on_gone_ = std::move(on_gone);
    return;
  }
  lock.unlock();
  on_gone();
}

void EventWriter::OnDone() {
  std::unique_lock lock(mutex_);
  on_gone_ = nullptr;
  const std::shared_ptr<EventWriter> self = std::move(self_);
  if (end_ && !gone_) code_ = end_->error_code();
  lock.unlock();
}

void EventWriter::set_usage(const Usage& usage) {
  std::lock_guard lock(mutex_);
  usage_ = usage;
}

std::shared_ptr<UnaryEnd> UnaryEnd::make(OnCallEnd on_end) {
  std::shared_ptr<UnaryEnd> end(new UnaryEnd(std::move(on_end)));
  end->self_ = end;
  return end;
}

void UnaryEnd::end(grpc::Status status) {
  {
    std::lock_guard lock(mutex_);
    if (finished_) return;
    finished_ = true;
    code_ = status.error_code();
  }
  Finish(std::move(status));
}

void UnaryEnd::end_with(const std::function<void()>& fill) {
  {
    std::lock_guard lock(mutex_);
    if (finished_) return;
    finished_ = true;
    fill();
  }
  Finish(grpc::Status::OK);
}

void UnaryEnd::set_on_gone(std::function<void()> on_gone) {
  std::unique_lock lock(mutex_);
  if (!gone_) {
    on_gone_ = std::move(on_gone);
    return;
  }
  lock.unlock();
  on_gone();
}

void UnaryEnd::OnCancel() {
  std::function<void()> on_gone;
  {
    std::lock_guard lock(mutex_);
    gone_ = true;
    on_gone = std::exchange(on_gone_, nullptr);
  }
  if (on_gone) on_gone();
  end(grpc::Status::CANCELLED);
}

void UnaryEnd::OnDone() {
  std::unique_lock lock(mutex_);
  on_gone_ = nullptr;
  const std::shared_ptr<UnaryEnd> self = std::move(self_);
  lock.unlock();
}

void UnaryEnd::set_usage(const Usage& usage) {
  std::lock_guard lock(mutex_);
  usage_ = usage;
}

}  // namespace fathom::api
