// /v1/chat/completions bodies.
#include "api/json_fields.h"
#include "api/parse_call.h"
#include "api/parse_common.h"

namespace fathom::api {
namespace {

Result<std::string> read_content(const Json* value, const std::string& name) {
  if (value == nullptr) return std::string();
  if (value->is_string()) return value->get<std::string>();
  if (!value->is_array()) {
    return invalid_argument(name + " must be a string or an array of text parts, not " +
                            std::string(json_kind(*value)))
        .about(name)
        .because("invalid_type");
  }
  std::string text;
  for (size_t i = 0; i < value->size(); ++i) {
    const Json& part = (*value)[i];
    const std::string part_name = name + "[" + std::to_string(i) + "]";
    const std::string type = part.is_object() && part.contains("type") && part["type"].is_string()
                                 ? part["type"].get<std::string>()
                                 : "";
    if (type != "text") {
      return Status(Code::kUnimplemented,
                    part_name + " has type \"" + type + "\"; this server reads text parts only")
          .about(part_name)
          .because("unsupported_parameter");
    }
    if (!part.contains("text") || !part["text"].is_string()) {
      return invalid_argument(part_name + ".text must be a string").about(part_name + ".text");
    }
    text += part["text"].get_ref<const std::string&>();
  }
  return text;
}

Result<text::Role> read_role(const Json* value, const std::string& name) {
  const std::string role = value != nullptr && value->is_string() ? value->get<std::string>() : "";
  if (role == "system") return text::Role::kSystem;
  if (role == "developer") return text::Role::kDeveloper;
  if (role == "user") return text::Role::kUser;
  if (role == "assistant") return text::Role::kAssistant;
  if (role == "tool" || role == "function") {
    return Status(Code::kUnimplemented,
                  name + " is \"" + role + "\"; this server does not support tools")
        .about(name)
        .because("unsupported_parameter");
  }
  return invalid_argument(name + " must be one of system, developer, user, assistant")
      .about(name)
      .because("invalid_value");
}

Result<text::ChatMessage> read_message(const Json& message, const std::string& path) {
  if (!message.is_object())
    return invalid_argument(path + " must be an object").about(path).because("invalid_type");
  FieldReader fields(message, path + ".");
  text::ChatMessage out;
  FATHOM_ASSIGN(out.role, read_role(fields.find("role"), path + ".role"));
  FATHOM_ASSIGN(out.content, read_content(fields.find("content"), path + ".content"));
  const Json* calls = fields.find("tool_calls");
  if (calls != nullptr && !(calls->is_array() && calls->empty())) {
    fields.fail("tool_calls", "is not supported by this server", Code::kUnimplemented,
                "unsupported_parameter");
  }
  for (const char* name : {"reasoning_content", "reasoning"}) {
    const Json* value = fields.find(name);
    if (value == nullptr) continue;
    if (!value->is_string()) {
      fields.fail(name, "must be a string", Code::kInvalidArgument, "invalid_type");
    } else if (!out.reasoning_content) {
      out.reasoning_content = value->get<std::string>();
    }
  }
  if (!fields.ok()) return fields.status();
  return out;
}

void read_thinking(FieldReader& fields, ChatCall& call) {
  if (const Json* thinking = fields.find("thinking"); thinking != nullptr) {
    const std::string type =
        thinking->is_object() && thinking->contains("type") && (*thinking)["type"].is_string()
            ? (*thinking)["type"].get<std::string>()
            : "";
    if (type != "enabled" && type != "disabled") {
      return fields.fail("thinking", "must be {\"type\":\"enabled\"} or {\"type\":\"disabled\"}");
    }
    call.thinking = type == "enabled";
  }
  const Json* kwargs = fields.find("chat_template_kwargs");
  if (kwargs == nullptr) return;
  if (!kwargs->is_object()) return fields.fail("chat_template_kwargs", "must be an object");
  FieldReader options(*kwargs, fields.path("chat_template_kwargs") + ".");
  bool on = call.thinking.value_or(false);
  for (const char* name : {"thinking", "enable_thinking"}) {
    if (options.find(name) == nullptr) continue;
    options.boolean(name, on);
    call.thinking = on;
  }
  if (!options.ok()) fields.fail(options.status());
}

void refuse_tools(FieldReader& fields) {
  const auto refuse = [&](const char* name) {
    fields.fail(name, "is not supported by this server", Code::kUnimplemented,
                "unsupported_parameter");
  };
  for (const char* name : {"tools", "functions"}) {
    const Json* value = fields.find(name);
    if (value != nullptr && !(value->is_array() && value->empty())) refuse(name);
  }
  for (const char* name : {"tool_choice", "function_call"}) {
    const Json* value = fields.find(name);
    if (value != nullptr && *value != "none" && *value != "auto") refuse(name);
  }
  for (const char* name : {"audio", "modalities", "prediction", "web_search_options"}) {
    const Json* value = fields.find(name);
    if (value != nullptr && *value != Json::array({"text"})) refuse(name);
  }
  fields.ignore({"parallel_tool_calls", "reasoning_effort", "verbosity"});
}

void read_logprobs(FieldReader& fields, const ApiLimits& limits, ChatCall& call) {
  bool wanted = false;
  fields.boolean("logprobs", wanted);
  std::optional<int32_t> top;
  fields.integer("top_logprobs", 0, limits.logprobs_max, top);
  if (top && !wanted) return fields.fail("top_logprobs", "is allowed only when logprobs is true");
  if (wanted) call.sampling.logprobs = top.value_or(0);
}

}  // namespace

Result<std::vector<text::ChatMessage>> parse_messages(const Json& messages,
                                                      const ApiLimits& limits) {
  if (!messages.is_array() || messages.empty()) {
    return invalid_argument("messages must be an array of at least one message")
        .about("messages")
        .because("invalid_value");
  }
  if (messages.size() > static_cast<size_t>(limits.messages_max)) {
    return invalid_argument("messages may have at most " + std::to_string(limits.messages_max) +
                            " entries, not " + std::to_string(messages.size()))
        .about("messages");
  }
  std::vector<text::ChatMessage> out;
  out.reserve(messages.size());
  for (size_t i = 0; i < messages.size(); ++i) {
    FATHOM_ASSIGN(text::ChatMessage message,
                  read_message(messages[i], "messages[" + std::to_string(i) + "]"));
    out.push_back(std::move(message));
  }
  return out;
}

Result<ChatCall> parse_chat_call(const Json& body, const ApiLimits& limits,
                                 const SamplingDefaults& defaults) {
  ChatCall call;
  FieldReader fields(body, "");
  read_common_fields(fields, limits, defaults, call);
  fields.integer("max_tokens", 1, INT32_MAX, call.max_tokens);
  fields.integer("max_completion_tokens", 1, INT32_MAX, call.max_tokens);
  read_logprobs(fields, limits, call);
  read_thinking(fields, call);
  fields.boolean("continue_final_message", call.continue_final);
  fields.ignore({"add_generation_prompt"});
  refuse_tools(fields);
  const Json* messages = fields.find("messages");
  if (!fields.ok()) return fields.status();
  if (messages == nullptr) {
    return invalid_argument("messages is required")
        .about("messages")
        .because("missing_required_parameter");
  }
  FATHOM_ASSIGN(call.messages, parse_messages(*messages, limits));
  call.unknown_fields = fields.unknown();
  return call;
}

}  // namespace fathom::api
