// StreamHub: the streams of one engine handle, by request. The handle's writer thread delivers
// events; each stream has its own reader thread. Shared by the in-process and the remote engine.
#pragma once

#include <cstdint>
#include <functional>
#include <memory>
#include <mutex>
#include <span>
#include <unordered_map>
#include <vector>

#include "fathom/request.h"
#include "sched/scheduler.h"

namespace fathom {

// How much may wait for its first step.
struct QueueLimits {
  int32_t requests_max = 512;
  int64_t tokens_max = int64_t{1} << 20;
};

class StreamState;

// Thread-safe. Outlives its handle through the streams that hold it.
class StreamHub : public std::enable_shared_from_this<StreamHub> {
 public:
  // `cancel` tells the engine to cancel a request; called on any thread, until close().
  static std::shared_ptr<StreamHub> make(QueueLimits limits, std::function<void(RequestId)> cancel);

  // A stream for request `id`, which waits with `prompt_tokens` tokens until its StartedEvent.
  // kResourceExhausted with reason "queue_full" when too much waits already.
  Result<std::unique_ptr<TokenStream>> open(RequestId id, int64_t prompt_tokens);
  // Takes back an open() whose request never reached the engine.
  void forget(RequestId id);
  // Writer's thread. Events of unknown or finished requests are dropped.
  void deliver(std::vector<RequestEvent> events);
  // Ends every stream, or those of `ids`, with FinishedEvent{reason, status}.
  void finish_all(FinishReason reason, const Status& status);
  void finish(std::span<const RequestId> ids, FinishReason reason, const Status& status);
  // No cancel is passed on from now on.
  void close();

  int32_t waiting_requests() const;
  int64_t waiting_tokens() const;
  std::vector<RequestId> open_ids() const;

 private:
  friend class HubStream;
  struct Entry {
    std::shared_ptr<StreamState> state;
    int64_t prompt_tokens = 0;
    bool waiting = true;
  };

  StreamHub(QueueLimits limits, std::function<void(RequestId)> cancel);
  void cancel(RequestId id);
  void stop_waiting(Entry& entry);  // under mutex_
  void push(RequestEvent event, std::vector<std::shared_ptr<StreamState>>& touched);

  const QueueLimits limits_;
  mutable std::mutex mutex_;
  std::unordered_map<RequestId, Entry> entries_;
  int32_t waiting_requests_ = 0;
  int64_t waiting_tokens_ = 0;

  std::mutex cancel_mutex_;
  std::function<void(RequestId)> cancel_;  // empty once closed
};

}  // namespace fathom
