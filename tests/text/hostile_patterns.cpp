// Long runs, alternating classes, beginnings of tokens, marks out of order, random letters.
#include "tests/text/hostile_patterns.h"

#include "text/utf8.h"

namespace fathom::text {
namespace {

std::string repeat(std::string_view unit, std::size_t bytes) {
  std::string text;
  text.reserve(bytes + unit.size());
  while (text.size() < bytes) text += unit;
  return text;
}

// Random draws from a range of characters, the same at every run.
std::string draw(char32_t first, std::uint32_t count, std::size_t bytes) {
  std::string text;
  std::uint64_t state = 88172645463325252ULL;
  while (text.size() < bytes) {
    state ^= state << 13;
    state ^= state >> 7;
    state ^= state << 17;
    append_code_point(first + static_cast<char32_t>(state % count), text);
  }
  return text;
}

// `count` copies of `first`, then of `second`, in runs that grow.
std::string growing_runs(std::string_view first, std::string_view second, std::size_t bytes) {
  std::string text;
  for (std::size_t run = 1; text.size() < bytes; ++run) {
    text += repeat(first, run * first.size());
    text += second;
  }
  return text;
}

template <char... unit>
std::string of(std::size_t bytes) {
  constexpr char kUnit[] = {unit..., 0};
  return repeat(std::string_view(kUnit, sizeof...(unit)), bytes);
}

}  // namespace

const std::vector<HostilePattern>& hostile_patterns() {
  static const std::vector<HostilePattern> patterns = {
      {"one letter", of<'a'>},
      {"one capital", of<'Z'>},
      {"spaces", of<' '>},
      {"tabs", of<'\t'>},
      {"newlines", of<'\n'>},
      {"carriage returns", of<'\r'>},
      {"line ends of Windows", of<'\r', '\n'>},
      {"blank lines with spaces", of<' ', '\n'>},
      {"spaces before each newline", [](std::size_t n) { return growing_runs(" ", "\n", n); }},
      {"spaces before each letter", [](std::size_t n) { return growing_runs(" ", "a", n); }},
      {"newlines before each letter", [](std::size_t n) { return growing_runs("\n", "a", n); }},
      {"one digit", of<'7'>},
      {"zeros", of<'0'>},
      {"one punctuation mark", of<'!'>},
      {"equals signs", of<'='>},
      {"underscores", of<'_'>},
      {"apostrophes", of<'\''>},
      {"contractions", of<'\'', 's'>},
      {"long s contractions", [](std::size_t n) { return repeat("'ſ", n); }},
      {"letter and digit", of<'a', '1'>},
      {"letter and space", of<'a', ' '>},
      {"letter and mark of punctuation", of<'a', '.'>},
      {"space and punctuation", of<' ', '.'>},
      {"two letters", of<'a', 'b'>},
      {"three letters", of<'a', 'b', 'c'>},
      {"zero bytes", of<'\0'>},
      {"control characters before a letter", of<'\1', '\1', 'a'>},
      {"one Chinese character", [](std::size_t n) { return repeat("中", n); }},
      {"Chinese and Latin", [](std::size_t n) { return repeat("中a", n); }},
      {"kana dots", [](std::size_t n) { return repeat("・ア", n); }},
      {"emoji", [](std::size_t n) { return repeat("🙂", n); }},
      {"joined emoji", [](std::size_t n) { return repeat("👩\u200d", n); }},
      {"combining marks", [](std::size_t n) { return "e" + repeat("\u0301", n); }},
      {"combining marks out of order",
       [](std::size_t n) { return "e" + repeat("\u0301\u0323", n); }},
      {"decomposed letters", [](std::size_t n) { return repeat("a\u0302\u0323", n); }},
      {"beginnings of control tokens", [](std::size_t n) { return repeat("<｜", n); }},
      {"almost a control token", [](std::size_t n) { return repeat("<｜place▁holder▁no▁", n); }},
      {"control tokens", [](std::size_t n) { return repeat("<｜User｜>", n); }},
      {"random letters", [](std::size_t n) { return draw('a', 26, n); }},
      {"random Chinese", [](std::size_t n) { return draw(0x4E00, 0x51A6, n); }},
  };
  return patterns;
}

}  // namespace fathom::text
