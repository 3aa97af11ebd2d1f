// PromptAssembler: puts requests back together whose prompts came in pieces. One thread: the
// engine's I/O thread.
#pragma once

#include <cstdint>
#include <optional>
#include <unordered_map>

#include "engine/protocol.h"

namespace fathom {

class PromptAssembler {
 public:
  PromptAssembler(size_t requests_max, int64_t tokens_max)
      : requests_max_(requests_max), tokens_max_(tokens_max) {}

  // The request once it is whole. kResourceExhausted when too much is unfinished.
  Result<std::optional<Request>> begin(SubmitFrame frame);
  // A piece of an unknown request (refused, or cancelled meanwhile) is dropped. kDataLoss when it
  // is longer than announced.
  Result<std::optional<Request>> add(PromptPieceFrame frame);
  // True when the request was unfinished: it is forgotten.
  bool cancel(RequestId id);

 private:
  const size_t requests_max_;
  const int64_t tokens_max_;
  int64_t tokens_ = 0;  // announced by unfinished requests
  std::unordered_map<RequestId, SubmitFrame> unfinished_;
};

}  // namespace fathom
