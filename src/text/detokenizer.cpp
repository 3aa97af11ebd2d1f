// Holds back an incomplete character at the end, and nothing else.
#include "text/detokenizer.h"

#include "text/utf8.h"

namespace fathom::text {
namespace {

// Where an incomplete character at the end of `bytes` begins, or its size.
std::size_t complete_length(std::string_view bytes) {
  const std::size_t look = bytes.size() < 3 ? bytes.size() : 3;
  for (std::size_t back = 1; back <= look; ++back) {
    const std::size_t at = bytes.size() - back;
    if ((static_cast<unsigned char>(bytes[at]) & 0xC0) == 0x80) continue;
    const bool incomplete = next_utf8_unit(bytes.substr(at)).kind == Utf8Unit::Kind::kIncomplete;
    return incomplete ? at : bytes.size();
  }
  return bytes.size();
}

}  // namespace

std::string Detokenizer::push(TokenId id) {
  std::string text;
  if (skip_special_ && tokenizer_->is_special(id)) return text;
  held_ += tokenizer_->token_bytes(id);
  const std::size_t complete = complete_length(held_);
  append_utf8_lossy(std::string_view(held_).substr(0, complete), text);
  held_.erase(0, complete);
  return text;
}

std::string Detokenizer::finish() {
  std::string text;
  append_utf8_lossy(held_, text);
  held_.clear();
  return text;
}

}  // namespace fathom::text
