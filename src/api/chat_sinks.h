// The two forms of a chat answer over HTTP: one JSON document, or server-sent events.
#pragma once

#include <memory>

#include "api/exchange.h"
#include "api/generation.h"

namespace fathom::api {

// What of the call shapes the answer.
struct ChatAnswerOptions {
  int32_t choices = 1;
  bool logprobs = false;
  bool include_usage = false;
  bool return_token_ids = false;
  std::vector<TokenId> prompt_token_ids;  // filled when return_token_ids
};

std::unique_ptr<GenerationSink> make_chat_sink(const ApiContext& context,
                                               std::unique_ptr<HttpExchange> exchange,
                                               ChatAnswerOptions options);
std::unique_ptr<GenerationSink> make_chat_stream_sink(const ApiContext& context,
                                                      std::unique_ptr<HttpExchange> exchange,
                                                      ChatAnswerOptions options);

}  // namespace fathom::api
