// text_completion chunks: server-sent events.
#include <utility>

#include "api/completion_sinks.h"
#include "api/event_stream_sink.h"
#include "api/json_writer.h"
#include "api/response_json.h"

namespace fathom::api {
namespace {

class CompletionStreamSink final : public EventStreamSink {
 public:
  CompletionStreamSink(const ApiContext& context, std::unique_ptr<HttpExchange> exchange,
                       CompletionAnswerOptions options)
      : EventStreamSink(context, std::move(exchange), "cmpl-", "text_completion",
                        options.include_usage),
        tokenizer_(*context.model.tokenizer),
        options_(std::move(options)),
        choices_(options_.prompts.size() * options_.choices_per_prompt, Choice(tokenizer_)) {}

  void on_prompt_logprobs(int32_t choice, std::vector<TokenLogprobs> logprobs) override {
    auto& all = choices_[choice].prompt_logprobs;
    all.insert(all.end(), std::make_move_iterator(logprobs.begin()),
               std::make_move_iterator(logprobs.end()));
  }

  void on_delta(ChoiceDelta& delta) override {
    open(delta.choice);
    if (delta.content.empty() && !options_.logprobs && !options_.return_token_ids) return;
    Choice& choice = choices_[delta.choice];
    for (size_t i = 0; i < delta.logprobs.size(); ++i)
      choice.legacy.add(delta.tokens[i], delta.logprobs[i]);
    append_chunk(delta.choice, delta.content, nullptr, &delta.tokens);
  }

  void on_end(const ChoiceEnd& end) override {
    open(end.choice);
    append_chunk(end.choice, "", &end.reason, nullptr);
  }

 private:
  struct Choice {
    explicit Choice(const text::Tokenizer& tokenizer) : legacy(tokenizer) {}
    LegacyLogprobs legacy;
    std::vector<TokenLogprobs> prompt_logprobs;
    bool opened = false;
  };

  // An echoed prompt leaves before the first token of its choice.
  void open(int32_t index) {
    Choice& choice = choices_[index];
    if (std::exchange(choice.opened, true) || !options_.echo) return;
    const std::vector<TokenId>& prompt = options_.prompts[index / options_.choices_per_prompt];
    if (options_.logprobs) add_prompt_logprobs(choice.legacy, prompt, choice.prompt_logprobs);
    append_chunk(index, tokenizer_.decode(prompt, true), nullptr, nullptr);
  }

  void append_chunk(int32_t index, std::string_view text, const FinishReason* reason,
                    const std::vector<TokenId>* tokens) {
    begin_chunk(index);
    buffer_ += "\"text\":";
    append_json_string(buffer_, text);
    buffer_ += ",\"logprobs\":";
    buffer_ += options_.logprobs && reason == nullptr ? choices_[index].legacy.take() : "null";
    buffer_ += ",\"finish_reason\":";
    if (reason != nullptr) {
      append_json_string(buffer_, finish_reason_name(*reason));
    } else {
      buffer_ += "null";
    }
    if (options_.return_token_ids && tokens != nullptr) {
      buffer_ += ",\"token_ids\":";
      append_token_ids(buffer_, *tokens);
    }
    end_choice();
    end_chunk();
  }

  const text::Tokenizer& tokenizer_;
  const CompletionAnswerOptions options_;
  std::vector<Choice> choices_;
};

}  // namespace

std::unique_ptr<GenerationSink> make_completion_stream_sink(const ApiContext& context,
                                                            std::unique_ptr<HttpExchange> exchange,
                                                            CompletionAnswerOptions options) {
  return std::make_unique<CompletionStreamSink>(context, std::move(exchange), std::move(options));
}

}  // namespace fathom::api
