// Which patterns have a hand-written scanner.
#include "text/scanners.h"

#include <algorithm>

#include "text/scan_cursor.h"

namespace fathom::text {
namespace {

// Patterns as tokenizer.json spells them, raw CR and LF written \r and \n.
const char* const kDeepSeekNumbers = R"(\p{N}{1,3})";
const char* const kDeepSeekCjk = "[一-龥぀-ゟ゠-ヿ]+";
const char* const kDeepSeekText =
    R"re([!"#$%&'()*+,\-./:;<=>?@\[\\\]^_`{|}~][A-Za-z]+|[^\r\n\p{L}\p{P}\p{S}]?[\p{L}\p{M}]+)re"
    R"re(| ?[\p{P}\p{S}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+)re";
const char* const kQwen2 = R"re((?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N})re"
                           R"re(| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+)re";
const char* const kLlama3 =
    R"re((?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3})re"
    R"re(| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+)re";

std::string spell_newlines(const std::string& pattern) {
  std::string spelled;
  for (const char c : pattern) {
    if (is_newline(static_cast<unsigned char>(c))) {
      spelled += c == '\r' ? "\\r" : "\\n";
    } else {
      spelled += c;
    }
  }
  return spelled;
}

}  // namespace

Scanner find_scanner(const std::vector<std::string>& patterns) {
  std::vector<std::string> spelled(patterns.size());
  std::transform(patterns.begin(), patterns.end(), spelled.begin(), spell_newlines);
  if (spelled == std::vector<std::string>{kDeepSeekNumbers, kDeepSeekCjk, kDeepSeekText}) {
    return scan_deepseek_v3;
  }
  if (spelled == std::vector<std::string>{kQwen2}) return scan_qwen2;
  if (spelled == std::vector<std::string>{kLlama3}) return scan_llama3;
  return nullptr;
}

}  // namespace fathom::text
