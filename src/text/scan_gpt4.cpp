// The one Split pattern of Qwen 2/3 and Llama 3, which differ in how many digits a piece may hold:
// (?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,n}|
// ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+| \s+(?!\S)|\s+. It covers every character, so there are no
// gaps.
#include "text/scan_cursor.h"
#include "text/scanners.h"

namespace fathom::text {
namespace {

constexpr char32_t kLongS = 0x17F;  // the case fold of "s" that is not ASCII

class Gpt4Scanner {
 public:
  Gpt4Scanner(std::string_view text, int max_digits, std::vector<std::uint32_t>& ends)
      : cursor_(text), max_digits_(max_digits), ends_(ends) {}

  void run() {
    for (std::size_t at = 0; at < cursor_.size();) {
      at = piece_end(at);
      ends_.push_back(static_cast<std::uint32_t>(at));
    }
  }

 private:
  using Char = ScanCursor::Char;

  static bool is_other(Char c) { return c.length != 0 && !(c.bits & (kSpace | kLetter | kNumber)); }

  std::size_t piece_end(std::size_t at) const {
    const Char c = cursor_.at(at);
    if (c.bits & kLetter) return word_end(at);
    if (c.bits & kNumber) return number_end(at);
    if (c.code == '\'') {
      if (const std::size_t end = contraction_end(at); end != at) return end;
    }
    const Char next = cursor_.at(at + c.length);
    if (!is_newline(c.code) && (next.bits & kLetter)) return word_end(at + c.length);
    if (c.bits & kSpace) return space_end(at, c, next);
    return others_end(at);
  }

  // The end of a contraction that begins with the apostrophe at `at`, or `at`.
  std::size_t contraction_end(std::size_t at) const {
    const Char a = cursor_.at(at + 1);
    const char32_t first = lower(a.code);
    if (a.code == kLongS || first == 's' || first == 't' || first == 'm' || first == 'd') {
      return at + 1 + a.length;
    }
    const char32_t second = lower(cursor_.at(at + 2).code);
    const bool two = (first == 'r' && second == 'e') || (first == 'v' && second == 'e') ||
                     (first == 'l' && second == 'l');
    return two ? at + 3 : at;
  }

  static char32_t lower(char32_t code) { return is_ascii_letter(code) ? code | 0x20 : code; }

  std::size_t word_end(std::size_t at) const {
    for (Char c = cursor_.at(at); c.bits & kLetter; c = cursor_.at(at)) at += c.length;
    return at;
  }

  std::size_t number_end(std::size_t at) const {
    for (int digits = 0; digits < max_digits_; ++digits) {
      const Char c = cursor_.at(at);
      if (!(c.bits & kNumber)) break;
      at += c.length;
    }
    return at;
  }

  // [^\s\p{L}\p{N}]+[\r\n]*
  std::size_t others_end(std::size_t at) const {
    for (Char c = cursor_.at(at); is_other(c); c = cursor_.at(at)) at += c.length;
    while (is_newline(cursor_.at(at).code)) ++at;
    return at;
  }

  std::size_t space_end(std::size_t at, Char c, Char next) const {
    if (c.code == ' ' && is_other(next)) return others_end(at + 1);
    std::size_t end = at, last = at, newline_end = at;
    for (Char s = c; s.bits & kSpace; s = cursor_.at(end)) {
      last = end;
      end += s.length;
      if (is_newline(s.code)) newline_end = end;
    }
    if (newline_end > at) return newline_end;             // \s*[\r\n]+
    if (end == cursor_.size() || last == at) return end;  // \s+(?!\S) at the end, or a lone \s+
    return last;  // \s+(?!\S) leaves the last one to what follows
  }

  ScanCursor cursor_;
  int max_digits_;
  std::vector<std::uint32_t>& ends_;
};

}  // namespace

void scan_qwen2(std::string_view text, std::vector<std::uint32_t>& ends) {
  Gpt4Scanner(text, 1, ends).run();
}

void scan_llama3(std::string_view text, std::vector<std::uint32_t>& ends) {
  Gpt4Scanner(text, 3, ends).run();
}

}  // namespace fathom::text
