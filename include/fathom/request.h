// Request: what a client asked, already token ids and native types; made by the front end, moved to
// the engine. TokenStream: where its tokens go.
#pragma once

#include <atomic>
#include <cstdint>
#include <functional>
#include <memory>
#include <optional>
#include <string>
#include <variant>
#include <vector>

#include "fathom/plan.h"
#include "fathom/status.h"

namespace fathom {

using RequestId = uint64_t;

struct Request {
  RequestId id = 0;             // unique within the process; made by the Engine handle when 0
  std::string trace_id;         // x-request-id, for logs
  std::vector<TokenId> prompt;  // at least one token
  SamplingParams sampling;      // n is resolved by the front end: one Request per choice
  int32_t priority = 0;         // smaller runs first
  std::optional<int64_t> deadline_us;  // monotonic clock of this host
  uint64_t tenant = 0;  // prefix-cache identity; requests of other tenants never share blocks
  bool cache_prefix = true;
};

// How many tokens of the prompt came from the prefix cache, and how long the request had waited in
// the engine's queue. First event of a stream.
struct StartedEvent {
  int32_t prompt_tokens = 0;
  int32_t cached_tokens = 0;
  int64_t queued_us = 0;
};

// New tokens of one step.
struct TokensEvent {
  TokenRun tokens;
  std::vector<TokenLogprobs> logprobs;         // one per token when asked for
  std::vector<TokenLogprobs> prompt_logprobs;  // may come in pieces, before the first token
  int32_t drafted = 0;                         // drafts verified in this step
};

// Last event of a stream. `status` is not ok for kError and kDeadline.
struct FinishedEvent {
  FinishReason reason = FinishReason::kNone;
  Status status;
};

using StreamEvent = std::variant<StartedEvent, TokensEvent, FinishedEvent>;

// Exactly one reader (a front-end connection's thread) and one writer (the engine handle's I/O
// thread). The queue is bounded by the request's own max_tokens. A TokenStream destroyed before its
// FinishedEvent cancels its request.
class TokenStream {
 public:
  virtual ~TokenStream() = default;

  virtual RequestId id() const = 0;
  // The next event, or none now. After a FinishedEvent, none ever.
  virtual std::optional<StreamEvent> poll() = 0;
  // `wake` is called on the writer's thread, must be quick, and may be called once more than
  // needed. Called at once if events are waiting. Set once.
  virtual void set_waker(std::function<void()> wake) = 0;
  // The request is in no plan made after the engine reads this. Idempotent. The stream still ends
  // with FinishedEvent.
  virtual void cancel() = 0;
};

}  // namespace fathom
