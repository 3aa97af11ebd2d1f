// PCRE2 with JIT, UTF and UCP, under bounds on backtracking and memory.
#include "text/regex_split.h"

#define PCRE2_CODE_UNIT_WIDTH 8
#include <pcre2.h>

#include <array>

#include "text/utf8.h"

namespace fathom::text {
namespace {

constexpr std::uint32_t kMatchLimit = 10'000'000;   // backtracking steps of one match
constexpr std::uint32_t kHeapLimitKib = 64 * 1024;  // memory of one match without JIT
constexpr std::size_t kJitStackMin = 32 * 1024, kJitStackMax = 8 * 1024 * 1024;
constexpr std::size_t kMaxPatternBytes = 64 * 1024;

std::string error_text(int code) {
  std::array<PCRE2_UCHAR, 256> buffer{};
  pcre2_get_error_message(code, buffer.data(), buffer.size());
  return reinterpret_cast<const char*>(buffer.data());
}

using CodePtr = std::unique_ptr<pcre2_code, decltype(&pcre2_code_free)>;
using CompileContextPtr =
    std::unique_ptr<pcre2_compile_context, decltype(&pcre2_compile_context_free)>;
using MatchContextPtr = std::unique_ptr<pcre2_match_context, decltype(&pcre2_match_context_free)>;
using MatchDataPtr = std::unique_ptr<pcre2_match_data, decltype(&pcre2_match_data_free)>;
using JitStackPtr = std::unique_ptr<pcre2_jit_stack, decltype(&pcre2_jit_stack_free)>;

// The memory of one split call.
struct Matcher {
  explicit Matcher(const pcre2_code* code)
      : code(code),
        data(pcre2_match_data_create(1, nullptr), &pcre2_match_data_free),
        context(pcre2_match_context_create(nullptr), &pcre2_match_context_free),
        stack(pcre2_jit_stack_create(kJitStackMin, kJitStackMax, nullptr), &pcre2_jit_stack_free) {
    FATHOM_CHECK(data && context && stack, "out of memory");
    pcre2_set_match_limit(context.get(), kMatchLimit);
    pcre2_set_heap_limit(context.get(), kHeapLimitKib);
    pcre2_jit_stack_assign(context.get(), nullptr, stack.get());
  }

  // PCRE2's result for a search in `text` from `start`; the match is in `begin` and `end`.
  int search(std::string_view text, std::size_t start) {
    const int rc = pcre2_match(code, reinterpret_cast<PCRE2_SPTR>(text.data()), text.size(), start,
                               PCRE2_NO_UTF_CHECK, data.get(), context.get());
    if (rc >= 0) {
      const PCRE2_SIZE* borders = pcre2_get_ovector_pointer(data.get());
      begin = borders[0];
      end = borders[1];
    }
    return rc;
  }

  const pcre2_code* code;
  MatchDataPtr data;
  MatchContextPtr context;
  JitStackPtr stack;
  std::size_t begin = 0, end = 0;
};

// Appends the ends of the pieces that matches cut `text` into, each plus `offset`.
Status split_piece(std::string_view text, std::uint32_t offset, Matcher& matcher,
                   std::vector<std::uint32_t>& out) {
  std::size_t cut = 0, start = 0;
  const auto cut_at = [&](std::size_t where) {
    if (where > cut) out.push_back(offset + static_cast<std::uint32_t>(where));
    cut = std::max(cut, where);
  };
  while (start < text.size()) {
    const int rc = matcher.search(text, start);
    if (rc == PCRE2_ERROR_NOMATCH) break;
    if (rc < 0) return resource_exhausted("the tokenizer's pattern gave up: " + error_text(rc));
    cut_at(matcher.begin);
    cut_at(matcher.end);
    start = matcher.end;
    if (matcher.end == matcher.begin &&
        start < text.size()) {  // an empty match: step over a character
      std::size_t length = 0;
      (void)decode_valid_utf8(text.data() + start, length);
      start += length;
    }
  }
  cut_at(text.size());
  return Status::ok();
}

}  // namespace

struct RegexSplit::Code {
  CodePtr code{nullptr, &pcre2_code_free};
};

Result<RegexSplit> RegexSplit::compile(const std::string& pattern) {
  if (pattern.size() > kMaxPatternBytes) return invalid_argument("the pattern is over 64 KiB");
  FATHOM_ASSIGN(const std::string translated, translate_pattern(pattern));
  CompileContextPtr context(pcre2_compile_context_create(nullptr), &pcre2_compile_context_free);
  FATHOM_CHECK(context != nullptr, "out of memory");
  pcre2_set_newline(context.get(), PCRE2_NEWLINE_LF);
  int error = 0;
  PCRE2_SIZE error_at = 0;
  // In Ruby's syntax ^ and $ match at every line.
  constexpr std::uint32_t kOptions =
      PCRE2_UTF | PCRE2_UCP | PCRE2_MULTILINE | PCRE2_NEVER_BACKSLASH_C;
  CodePtr code(pcre2_compile(reinterpret_cast<PCRE2_SPTR>(translated.data()), translated.size(),
                             kOptions, &error, &error_at, context.get()),
               &pcre2_code_free);
  if (!code) {
    return invalid_argument("the pattern \"" + pattern + "\" is not valid: " + error_text(error));
  }
  pcre2_jit_compile(code.get(), PCRE2_JIT_COMPLETE);  // without JIT it matches the same, slower
  auto holder = std::make_shared<Code>();
  holder->code = std::move(code);
  RegexSplit split;
  split.code_ = std::move(holder);
  return split;
}

Status RegexSplit::split(std::string_view text, std::vector<std::uint32_t>& ends) const {
  Matcher matcher(code_->code.get());
  std::vector<std::uint32_t> out;
  out.reserve(ends.size());
  std::uint32_t begin = 0;
  for (const std::uint32_t end : ends) {
    FATHOM_RETURN_IF_ERROR(split_piece(text.substr(begin, end - begin), begin, matcher, out));
    begin = end;
  }
  ends = std::move(out);
  return Status::ok();
}

}  // namespace fathom::text
