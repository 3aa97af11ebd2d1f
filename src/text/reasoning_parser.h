// Splits the text of one answer at <think> and </think> into reasoning and content, as it comes.
// Owner: the stream of one choice; one thread at a time. Source: the models' own templates and
// cards (DeepSeek R1, V3.1).
#pragma once

#include <string>
#include <string_view>

namespace fathom::text {

struct ReasoningDelta {
  std::string reasoning;
  std::string content;
};

// Where an answer begins, which its prompt decides.
enum class OutputStart {
  kContent,    // the model does not reason: all of the answer is content
  kReasoning,  // the prompt ended inside <think>
  kDetect,     // the model opens <think> itself, or answers at once
};

// Reasoning lasts to the first </think>; without one all of it is reasoning. The tags, one newline
// after a <think> of the answer's own and the newlines after </think> belong to neither. Text that
// may be a part of a tag is held back.
class ReasoningParser {
 public:
  explicit ReasoningParser(OutputStart start);

  ReasoningDelta push(std::string_view delta);
  ReasoningDelta finish();  // what was held back; the end of the answer

  // Whether the text that comes next belongs to reasoning, as far as can be known.
  bool in_reasoning() const {
    return state_ == State::kReasoning || state_ == State::kReasoningStart;
  }

 private:
  enum class State {
    kDetect,          // the answer so far is a beginning of <think>
    kReasoningStart,  // after the answer's own <think>: a newline may follow
    kReasoning,
    kContentStart,  // after </think>: newlines are skipped
    kContent,
  };

  bool step(ReasoningDelta& out);
  bool detect();
  void take_reasoning(ReasoningDelta& out);

  State state_;
  std::string held_;  // not given out yet
};

}  // namespace fathom::text
