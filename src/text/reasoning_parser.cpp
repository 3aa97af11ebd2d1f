// A small state machine over the held text.
#include "text/reasoning_parser.h"

#include <algorithm>

namespace fathom::text {
namespace {

constexpr std::string_view kOpen = "<think>";
constexpr std::string_view kClose = "</think>";

// Length of the longest end of `text` that is a proper beginning of `tag`.
std::size_t partial_tag(std::string_view text, std::string_view tag) {
  for (std::size_t n = std::min(text.size(), tag.size() - 1); n > 0; --n) {
    if (text.ends_with(tag.substr(0, n))) return n;
  }
  return 0;
}

}  // namespace

ReasoningParser::ReasoningParser(OutputStart start)
    : state_(start == OutputStart::kContent     ? State::kContent
             : start == OutputStart::kReasoning ? State::kReasoning
                                                : State::kDetect) {}

ReasoningDelta ReasoningParser::push(std::string_view delta) {
  ReasoningDelta out;
  held_ += delta;
  while (!held_.empty() && step(out)) {
  }
  return out;
}

// Takes what it can from the front of held_; false when more text is needed to go on.
bool ReasoningParser::step(ReasoningDelta& out) {
  switch (state_) {
    case State::kDetect: return detect();
    case State::kReasoningStart:
      if (held_.front() == '\n') held_.erase(0, 1);
      state_ = State::kReasoning;
      return true;
    case State::kReasoning: take_reasoning(out); return state_ == State::kContentStart;
    case State::kContentStart:
      held_.erase(0, std::min(held_.find_first_not_of('\n'), held_.size()));
      if (held_.empty()) return false;
      state_ = State::kContent;
      return true;
    case State::kContent:
      out.content += held_;
      held_.clear();
      return false;
  }
  return false;
}

bool ReasoningParser::detect() {
  if (held_.starts_with(kOpen)) {
    held_.erase(0, kOpen.size());
    state_ = State::kReasoningStart;
    return true;
  }
  if (kOpen.starts_with(held_)) return false;
  state_ = State::kContent;
  return true;
}

void ReasoningParser::take_reasoning(ReasoningDelta& out) {
  const std::size_t close = held_.find(kClose);
  if (close != std::string::npos) {
    out.reasoning += held_.substr(0, close);
    held_.erase(0, close + kClose.size());
    state_ = State::kContentStart;
    return;
  }
  const std::size_t safe = held_.size() - partial_tag(held_, kClose);
  out.reasoning += held_.substr(0, safe);
  held_.erase(0, safe);
}

ReasoningDelta ReasoningParser::finish() {
  ReasoningDelta out;
  (in_reasoning() ? out.reasoning : out.content) = held_;
  held_.clear();
  return out;
}

}  // namespace fathom::text
