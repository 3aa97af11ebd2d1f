// Reading of protobuf requests.
#include "api/grpc_call.h"

#include "api/field_ranges.h"

namespace fathom::api {
namespace {

Status wrong(const std::string& field, const std::string& sentence) {
  return invalid_argument(field + " " + sentence).about(field).because("invalid_value");
}

std::string between(FieldRange range) {
  return "must be between " + std::to_string(range.low) + " and " + std::to_string(range.high);
}

Status check_float(const char* field, float value, FieldRange range) {
  if (value >= range.low && value <= range.high) return Status::ok();
  return wrong(field, between(range) + ", not " + std::to_string(value));
}

Status check_count(const char* field, uint64_t value, uint64_t low, uint64_t high) {
  if (value >= low && value <= high) return Status::ok();
  return wrong(field, "must be between " + std::to_string(low) + " and " + std::to_string(high) +
                          ", not " + std::to_string(value));
}

Status read_numbers(const v1::Sampling& in, const ApiLimits& limits, CommonCall& call) {
  SamplingParams& out = call.sampling;
  if (in.has_temperature()) out.temperature = in.temperature();
  if (in.has_top_p()) out.top_p = in.top_p();
  if (in.has_min_p()) out.min_p = in.min_p();
  if (in.has_presence_penalty()) out.presence_penalty = in.presence_penalty();
  if (in.has_frequency_penalty()) out.frequency_penalty = in.frequency_penalty();
  if (in.has_repetition_penalty()) out.repetition_penalty = in.repetition_penalty();
  FATHOM_RETURN_IF_ERROR(check_float("sampling.temperature", out.temperature, kTemperatureRange));
  FATHOM_RETURN_IF_ERROR(check_float("sampling.top_p", out.top_p, kProbabilityRange));
  FATHOM_RETURN_IF_ERROR(check_float("sampling.min_p", out.min_p, kProbabilityRange));
  FATHOM_RETURN_IF_ERROR(
      check_float("sampling.presence_penalty", out.presence_penalty, kPenaltyRange));
  FATHOM_RETURN_IF_ERROR(
      check_float("sampling.frequency_penalty", out.frequency_penalty, kPenaltyRange));
  FATHOM_RETURN_IF_ERROR(
      check_float("sampling.repetition_penalty", out.repetition_penalty, kRepetitionRange));
  FATHOM_RETURN_IF_ERROR(check_count("sampling.top_k", in.top_k(), 0, INT32_MAX));
  FATHOM_RETURN_IF_ERROR(check_count("sampling.max_tokens", in.max_tokens(), 0, INT32_MAX));
  FATHOM_RETURN_IF_ERROR(check_count("sampling.min_tokens", in.min_tokens(), 0, INT32_MAX));
  if (in.has_top_k()) out.top_k = static_cast<int32_t>(in.top_k());
  if (in.has_max_tokens()) call.max_tokens = static_cast<int32_t>(in.max_tokens());
  out.min_tokens = static_cast<int32_t>(in.min_tokens());
  out.ignore_eos = in.ignore_eos();
  if (in.has_seed()) {
    out.seed = in.seed();
    call.seeded = true;
  }
  if (!in.has_n()) return Status::ok();
  FATHOM_RETURN_IF_ERROR(
      check_count("sampling.n", in.n(), 1, static_cast<uint64_t>(limits.choices_max)));
  call.choices = static_cast<int32_t>(in.n());
  return Status::ok();
}

Status read_lists(const v1::Sampling& in, const ApiLimits& limits, CommonCall& call) {
  FATHOM_RETURN_IF_ERROR(
      check_count("sampling.stop", in.stop_size(), 0, static_cast<uint64_t>(limits.stop_max)));
  for (const std::string& stop : in.stop()) {
    if (stop.empty()) return wrong("sampling.stop", "must hold strings that are not empty");
    call.stop.push_back(stop);
  }
  FATHOM_RETURN_IF_ERROR(
      check_count("sampling.stop_token_ids", in.stop_token_ids_size(), 0, kStopTokenIdsMax));
  for (uint32_t id : in.stop_token_ids()) {
    FATHOM_RETURN_IF_ERROR(check_count("sampling.stop_token_ids", id, 0, INT32_MAX));
    call.sampling.stop_token_ids.push_back(static_cast<TokenId>(id));
  }
  FATHOM_RETURN_IF_ERROR(check_count("sampling.logit_bias", in.logit_bias_size(), 0,
                                     static_cast<uint64_t>(limits.logit_bias_max)));
  for (const auto& [id, bias] : in.logit_bias()) {
    FATHOM_RETURN_IF_ERROR(check_count("sampling.logit_bias", id, 0, INT32_MAX));
    FATHOM_RETURN_IF_ERROR(check_float("sampling.logit_bias", bias, kBiasRange));
    call.sampling.logit_bias.emplace_back(static_cast<TokenId>(id), bias);
  }
  return Status::ok();
}

Status read_output(const v1::Output& in, const ApiLimits& limits, CommonCall& call) {
  if (in.has_logprobs()) {
    FATHOM_RETURN_IF_ERROR(check_count("output.logprobs", in.logprobs(), 0,
                                       static_cast<uint64_t>(limits.logprobs_max)));
    call.sampling.logprobs = static_cast<int32_t>(in.logprobs());
  }
  call.include_stop = in.include_stop();
  if (in.has_skip_special_tokens()) call.skip_special_tokens = in.skip_special_tokens();
  call.return_token_ids = in.return_token_ids();
  return Status::ok();
}

template <typename Message>
Status read_common(const Message& request, const ApiLimits& limits,
                   const SamplingDefaults& defaults, CommonCall& call) {
  call.model = request.model();
  call.sampling.temperature = defaults.temperature;
  call.sampling.top_p = defaults.top_p;
  call.sampling.top_k = defaults.top_k;
  call.priority = request.priority();
  if (request.cache_salt().size() > 512) return wrong("cache_salt", "must be at most 512 bytes");
  call.cache_identity = request.cache_salt();
  FATHOM_RETURN_IF_ERROR(read_numbers(request.sampling(), limits, call));
  FATHOM_RETURN_IF_ERROR(read_lists(request.sampling(), limits, call));
  return read_output(request.output(), limits, call);
}

Result<text::Role> role_of(v1::Role role, const std::string& field) {
  switch (role) {
    case v1::ROLE_SYSTEM: return text::Role::kSystem;
    case v1::ROLE_DEVELOPER: return text::Role::kDeveloper;
    case v1::ROLE_USER: return text::Role::kUser;
    case v1::ROLE_ASSISTANT: return text::Role::kAssistant;
    default:
      return wrong(field, "must be one of ROLE_SYSTEM, ROLE_DEVELOPER, ROLE_USER, ROLE_ASSISTANT");
  }
}

}  // namespace

Result<ChatCall> read_chat_request(const v1::ChatRequest& request, const ApiLimits& limits,
                                   const SamplingDefaults& defaults) {
  ChatCall call;
  FATHOM_RETURN_IF_ERROR(read_common(request, limits, defaults, call));
  if (call.max_tokens == 0) return wrong("sampling.max_tokens", "must be at least 1");
  FATHOM_RETURN_IF_ERROR(check_count("messages", request.messages_size(), 1,
                                     static_cast<uint64_t>(limits.messages_max)));
  for (int i = 0; i < request.messages_size(); ++i) {
    const v1::Message& in = request.messages(i);
    text::ChatMessage message;
    FATHOM_ASSIGN(message.role, role_of(in.role(), "messages[" + std::to_string(i) + "].role"));
    message.content = in.content();
    if (in.has_reasoning_content()) message.reasoning_content = in.reasoning_content();
    call.messages.push_back(std::move(message));
  }
  if (request.has_thinking()) call.thinking = request.thinking();
  call.continue_final = request.continue_final_message();
  return call;
}

Result<CompletionCall> read_complete_request(const v1::CompleteRequest& request,
                                             const ApiLimits& limits,
                                             const SamplingDefaults& defaults) {
  CompletionCall call;
  FATHOM_RETURN_IF_ERROR(read_common(request, limits, defaults, call));
  FATHOM_RETURN_IF_ERROR(
      check_count("prompts", request.prompts_size(), 1, static_cast<uint64_t>(limits.prompts_max)));
  for (int i = 0; i < request.prompts_size(); ++i) {
    const auto& prompt = request.prompts(i);
    const std::string field = "prompts[" + std::to_string(i) + "]";
    if (prompt.has_text()) {
      call.prompts.emplace_back(prompt.text());
      continue;
    }
    if (!prompt.has_tokens()) return wrong(field, "must have text or tokens");
    std::vector<TokenId> ids;
    for (uint32_t id : prompt.tokens().ids()) {
      FATHOM_RETURN_IF_ERROR(check_count((field + ".tokens").c_str(), id, 0, INT32_MAX));
      ids.push_back(static_cast<TokenId>(id));
    }
    call.prompts.emplace_back(std::move(ids));
  }
  call.echo = request.echo();
  return call;
}

}  // namespace fathom::api
