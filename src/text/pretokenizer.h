// Cuts text into the pieces that BPE encodes one by one: the steps of tokenizer.json's
// pre_tokenizer. Immutable after build; any thread.
#pragma once

#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

#include "fathom/status.h"
#include "text/regex_split.h"
#include "text/scanners.h"

namespace fathom::text {

struct PreTokenizerStep {
  enum class Kind {
    kSplit,  // by `pattern`, behavior Isolated: matches and what lies between them become pieces
    kDigitRuns,         // each run of digits becomes a piece
    kIndividualDigits,  // each digit does
  };
  Kind kind;
  std::string pattern;  // of kSplit
};

class PreTokenizer {
 public:
  enum class Engine {
    kFastest,  // a scanner where one is known, else PCRE2
    kRegex,    // PCRE2 always: the oracle in the tests
  };

  static Result<PreTokenizer> build(const std::vector<PreTokenizerStep>& steps,
                                    Engine engine = Engine::kFastest);

  // Replaces `ends` by the end offsets of the pieces of `text`, which is valid UTF-8 below 4 GiB.
  Status split(std::string_view text, std::vector<std::uint32_t>& ends) const;

  bool uses_scanner() const { return scanner_ != nullptr; }

 private:
  Scanner scanner_ = nullptr;
  struct CompiledStep {
    PreTokenizerStep::Kind kind;
    RegexSplit regex;  // of kSplit
  };
  std::vector<CompiledStep> steps_;  // when there is no scanner
};

}  // namespace fathom::text
