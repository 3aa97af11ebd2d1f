// Shared JSON pieces.
#include "api/response_json.h"

#include <openssl/rand.h>

#include "api/json_writer.h"
#include "fathom/check.h"
#include "text/utf8.h"

namespace fathom::api {
namespace {

void append_bytes(std::string& out, std::string_view bytes) {
  out += '[';
  for (size_t i = 0; i < bytes.size(); ++i) {
    if (i > 0) out += ',';
    append_json_int(out, static_cast<unsigned char>(bytes[i]));
  }
  out += ']';
}

void append_entry(std::string& out, const text::Tokenizer& tokenizer, TokenId id, float logprob) {
  const std::string_view bytes = tokenizer.token_bytes(id);
  std::string text;
  text::append_utf8_lossy(bytes, text);
  out += "{\"token\":";
  append_json_string(out, text);
  out += ",\"logprob\":";
  append_json_float(out, logprob);
  out += ",\"bytes\":";
  append_bytes(out, bytes);
}

}  // namespace

std::string make_id(std::string_view prefix) {
  constexpr std::string_view kAlphabet =
      "0123456789abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ-_";
  unsigned char random[24];
  FATHOM_CHECK(RAND_bytes(random, sizeof random) == 1, "no random bytes");
  std::string id(prefix);
  for (unsigned char byte : random) id += kAlphabet[byte & 63];
  return id;
}

Envelope make_envelope(const ApiContext& context, std::string_view id_prefix,
                       std::string_view object) {
  return {make_id(id_prefix), std::string(object), context.clock->unix_us() / 1'000'000,
          context.model.name, "fathom-" + context.version};
}

void append_envelope(std::string& out, const Envelope& envelope) {
  out += "{\"id\":";
  append_json_string(out, envelope.id);
  out += ",\"object\":";
  append_json_string(out, envelope.object);
  out += ",\"created\":";
  append_json_int(out, envelope.created_unix_s);
  out += ",\"model\":";
  append_json_string(out, envelope.model);
  out += ",\"system_fingerprint\":";
  append_json_string(out, envelope.fingerprint);
}

void append_usage(std::string& out, const Usage& usage) {
  const auto field = [&](std::string_view name, int64_t value) {
    out += name;
    append_json_int(out, value);
  };
  field("\"usage\":{\"prompt_tokens\":", usage.prompt_tokens);
  field(",\"completion_tokens\":", usage.completion_tokens);
  field(",\"total_tokens\":", usage.prompt_tokens + usage.completion_tokens);
  field(",\"prompt_tokens_details\":{\"cached_tokens\":", usage.cached_tokens);
  field("},\"completion_tokens_details\":{\"reasoning_tokens\":", usage.reasoning_tokens);
  field("},\"prompt_cache_hit_tokens\":", usage.cached_tokens);
  field(",\"prompt_cache_miss_tokens\":", usage.prompt_tokens - usage.cached_tokens);
  out += '}';
}

void append_token_ids(std::string& out, const std::vector<TokenId>& ids) {
  out += '[';
  for (size_t i = 0; i < ids.size(); ++i) {
    if (i > 0) out += ',';
    append_json_int(out, ids[i]);
  }
  out += ']';
}

void append_chat_logprob(std::string& out, const text::Tokenizer& tokenizer, TokenId id,
                         const TokenLogprobs& value) {
  append_entry(out, tokenizer, id, value.chosen);
  out += ",\"top_logprobs\":[";
  for (size_t i = 0; i < value.top.size(); ++i) {
    if (i > 0) out += ',';
    append_entry(out, tokenizer, value.top[i].first, value.top[i].second);
    out += '}';
  }
  out += "]}";
}

std::string_view finish_reason_name(FinishReason reason) {
  return reason == FinishReason::kLength ? "length" : "stop";
}

}  // namespace fathom::api
