// What a client asked of an inference route, in native types, whatever the wire (JSON or protobuf).
// Made by the parsers of one wire, turned into engine requests by prepare_*; values.
#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <variant>
#include <vector>

#include "fathom/plan.h"
#include "text/chat_format.h"

namespace fathom::api {

// What chat and completion share.
struct CommonCall {
  std::string model;        // empty: the served one
  std::string request_id;   // x-request-id
  SamplingParams sampling;  // max_tokens is resolved by prepare_*
  std::optional<int32_t> max_tokens;
  bool seeded = false;  // the client gave a seed
  int32_t choices = 1;  // n
  std::vector<std::string> stop;
  bool include_stop = false;
  bool skip_special_tokens = true;
  bool return_token_ids = false;
  bool stream = false;
  bool include_usage = false;
  int32_t priority = 0;
  std::string cache_identity;  // tenant of the prefix cache (cache_salt, user_id)
  std::optional<int64_t> timeout_ms;
  uint64_t unknown_fields = 0;
};

struct ChatCall : CommonCall {
  std::vector<text::ChatMessage> messages;
  std::optional<bool> thinking;
  bool continue_final = false;  // the last message is the assistant's and is continued
};

struct CompletionCall : CommonCall {
  using Prompt = std::variant<std::string, std::vector<TokenId>>;
  std::vector<Prompt> prompts;
  bool echo = false;
};

}  // namespace fathom::api
