// From what was asked to what the engine is given.
#include "api/prepare.h"

#include "text/utf8.h"

namespace fathom::api {
namespace {

Status check_utf8(std::string_view text, const std::string& field) {
  const auto at = text::first_invalid_utf8(text);
  if (!at) return Status::ok();
  return invalid_argument(field + " is not valid UTF-8 at byte " + std::to_string(*at))
      .about(field)
      .because("invalid_utf8");
}

Status context_too_long(const ApiContext& context, size_t prompt, int64_t completion,
                        std::string_view where) {
  const int64_t total = static_cast<int64_t>(prompt) + completion;
  return invalid_argument("This model's maximum context length is " +
                          std::to_string(context.model.max_model_len) +
                          " tokens. However, you requested " + std::to_string(total) + " tokens (" +
                          std::to_string(prompt) + " in the " + std::string(where) + ", " +
                          std::to_string(completion) +
                          " in the completion). Please reduce the length of the " +
                          std::string(where) + " or of the completion.")
      .about(std::string(where))
      .because("context_length_exceeded");
}

// Sets max_tokens for the longest prompt, or says why the context is too long.
Status resolve_max_tokens(const ApiContext& context, const CommonCall& call,
                          std::optional<int32_t> fallback, std::string_view where,
                          GenerationSpec& spec) {
  size_t longest = 0;
  for (const auto& prompt : spec.prompts) longest = std::max(longest, prompt.size());
  const int64_t room = context.model.max_model_len - static_cast<int64_t>(longest);
  if (room < 1) return context_too_long(context, longest, call.max_tokens.value_or(1), where);
  if (call.max_tokens && *call.max_tokens > room) {
    return context_too_long(context, longest, *call.max_tokens, where);
  }
  const int64_t wanted =
      call.max_tokens ? *call.max_tokens : std::min<int64_t>(fallback.value_or(INT32_MAX), room);
  spec.prompt_only = wanted == 0;
  spec.sampling.max_tokens = static_cast<int32_t>(std::max<int64_t>(wanted, 1));
  if (spec.sampling.min_tokens > spec.sampling.max_tokens) {
    return invalid_argument("min_tokens must be at most max_tokens (" +
                            std::to_string(spec.sampling.max_tokens) + "), not " +
                            std::to_string(spec.sampling.min_tokens))
        .about("min_tokens")
        .because("invalid_value");
  }
  return Status::ok();
}

Status check_sampling_ids(const ApiContext& context, const SamplingParams& sampling) {
  FATHOM_RETURN_IF_ERROR(check_ids(context, sampling.stop_token_ids, "stop_token_ids"));
  for (const auto& [id, bias] : sampling.logit_bias) {
    FATHOM_RETURN_IF_ERROR(check_ids(context, {id}, "logit_bias"));
  }
  return Status::ok();
}

Result<GenerationSpec> common_spec(const ApiContext& context, const CommonCall& call) {
  FATHOM_RETURN_IF_ERROR(check_model(context, call.model));
  FATHOM_RETURN_IF_ERROR(check_sampling_ids(context, call.sampling));
  for (const std::string& stop : call.stop) FATHOM_RETURN_IF_ERROR(check_utf8(stop, "stop"));
  GenerationSpec spec;
  spec.request_id = call.request_id;
  spec.choices_per_prompt = call.choices;
  spec.sampling = call.sampling;
  spec.seeded = call.seeded;
  spec.stop = call.stop;
  spec.include_stop = call.include_stop;
  spec.skip_special_tokens = call.skip_special_tokens;
  spec.priority = call.priority;
  if (!call.cache_identity.empty() && !context.share_prefixes) {
    spec.tenant = context.hasher->hash(bytes_of(call.cache_identity)).low;
  }
  const int64_t timeout_ms = call.timeout_ms.value_or(context.limits.request_deadline_ms);
  spec.deadline_us = context.clock->now_us() + timeout_ms * 1000;
  return spec;
}

}  // namespace

Status check_model(const ApiContext& context, const std::string& name) {
  if (name.empty() || name == context.model.name) return Status::ok();
  return not_found("The model `" + name + "` does not exist; this server serves `" +
                   context.model.name + "`.")
      .about("model")
      .because("model_not_found");
}

Status check_ids(const ApiContext& context, const std::vector<TokenId>& ids,
                 const std::string& field) {
  for (TokenId id : ids) {
    if (id >= 0 && id < context.model.vocab) continue;
    return invalid_argument(field + " has token id " + std::to_string(id) + "; ids are below " +
                            std::to_string(context.model.vocab))
        .about(field)
        .because("invalid_value");
  }
  return Status::ok();
}

Result<std::vector<TokenId>> encode_text(const ApiContext& context, const std::string& text,
                                         const std::string& field) {
  FATHOM_RETURN_IF_ERROR(check_utf8(text, field));
  const text::Tokenizer& tokenizer = *context.model.tokenizer;
  return tokenizer.encode(text, {.allow_control_tokens = context.allow_control_tokens,
                                 .add_bos = tokenizer.adds_bos()});
}

Result<std::vector<TokenId>> encode_chat(const ApiContext& context, const ChatCall& call,
                                         text::OutputStart* output_start) {
  if (!context.model.chat_format) {
    return Status(Code::kUnimplemented,
                  "the served model has no chat format; use /v1/completions or set --chat-format")
        .about("messages")
        .because("unsupported_parameter");
  }
  for (size_t i = 0; i < call.messages.size(); ++i) {
    const std::string name = "messages[" + std::to_string(i) + "]";
    FATHOM_RETURN_IF_ERROR(check_utf8(call.messages[i].content, name + ".content"));
    if (!call.messages[i].reasoning_content) continue;
    FATHOM_RETURN_IF_ERROR(
        check_utf8(*call.messages[i].reasoning_content, name + ".reasoning_content"));
  }
  text::ChatOptions options;
  options.thinking = call.thinking.value_or(false);
  options.add_generation_prompt = !call.continue_final;
  options.continue_final = call.continue_final;
  FATHOM_ASSIGN(text::ChatPrompt prompt,
                text::render(*context.model.chat_format, call.messages, options));
  *output_start = prompt.output_start;
  if (context.allow_control_tokens) {
    for (text::Segment& segment : prompt.segments) segment.trusted = true;
  }
  return context.model.tokenizer->encode(prompt.segments);
}

Result<GenerationSpec> prepare_chat(const ApiContext& context, const ChatCall& call) {
  FATHOM_ASSIGN(GenerationSpec spec, common_spec(context, call));
  text::OutputStart start = text::OutputStart::kContent;
  FATHOM_ASSIGN(std::vector<TokenId> prompt, encode_chat(context, call, &start));
  spec.reasoning = start;
  spec.prompts.push_back(std::move(prompt));
  FATHOM_RETURN_IF_ERROR(resolve_max_tokens(context, call, std::nullopt, "messages", spec));
  return spec;
}

Result<GenerationSpec> prepare_completion(const ApiContext& context, const CompletionCall& call) {
  FATHOM_ASSIGN(GenerationSpec spec, common_spec(context, call));
  for (size_t i = 0; i < call.prompts.size(); ++i) {
    const std::string field =
        call.prompts.size() == 1 ? "prompt" : "prompt[" + std::to_string(i) + "]";
    if (const auto* text = std::get_if<std::string>(&call.prompts[i])) {
      FATHOM_ASSIGN(std::vector<TokenId> ids, encode_text(context, *text, field));
      spec.prompts.push_back(std::move(ids));
    } else {
      spec.prompts.push_back(std::get<std::vector<TokenId>>(call.prompts[i]));
      FATHOM_RETURN_IF_ERROR(check_ids(context, spec.prompts.back(), field));
    }
    if (spec.prompts.back().empty()) {
      return invalid_argument(field + " must have at least one token")
          .about(field)
          .because("invalid_value");
    }
  }
  constexpr int32_t kCompletionTokensDefault = 16;
  FATHOM_RETURN_IF_ERROR(
      resolve_max_tokens(context, call, kCompletionTokensDefault, "prompt", spec));
  if (spec.prompt_only && !call.echo) {
    return invalid_argument("max_tokens may be 0 only with echo")
        .about("max_tokens")
        .because("invalid_value");
  }
  spec.sampling.prompt_logprobs = call.echo && call.sampling.logprobs.has_value();
  return spec;
}

}  // namespace fathom::api
