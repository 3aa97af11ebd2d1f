// Unicode normalization form C as Hugging Face's NFC normalizer computes it. Pure; any thread.
#pragma once

#include <string>
#include <string_view>
#include <vector>

#include "text/trust.h"

namespace fathom::text {

// A text in NFC, and where its bytes came from.
struct NormalizedText {
  std::string text;
  TrustedRanges trusted;  // a rewritten block is trusted only if all of its source was
};

// True when `text` (valid UTF-8) may differ from its NFC; false for nearly all text, at a scan's
// cost.
bool may_need_nfc(std::string_view text);

// Time linear in the text but for sorting runs of combining marks, O(n log n).
NormalizedText normalize_nfc(std::string_view text, const TrustedRanges& trusted);

}  // namespace fathom::text
