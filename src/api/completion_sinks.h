// The two forms of a completion's answer over HTTP: one JSON document, or server-sent events.
#pragma once

#include <cstdint>
#include <memory>
#include <string>
#include <vector>

#include "api/exchange.h"
#include "api/generation.h"

namespace fathom::api {

// What of the call shapes the answer. Choice i answers prompt i / choices_per_prompt.
struct CompletionAnswerOptions {
  int32_t choices_per_prompt = 1;
  bool logprobs = false;
  bool echo = false;
  bool include_usage = false;
  bool return_token_ids = false;
  std::vector<std::vector<TokenId>> prompts;
};

// Tokens, logprobs and text offsets of a completion choice in the legacy form, as they grow.
class LegacyLogprobs {
 public:
  explicit LegacyLogprobs(const text::Tokenizer& tokenizer) : tokenizer_(&tokenizer) {}

  // A token without a logprob: the first of an echoed prompt.
  void add_bare(TokenId id);
  void add(TokenId id, const TokenLogprobs& value);
  // {"tokens":[...],"token_logprobs":[...],"top_logprobs":[...],"text_offset":[...]} of what was
  // added since the last take. Offsets count characters from the start of the choice's text.
  std::string take();

 private:
  void add_token(TokenId id);

  const text::Tokenizer* tokenizer_;
  std::string tokens_;
  std::string values_;
  std::string top_;
  std::string offsets_;
  int64_t offset_ = 0;
};

// An echoed prompt's logprobs: its first token bare, then `values`.
void add_prompt_logprobs(LegacyLogprobs& out, const std::vector<TokenId>& prompt,
                         const std::vector<TokenLogprobs>& values);

std::unique_ptr<GenerationSink> make_completion_sink(const ApiContext& context,
                                                     std::unique_ptr<HttpExchange> exchange,
                                                     CompletionAnswerOptions options);
std::unique_ptr<GenerationSink> make_completion_stream_sink(const ApiContext& context,
                                                            std::unique_ptr<HttpExchange> exchange,
                                                            CompletionAnswerOptions options);

}  // namespace fathom::api
