// Reading a TokenStream to its end in tests.
#pragma once

#include <chrono>
#include <thread>
#include <vector>

#include "fathom/request.h"

namespace fathom {

struct Drained {
  int started = 0;
  int cached_tokens = 0;
  int finished = 0;
  std::vector<TokenId> tokens;
  std::vector<TokenLogprobs> logprobs;
  std::vector<TokenLogprobs> prompt_logprobs;
  int32_t drafted = 0;
  FinishReason reason = FinishReason::kNone;
  Status status;
};

inline void take_event(const StreamEvent& event, Drained& out) {
  if (const auto* started = std::get_if<StartedEvent>(&event)) {
    ++out.started;
    out.cached_tokens = started->cached_tokens;
  } else if (const auto* tokens = std::get_if<TokensEvent>(&event)) {
    out.tokens.insert(out.tokens.end(), tokens->tokens.begin(), tokens->tokens.end());
    out.logprobs.insert(out.logprobs.end(), tokens->logprobs.begin(), tokens->logprobs.end());
    out.prompt_logprobs.insert(out.prompt_logprobs.end(), tokens->prompt_logprobs.begin(),
                               tokens->prompt_logprobs.end());
    out.drafted += tokens->drafted;
  } else {
    const auto& finished = std::get<FinishedEvent>(event);
    ++out.finished;
    out.reason = finished.reason;
    out.status = finished.status;
  }
}

// Until FinishedEvent, or until `limit` has gone by (then `finished` is 0).
inline Drained drain_stream(TokenStream& stream,
                            std::chrono::milliseconds limit = std::chrono::seconds(20)) {
  Drained out;
  const auto end = std::chrono::steady_clock::now() + limit;
  while (out.finished == 0 && std::chrono::steady_clock::now() < end) {
    if (std::optional<StreamEvent> event = stream.poll()) {
      take_event(*event, out);
    } else {
      std::this_thread::sleep_for(std::chrono::milliseconds(1));
    }
  }
  return out;
}

// Until `condition` holds; false when it does not within `limit`.
template <typename Condition>
bool wait_until(Condition condition, std::chrono::milliseconds limit = std::chrono::seconds(10)) {
  const auto end = std::chrono::steady_clock::now() + limit;
  while (!condition()) {
    if (std::chrono::steady_clock::now() >= end) return false;
    std::this_thread::sleep_for(std::chrono::milliseconds(2));
  }
  return true;
}

}  // namespace fathom
