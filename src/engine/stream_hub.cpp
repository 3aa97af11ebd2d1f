// Queues between one writer and a reader per stream.
#include "engine/stream_hub.h"

#include <utility>

namespace fathom {

// One stream's queue. The writer pushes, the reader polls; the request's max_tokens bounds it.
class StreamState {
 public:
  // True when the reader must be woken: it had taken all there was.
  bool push(StreamEvent event) {
    std::lock_guard lock(mutex_);
    if (ended_) return false;
    ended_ = std::holds_alternative<FinishedEvent>(event);
    arrived_.push_back(std::move(event));
    return arrived_.size() == 1;
  }

  // The reader takes all that has arrived, and gives it out without the lock. Both lists keep their
  // memory.
  std::optional<StreamEvent> poll() {
    if (next_ == taken_.size()) {
      taken_.clear();
      next_ = 0;
      std::lock_guard lock(mutex_);
      taken_.swap(arrived_);
    }
    if (taken_.empty()) return std::nullopt;
    return std::move(taken_[next_++]);
  }

  bool ended() const {
    std::lock_guard lock(mutex_);
    return ended_;
  }

  // The reader's call.
  void set_waker(std::function<void()> wake) {
    std::lock_guard lock(waker_mutex_);
    waker_ = std::move(wake);
    if (waker_ && (next_ < taken_.size() || has_arrived())) waker_();
  }

  // Under the waker's own lock, so that after set_waker({}) no call runs any more, and a waker may
  // poll its stream.
  void wake() {
    std::lock_guard lock(waker_mutex_);
    if (waker_) waker_();
  }

 private:
  bool has_arrived() const {
    std::lock_guard lock(mutex_);
    return !arrived_.empty();
  }

  mutable std::mutex mutex_;
  std::vector<StreamEvent> arrived_;  // guarded by mutex_
  bool ended_ = false;                // guarded by mutex_
  std::vector<StreamEvent> taken_;    // the reader's; given out up to next_
  size_t next_ = 0;
  std::mutex waker_mutex_;
  std::function<void()> waker_;
};

// What a client's connection holds.
class HubStream final : public TokenStream {
 public:
  HubStream(RequestId id, std::shared_ptr<StreamState> state, std::shared_ptr<StreamHub> hub)
      : id_(id), state_(std::move(state)), hub_(std::move(hub)) {}

  ~HubStream() override {
    state_->set_waker({});
    if (!state_->ended()) hub_->cancel(id_);
  }

  RequestId id() const override { return id_; }
  std::optional<StreamEvent> poll() override { return state_->poll(); }
  void set_waker(std::function<void()> wake) override { state_->set_waker(std::move(wake)); }
  void cancel() override {
    if (!state_->ended()) hub_->cancel(id_);
  }

 private:
  const RequestId id_;
  const std::shared_ptr<StreamState> state_;
  const std::shared_ptr<StreamHub> hub_;
};

StreamHub::StreamHub(QueueLimits limits, std::function<void(RequestId)> cancel)
    : limits_(limits), cancel_(std::move(cancel)) {}

std::shared_ptr<StreamHub> StreamHub::make(QueueLimits limits,
                                           std::function<void(RequestId)> cancel) {
  return std::shared_ptr<StreamHub>(new StreamHub(limits, std::move(cancel)));
}

Result<std::unique_ptr<TokenStream>> StreamHub::open(RequestId id, int64_t prompt_tokens) {
  auto state = std::make_shared<StreamState>();
  {
    std::lock_guard lock(mutex_);
    if (waiting_requests_ >= limits_.requests_max ||
        (waiting_requests_ > 0 && waiting_tokens_ + prompt_tokens > limits_.tokens_max)) {
      return resource_exhausted("the queue is full: " + std::to_string(waiting_requests_) +
                                " requests with " + std::to_string(waiting_tokens_) +
                                " tokens wait already")
          .because("queue_full");
    }
    if (!entries_.emplace(id, Entry{state, prompt_tokens, true}).second) {
      return Status(Code::kAlreadyExists, "request id " + std::to_string(id) + " is in use");
    }
    ++waiting_requests_;
    waiting_tokens_ += prompt_tokens;
  }
  return std::unique_ptr<TokenStream>(new HubStream(id, std::move(state), shared_from_this()));
}

void StreamHub::forget(RequestId id) {
  std::lock_guard lock(mutex_);
  auto at = entries_.find(id);
  if (at == entries_.end()) return;
  stop_waiting(at->second);
  entries_.erase(at);
}

void StreamHub::stop_waiting(Entry& entry) {
  if (!std::exchange(entry.waiting, false)) return;
  --waiting_requests_;
  waiting_tokens_ -= entry.prompt_tokens;
}

void StreamHub::push(RequestEvent event, std::vector<std::shared_ptr<StreamState>>& touched) {
  auto at = entries_.find(event.id);
  if (at == entries_.end()) return;
  std::shared_ptr<StreamState> state = at->second.state;
  stop_waiting(at->second);
  if (std::holds_alternative<FinishedEvent>(event.event)) entries_.erase(at);
  if (state->push(std::move(event.event))) touched.push_back(std::move(state));
}

void StreamHub::deliver(std::vector<RequestEvent> events) {
  std::vector<std::shared_ptr<StreamState>> touched;
  {
    std::lock_guard lock(mutex_);
    for (RequestEvent& event : events) push(std::move(event), touched);
  }
  for (const auto& state : touched) state->wake();
}

void StreamHub::finish(std::span<const RequestId> ids, FinishReason reason, const Status& status) {
  std::vector<RequestEvent> events;
  events.reserve(ids.size());
  for (RequestId id : ids) events.push_back(RequestEvent{id, FinishedEvent{reason, status}});
  deliver(std::move(events));
}

void StreamHub::finish_all(FinishReason reason, const Status& status) {
  finish(open_ids(), reason, status);
}

void StreamHub::close() {
  std::lock_guard lock(cancel_mutex_);
  cancel_ = nullptr;
}

void StreamHub::cancel(RequestId id) {
  std::lock_guard lock(cancel_mutex_);
  if (cancel_) cancel_(id);
}

int32_t StreamHub::waiting_requests() const {
  std::lock_guard lock(mutex_);
  return waiting_requests_;
}

int64_t StreamHub::waiting_tokens() const {
  std::lock_guard lock(mutex_);
  return waiting_tokens_;
}

std::vector<RequestId> StreamHub::open_ids() const {
  std::lock_guard lock(mutex_);
  std::vector<RequestId> ids;
  ids.reserve(entries_.size());
  for (const auto& [id, entry] : entries_) ids.push_back(id);
  return ids;
}

}  // namespace fathom
