// Bounds on what a request may carry. Copied from the settings at start; a value.
#pragma once

#include <cstddef>
#include <cstdint>

#include "fathom/plan.h"

namespace fathom::api {

struct ApiLimits {
  size_t json_depth_max = 32;
  size_t body_bytes_max = size_t{32} << 20;
  int32_t choices_max = 8;
  int32_t prompts_max = 64;
  int32_t messages_max = 2048;
  int32_t stop_max = 16;
  int32_t logprobs_max = kLogprobsMax;
  int32_t logit_bias_max = kLogitBiasMax;
  int64_t keepalive_comment_ms = 10'000;
  int64_t request_deadline_ms = 300'000;  // of every request, and the largest timeout_ms
};

}  // namespace fathom::api
