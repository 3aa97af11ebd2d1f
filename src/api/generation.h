// Generation: one client request's choices from admission to the last token, whatever the wire. It
// turns engine events into text (detokenizer, stop strings, reasoning split) and hands them to a
// sink. Runs on the work pool, one thread at a time; cancel() from any thread.
#pragma once

#include <atomic>
#include <cstdint>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "api/served_model.h"
#include "api/work_pool.h"
#include "fathom/request.h"
#include "text/detokenizer.h"
#include "text/reasoning_parser.h"
#include "text/stop_matcher.h"

namespace fathom::api {

// A prompt and how its answer is read.
struct GenerationSpec {
  std::string request_id;
  std::vector<std::vector<TokenId>> prompts;  // each makes `choices_per_prompt` choices
  int32_t choices_per_prompt = 1;
  SamplingParams sampling;
  bool seeded = false;
  std::vector<std::string> stop;
  bool include_stop = false;
  bool skip_special_tokens = true;
  std::optional<text::OutputStart> reasoning;  // empty: all text is content
  int32_t priority = 0;
  uint64_t tenant = 0;
  std::optional<int64_t> deadline_us;
  bool prompt_only = false;  // max_tokens 0: the one token that the engine makes is dropped
};

// New output of one choice. Text may be empty while a stop string or a character is incomplete;
// tokens and their logprobs wait for the text that they belong to, or for the choice's end.
struct ChoiceDelta {
  int32_t choice = 0;
  std::string reasoning;
  std::string content;
  std::vector<TokenId> tokens;
  std::vector<TokenLogprobs> logprobs;

  // Keeps the memory, for the next token.
  void clear() {
    reasoning.clear();
    content.clear();
    tokens.clear();
    logprobs.clear();
  }
};

struct ChoiceEnd {
  int32_t choice = 0;
  FinishReason reason = FinishReason::kStop;
  std::optional<std::string> matched_stop;
};

struct Usage {
  int64_t prompt_tokens = 0;
  int64_t completion_tokens = 0;
  int64_t cached_tokens = 0;
  int64_t reasoning_tokens = 0;
};

// Where a generation's output goes. Called by one thread at a time, in this order:
// on_prompt_logprobs*, then deltas and ends of the choices, then exactly one of on_finished,
// on_failed and on_gone.
class GenerationSink {
 public:
  virtual ~GenerationSink() = default;
  // The engine has admitted every choice: success headers may be sent.
  virtual void on_started() {}
  virtual void on_prompt_logprobs(int32_t choice, std::vector<TokenLogprobs> logprobs) {
    (void)choice, (void)logprobs;
  }
  // The sink may take what `delta` holds; what it leaves is dropped.
  virtual void on_delta(ChoiceDelta& delta) = 0;
  virtual void on_end(const ChoiceEnd& end) = 0;
  virtual void on_finished(const Usage& usage) = 0;
  virtual void on_failed(const Status& status) = 0;
  // The client left, and hears nothing more: for the log. `usage` is what had been made by then.
  virtual void on_gone(const Usage& usage) { (void)usage; }
  // All that one wake brought has been delivered: a streaming sink writes its buffer.
  virtual void flush() {}
  // About once a second while nothing comes.
  virtual void on_tick(int64_t now_us) { (void)now_us; }
};

class Generation final : public Task {
 public:
  // Submits every choice. When one is refused the sink hears why, nothing is left running, and null
  // comes back.
  static std::shared_ptr<Generation> start(const ApiContext& context, GenerationSpec spec,
                                           std::unique_ptr<GenerationSink> sink);

  // The client has gone. The sink hears on_gone, and nothing more.
  void cancel();

  Generation(const ApiContext& context, GenerationSpec spec, std::unique_ptr<GenerationSink> sink);

 private:
  struct Choice {
    std::unique_ptr<TokenStream> stream;
    text::Detokenizer detokenizer;
    text::StopMatcher stops;
    std::optional<text::ReasoningParser> reasoning;
    ChoiceDelta held;    // tokens that wait for their text
    int32_t prompt = 0;  // index into spec_.prompts
    int64_t tokens = 0;
    int64_t reasoning_tokens = 0;
    int32_t cached_tokens = 0;
    int64_t started_us = 0;
    int64_t first_token_us = 0;
    int64_t last_token_us = 0;
    bool started = false;
    bool ended = false;
  };

  Status submit_all();
  Status submit_one(int32_t prompt, int32_t sample);
  void run() override;
  void listen();
  void drain(Choice& choice);
  void on_tokens(Choice& choice, TokensEvent& event);
  void on_end(Choice& choice, const FinishedEvent& event);
  void take_text(Choice& choice, const std::string& text);
  void end_choice(Choice& choice, FinishReason reason, std::optional<std::string> matched_stop);
  void fail(const Status& status);
  void finish_if_done();
  void close(std::string_view outcome);
  void record_start(Choice& choice, const StartedEvent& event) const;
  void record_end(const Choice& choice) const;
  void record_latency(Choice& choice, size_t new_tokens);
  Usage usage() const;
  int32_t index_of(const Choice& choice) const {
    return static_cast<int32_t>(&choice - choices_.data());
  }

  const ApiContext& context_;
  GenerationSpec spec_;
  std::unique_ptr<GenerationSink> sink_;
  std::vector<Choice> choices_;
  int64_t arrived_us_ = 0;
  bool listening_ = false;
  bool announced_ = false;
  bool closed_ = false;
  std::shared_ptr<Generation> self_;  // alive until closed, whoever else lets go
  std::atomic<bool> cancelled_{false};
};

// A random seed for requests that bring none.
uint64_t random_seed();

}  // namespace fathom::api
