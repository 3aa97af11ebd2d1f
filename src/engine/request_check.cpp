// The ranges of a request's fields.
#include "engine/request_check.h"

#include <algorithm>
#include <cmath>
#include <string>

namespace fathom {
namespace {

Status refuse(const char* field, const std::string& sentence) {
  return invalid_argument(std::string(field) + " " + sentence).about(field);
}

// Not a number fails every comparison, so it is out of every range.
Status check_number(const char* field, float value, float low, float high) {
  if (value >= low && value <= high) return Status::ok();
  return refuse(field, "must be from " + std::to_string(low) + " to " + std::to_string(high));
}

Status check_ids(const char* field, const std::vector<TokenId>& ids, int32_t vocab) {
  for (TokenId id : ids) {
    if (id < 0 || id >= vocab) {
      return refuse(field, "holds token id " + std::to_string(id) +
                               ", but the vocabulary ends at " + std::to_string(vocab - 1));
    }
  }
  return Status::ok();
}

Status check_bias(const SamplingParams& s, int32_t vocab) {
  if (s.logit_bias.size() > kLogitBiasMax) return refuse("logit_bias", "has over 1024 entries");
  for (const auto& [id, bias] : s.logit_bias) {
    FATHOM_RETURN_IF_ERROR(check_ids("logit_bias", {id}, vocab));
    FATHOM_RETURN_IF_ERROR(check_number("logit_bias", bias, -100.0F, 100.0F));
  }
  return Status::ok();
}

Status check_sampling(const SamplingParams& s, int32_t vocab) {
  FATHOM_RETURN_IF_ERROR(check_number("temperature", s.temperature, 0.0F, 2.0F));
  FATHOM_RETURN_IF_ERROR(check_number("top_p", s.top_p, 0.0F, 1.0F));
  FATHOM_RETURN_IF_ERROR(check_number("min_p", s.min_p, 0.0F, 1.0F));
  FATHOM_RETURN_IF_ERROR(check_number("presence_penalty", s.presence_penalty, -2.0F, 2.0F));
  FATHOM_RETURN_IF_ERROR(check_number("frequency_penalty", s.frequency_penalty, -2.0F, 2.0F));
  FATHOM_RETURN_IF_ERROR(check_number("repetition_penalty", s.repetition_penalty, 1e-3F, 100.0F));
  if (s.top_k < 0) return refuse("top_k", "must not be negative");
  if (s.max_tokens < 0) return refuse("max_tokens", "must not be negative");
  if (s.min_tokens < 0) return refuse("min_tokens", "must not be negative");
  if (s.logprobs && (*s.logprobs < 0 || *s.logprobs > kLogprobsMax)) {
    return refuse("logprobs", "must be from 0 to 20");
  }
  if (s.stop_token_ids.size() > static_cast<size_t>(kStopTokenIdsMax)) {
    return refuse("stop_token_ids", "has over 16 entries");
  }
  FATHOM_RETURN_IF_ERROR(check_ids("stop_token_ids", s.stop_token_ids, vocab));
  return check_bias(s, vocab);
}

}  // namespace

Status check_request(const Request& request, const EngineInfo& info) {
  if (request.prompt.empty()) return refuse("prompt", "must hold at least one token");
  if (request.prompt.size() >= static_cast<size_t>(info.max_model_len)) {
    return refuse("prompt", "is " + std::to_string(request.prompt.size()) +
                                " tokens long; the model's context of " +
                                std::to_string(info.max_model_len) +
                                " tokens leaves no room for an answer")
        .because("context_length_exceeded");
  }
  FATHOM_RETURN_IF_ERROR(check_ids("prompt", request.prompt, info.model.vocab));
  return check_sampling(request.sampling, info.model.vocab);
}

}  // namespace fathom
