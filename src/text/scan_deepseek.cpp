// DeepSeek-V3's three Split patterns (models' tokenizer.json) in one pass. The first two cut the
// text at numbers and at the borders of Chinese or Japanese runs; each part between two cuts is
// scanned by the third pattern, whose look-ahead sees a cut as the end of the text: hence `inside`.
#include "text/scan_cursor.h"
#include "text/scanners.h"

namespace fathom::text {
namespace {

bool is_cjk(char32_t code) {
  return (code >= 0x4E00 && code <= 0x9FA5) || (code >= 0x3040 && code <= 0x30FF);
}

class DeepSeekScanner {
 public:
  DeepSeekScanner(std::string_view text, std::vector<std::uint32_t>& ends)
      : cursor_(text), ends_(ends) {}

  void run() {
    for (std::size_t at = 0; at < cursor_.size();) {
      at = piece_end(at);
      ends_.push_back(static_cast<std::uint32_t>(at));
    }
  }

 private:
  using Char = ScanCursor::Char;

  // The character at `i` as the third pattern sees it: length 0 where its part of the text ends.
  Char inside(std::size_t i) const {
    const Char c = cursor_.at(i);
    if ((c.bits & kNumber) || is_cjk(c.code) != in_cjk_) return {0, 0, 0};
    return c;
  }

  std::size_t piece_end(std::size_t at) {
    const Char c = cursor_.at(at);
    if (c.bits & kNumber) return number_end(at);
    in_cjk_ = is_cjk(c.code);
    if (c.bits & (kLetter | kMark)) return word_end(at);
    if (c.bits & (kPunct | kSymbol)) return punctuation_end(at, c);
    if (c.bits & kSpace) return space_end(at, c);
    return other_end(at, c);
  }

  std::size_t number_end(std::size_t at) const {
    for (int digits = 0; digits < 3; ++digits) {
      const Char c = cursor_.at(at);
      if (!(c.bits & kNumber)) break;
      at += c.length;
    }
    return at;
  }

  // [\p{L}\p{M}]+
  std::size_t word_end(std::size_t at) const {
    for (Char c = inside(at); c.bits & (kLetter | kMark); c = inside(at)) at += c.length;
    return at;
  }

  // [!"#...~][A-Za-z]+ or [\p{P}\p{S}]+[\r\n]*
  std::size_t punctuation_end(std::size_t at, Char c) const {
    const std::size_t next = at + c.length;
    if (c.code < 0x80 && is_ascii_letter(inside(next).code)) {
      at = next;
      while (is_ascii_letter(inside(at).code)) ++at;
      return at;
    }
    return symbols_end(at);
  }

  std::size_t symbols_end(std::size_t at) const {
    for (Char c = inside(at); c.bits & (kPunct | kSymbol); c = inside(at)) at += c.length;
    while (is_newline(inside(at).code)) ++at;
    return at;
  }

  std::size_t space_end(std::size_t at, Char c) const {
    const Char next = inside(at + c.length);
    if (!is_newline(c.code) && (next.bits & (kLetter | kMark))) return word_end(at + c.length);
    if (c.code == ' ' && (next.bits & (kPunct | kSymbol))) return symbols_end(at + 1);
    std::size_t end = at, last = at, newline_end = at;
    for (Char s = c; s.bits & kSpace; s = inside(end)) {
      last = end;
      end += s.length;
      if (is_newline(s.code)) newline_end = end;
    }
    if (newline_end > at) return newline_end;               // \s*[\r\n]+
    if (inside(end).length == 0 || last == at) return end;  // \s+(?!\S) at an end, or a lone \s+
    return last;  // \s+(?!\S) leaves the last one to the word
  }

  // A character of none of the classes begins a word, or else is a gap with others of its kind.
  std::size_t other_end(std::size_t at, Char c) const {
    constexpr std::uint8_t kClasses = kLetter | kMark | kPunct | kSymbol | kSpace;
    if (inside(at + c.length).bits & (kLetter | kMark)) return word_end(at + c.length);
    for (at += c.length; at < cursor_.size(); at += c.length) {
      c = inside(at);
      if (c.length == 0 || (c.bits & kClasses)) break;
      if (inside(at + c.length).bits & (kLetter | kMark)) break;
    }
    return at;
  }

  ScanCursor cursor_;
  bool in_cjk_ = false;  // whether the part being scanned is a match of the second pattern
  std::vector<std::uint32_t>& ends_;
};

}  // namespace

void scan_deepseek_v3(std::string_view text, std::vector<std::uint32_t>& ends) {
  DeepSeekScanner(text, ends).run();
}

}  // namespace fathom::text
