// Hand-written scanners for the pre-tokenizers of the model families that Fathom serves. Each does
// in one linear pass what the patterns of models' tokenizer.json say; regex_split.h is the oracle
// in the tests. Pure; any thread.
#pragma once

#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

namespace fathom::text {

// Appends the end offset of every piece of `text` (valid UTF-8, below 4 GiB); pieces are adjacent.
using Scanner = void (*)(std::string_view text, std::vector<std::uint32_t>& ends);

// DeepSeek-V3 and its successors: \p{N}{1,3}, then [一-龥぀-ゟ゠-ヿ]+, then words, punctuation and
// spaces.
void scan_deepseek_v3(std::string_view text, std::vector<std::uint32_t>& ends);

// Qwen 2 and 3: contractions, words, single digits, punctuation, spaces.
void scan_qwen2(std::string_view text, std::vector<std::uint32_t>& ends);

// Llama 3: as Qwen 2 with up to three digits in a piece.
void scan_llama3(std::string_view text, std::vector<std::uint32_t>& ends);

// The scanner for a sequence of Split patterns in the order of tokenizer.json, or null if there is
// none.
Scanner find_scanner(const std::vector<std::string>& patterns);

}  // namespace fathom::text
