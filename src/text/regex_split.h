// One Split step of a pre-tokenizer on PCRE2: the general path for patterns without a scanner, and
// the scanners' oracle. Immutable after compile; any thread.
#pragma once

#include <cstdint>
#include <memory>
#include <string>
#include <string_view>
#include <vector>

#include "fathom/status.h"

namespace fathom::text {

class RegexSplit {
 public:
  // `pattern` in Oniguruma's syntax, as tokenizer.json holds it, translated by translate_pattern.
  // INVALID_ARGUMENT: PCRE2 does not accept it. UNIMPLEMENTED: it uses what the two engines read
  // differently.
  static Result<RegexSplit> compile(const std::string& pattern);

  // Cuts every piece of `text` (valid UTF-8), given by its end offset in `ends`, at the borders of
  // the matches in it; a piece is matched as if it were the whole text. RESOURCE_EXHAUSTED: a match
  // ran past its limits.
  Status split(std::string_view text, std::vector<std::uint32_t>& ends) const;

 private:
  struct Code;
  std::shared_ptr<const Code> code_;
};

// Rewrites a pattern from Oniguruma (Ruby syntax, Unicode 16) to PCRE2 10.42 (Unicode 14): \s is
// spelled out, and \p{L}, \p{M}, \p{N}, \p{P}, \p{S} get the characters that came after Unicode 14.
Result<std::string> translate_pattern(std::string_view pattern);

}  // namespace fathom::text
