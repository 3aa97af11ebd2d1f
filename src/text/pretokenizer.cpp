// Runs the pre-tokenizer's steps, each on the pieces that the one before it left.
#include "text/pretokenizer.h"

#include "text/unicode_class.h"
#include "text/utf8.h"

namespace fathom::text {
namespace {

// The patterns if every step is a Split, else nothing.
std::vector<std::string> split_patterns(const std::vector<PreTokenizerStep>& steps) {
  std::vector<std::string> patterns;
  for (const PreTokenizerStep& step : steps) {
    if (step.kind != PreTokenizerStep::Kind::kSplit) return {};
    patterns.push_back(step.pattern);
  }
  return patterns;
}

void split_digits(std::string_view text, bool individual, std::vector<std::uint32_t>& ends) {
  const UnicodeTable& table = UnicodeTable::get();
  std::vector<std::uint32_t> out;
  out.reserve(ends.size());
  std::size_t at = 0;
  for (const std::uint32_t end : ends) {
    bool previous = false;
    for (std::size_t begin = at, length = 0; at < end; at += length) {
      const bool digit = table[decode_valid_utf8(text.data() + at, length)] & kNumber;
      if (at > begin && (digit != previous || (digit && individual))) {
        out.push_back(static_cast<std::uint32_t>(at));
      }
      previous = digit;
    }
    out.push_back(end);
  }
  ends = std::move(out);
}

}  // namespace

Result<PreTokenizer> PreTokenizer::build(const std::vector<PreTokenizerStep>& steps,
                                         Engine engine) {
  PreTokenizer pre;
  if (engine == Engine::kFastest) pre.scanner_ = find_scanner(split_patterns(steps));
  if (pre.scanner_ != nullptr) return pre;
  for (const PreTokenizerStep& step : steps) {
    CompiledStep& compiled = pre.steps_.emplace_back(CompiledStep{step.kind, {}});
    if (step.kind == PreTokenizerStep::Kind::kSplit) {
      FATHOM_ASSIGN(compiled.regex, RegexSplit::compile(step.pattern));
    }
  }
  return pre;
}

Status PreTokenizer::split(std::string_view text, std::vector<std::uint32_t>& ends) const {
  ends.clear();
  if (text.empty()) return Status::ok();
  if (scanner_ != nullptr) {
    scanner_(text, ends);
    return Status::ok();
  }
  ends.push_back(static_cast<std::uint32_t>(text.size()));
  for (const CompiledStep& step : steps_) {
    if (step.kind == PreTokenizerStep::Kind::kSplit) {
      FATHOM_RETURN_IF_ERROR(step.regex.split(text, ends));
    } else {
      split_digits(text, step.kind == PreTokenizerStep::Kind::kIndividualDigits, ends);
    }
  }
  return Status::ok();
}

}  // namespace fathom::text
