// The logprobs object of /v1/completions.
#include "api/completion_sinks.h"
#include "api/json_writer.h"
#include "text/utf8.h"

namespace fathom::api {
namespace {

void separate(std::string& list) {
  if (!list.empty()) list += ',';
}

std::string text_of(const text::Tokenizer& tokenizer, TokenId id) {
  std::string text;
  text::append_utf8_lossy(tokenizer.token_bytes(id), text);
  return text;
}

int64_t characters(std::string_view utf8) {
  int64_t n = 0;
  for (char c : utf8) n += (static_cast<unsigned char>(c) & 0xC0) != 0x80;
  return n;
}

}  // namespace

void LegacyLogprobs::add_token(TokenId id) {
  const std::string text = text_of(*tokenizer_, id);
  separate(tokens_);
  append_json_string(tokens_, text);
  separate(offsets_);
  append_json_int(offsets_, offset_);
  offset_ += characters(text);
}

void LegacyLogprobs::add_bare(TokenId id) {
  add_token(id);
  separate(values_);
  values_ += "null";
  separate(top_);
  top_ += "null";
}

void LegacyLogprobs::add(TokenId id, const TokenLogprobs& value) {
  add_token(id);
  separate(values_);
  append_json_float(values_, value.chosen);
  separate(top_);
  top_ += '{';
  for (size_t i = 0; i < value.top.size(); ++i) {
    if (i > 0) top_ += ',';
    append_json_string(top_, text_of(*tokenizer_, value.top[i].first));
    top_ += ':';
    append_json_float(top_, value.top[i].second);
  }
  top_ += '}';
}

std::string LegacyLogprobs::take() {
  std::string out = "{\"tokens\":[" + tokens_ + "],\"token_logprobs\":[" + values_ +
                    "],\"top_logprobs\":[" + top_ + "],\"text_offset\":[" + offsets_ + "]}";
  tokens_.clear();
  values_.clear();
  top_.clear();
  offsets_.clear();
  return out;
}

void add_prompt_logprobs(LegacyLogprobs& out, const std::vector<TokenId>& prompt,
                         const std::vector<TokenLogprobs>& values) {
  if (prompt.empty()) return;
  out.add_bare(prompt[0]);
  for (size_t i = 1; i < prompt.size() && i - 1 < values.size(); ++i)
    out.add(prompt[i], values[i - 1]);
}

}  // namespace fathom::api
