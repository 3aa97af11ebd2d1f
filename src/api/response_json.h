// Pieces that the JSON answers of chat and completions share. Pure functions that append to a
// buffer.
#pragma once

#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

#include "api/generation.h"
#include "fathom/plan.h"
#include "text/tokenizer.h"

namespace fathom::api {

// What is the same in every chunk of an answer.
struct Envelope {
  std::string id;      // "chatcmpl-..." or "cmpl-..."
  std::string object;  // "chat.completion.chunk", ...
  int64_t created_unix_s = 0;
  std::string model;
  std::string fingerprint;
};

// 24 random letters and digits after `prefix`.
std::string make_id(std::string_view prefix);

Envelope make_envelope(const ApiContext& context, std::string_view id_prefix,
                       std::string_view object);

// {"id":...,"object":...,"created":...,"model":...,"system_fingerprint":...  (the object stays
// open)
void append_envelope(std::string& out, const Envelope& envelope);

// "usage":{...} with cached and reasoning tokens, and DeepSeek's cache hit and miss counts.
void append_usage(std::string& out, const Usage& usage);

void append_token_ids(std::string& out, const std::vector<TokenId>& ids);

// Chat: one entry of logprobs.content: token, logprob, bytes, top_logprobs.
void append_chat_logprob(std::string& out, const text::Tokenizer& tokenizer, TokenId id,
                         const TokenLogprobs& value);

std::string_view finish_reason_name(FinishReason reason);

// "stop" headers of a streamed answer and of a whole one.
inline constexpr std::string_view kJsonContentType = "application/json; charset=utf-8";

}  // namespace fathom::api
