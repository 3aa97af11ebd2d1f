// Turns the tokens of one answer into text as they come. Owner: the stream of one choice; one
// thread at a time.
#pragma once

#include <memory>
#include <string>

#include "text/tokenizer.h"

namespace fathom::text {

// Never emits a broken character: bytes that may become one are held back, at most three. The
// concatenation of what push and finish return equals Tokenizer::decode of all tokens.
class Detokenizer {
 public:
  explicit Detokenizer(std::shared_ptr<const Tokenizer> tokenizer, bool skip_special = true)
      : tokenizer_(std::move(tokenizer)), skip_special_(skip_special) {}

  // The text that `id` completed; may be empty.
  std::string push(TokenId id);

  // The held bytes as U+FFFD; the end of the answer.
  std::string finish();

 private:
  std::shared_ptr<const Tokenizer> tokenizer_;
  bool skip_special_;
  std::string held_;  // a beginning of a character
};

}  // namespace fathom::text
