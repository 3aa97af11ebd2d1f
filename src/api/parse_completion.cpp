// /v1/completions bodies, and token id arrays.
#include "api/json_fields.h"
#include "api/parse_call.h"
#include "api/parse_common.h"

namespace fathom::api {
namespace {

bool all_integers(const Json& array) {
  for (const Json& item : array) {
    if (!item.is_number_integer()) return false;
  }
  return true;
}

Result<CompletionCall::Prompt> read_one_prompt(const Json& value, const std::string& name) {
  if (value.is_string()) return CompletionCall::Prompt(value.get<std::string>());
  if (value.is_array()) {
    FATHOM_ASSIGN(std::vector<TokenId> ids, parse_token_ids(value, name));
    return CompletionCall::Prompt(std::move(ids));
  }
  return invalid_argument(name + " must be a string or an array of token ids, not " +
                          std::string(json_kind(value)))
      .about(name)
      .because("invalid_type");
}

Status read_prompts(const Json& value, const ApiLimits& limits, CompletionCall& call) {
  const bool many = value.is_array() && !value.empty() && !all_integers(value);
  if (!many) {
    FATHOM_ASSIGN(CompletionCall::Prompt prompt, read_one_prompt(value, "prompt"));
    call.prompts.push_back(std::move(prompt));
    return Status::ok();
  }
  if (value.size() > static_cast<size_t>(limits.prompts_max)) {
    return invalid_argument("prompt may hold at most " + std::to_string(limits.prompts_max) +
                            " prompts, not " + std::to_string(value.size()))
        .about("prompt");
  }
  for (size_t i = 0; i < value.size(); ++i) {
    FATHOM_ASSIGN(CompletionCall::Prompt prompt,
                  read_one_prompt(value[i], "prompt[" + std::to_string(i) + "]"));
    call.prompts.push_back(std::move(prompt));
  }
  return Status::ok();
}

}  // namespace

Result<Json> parse_body(std::string_view body, const ApiLimits& limits) {
  auto parsed =
      parse_json(body, {.depth_max = limits.json_depth_max, .bytes_max = limits.body_bytes_max});
  if (!parsed.is_ok()) {
    return invalid_argument("the request body is " + parsed.status().message())
        .because("invalid_json");
  }
  if (!parsed->is_object()) {
    return invalid_argument("the request body must be a JSON object, not " +
                            std::string(json_kind(*parsed)))
        .because("invalid_json");
  }
  return parsed;
}

Result<std::vector<TokenId>> parse_token_ids(const Json& value, const std::string& name) {
  if (!value.is_array()) {
    return invalid_argument(name + " must be an array of token ids")
        .about(name)
        .because("invalid_type");
  }
  std::vector<TokenId> ids;
  ids.reserve(value.size());
  for (const Json& item : value) {
    const bool id = item.is_number_unsigned() && item.get<uint64_t>() <= INT32_MAX;
    if (!id) {
      return invalid_argument(name + " must hold token ids, not " + item.dump().substr(0, 40))
          .about(name)
          .because("invalid_type");
    }
    ids.push_back(item.get<TokenId>());
  }
  return ids;
}

Result<CompletionCall> parse_completion_call(const Json& body, const ApiLimits& limits,
                                             const SamplingDefaults& defaults) {
  CompletionCall call;
  FieldReader fields(body, "");
  read_common_fields(fields, limits, defaults, call);
  fields.integer("max_tokens", 0, INT32_MAX, call.max_tokens);
  fields.integer("logprobs", 0, limits.logprobs_max, call.sampling.logprobs);
  fields.boolean("echo", call.echo);
  int32_t best_of = call.choices;
  fields.integer("best_of", 1, limits.choices_max, best_of);
  if (best_of != call.choices) {
    fields.fail("best_of", "other than n is not supported by this server", Code::kUnimplemented,
                "unsupported_parameter");
  }
  std::string suffix;
  fields.string("suffix", 1 << 20, suffix);
  if (!suffix.empty()) {
    fields.fail("suffix", "is not supported by this server", Code::kUnimplemented,
                "unsupported_parameter");
  }
  const Json* prompt = fields.find("prompt");
  if (!fields.ok()) return fields.status();
  if (prompt == nullptr) {
    return invalid_argument("prompt is required")
        .about("prompt")
        .because("missing_required_parameter");
  }
  FATHOM_RETURN_IF_ERROR(read_prompts(*prompt, limits, call));
  call.unknown_fields = fields.unknown();
  return call;
}

}  // namespace fathom::api
