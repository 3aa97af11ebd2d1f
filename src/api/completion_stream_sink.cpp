// text_completion chunks: server-sent events.
#include <utility>

#include "api/completion_sinks.h"
#include "api/json_writer.h"
#include "api/response_json.h"
#include "net/sse.h"

namespace fathom::api {
namespace {

class CompletionStreamSink final : public GenerationSink {
 public:
  CompletionStreamSink(const ApiContext& context, std::unique_ptr<HttpExchange> exchange,
                       CompletionAnswerOptions options)
      : tokenizer_(*context.model.tokenizer),
        exchange_(std::move(exchange)),
        options_(std::move(options)),
        choices_(options_.prompts.size() * options_.choices_per_prompt, Choice(tokenizer_)) {
    const Envelope envelope = make_envelope(context, "cmpl-", "text_completion");
    head_ = "data: ";
    append_envelope(head_, envelope);
    tail_ = options_.include_usage ? ",\"usage\":null}\n\n" : "}\n\n";
  }

  void on_started() override { exchange_->begin_events(); }

  void on_prompt_logprobs(int32_t choice, std::vector<TokenLogprobs> logprobs) override {
    auto& all = choices_[choice].prompt_logprobs;
    all.insert(all.end(), std::make_move_iterator(logprobs.begin()),
               std::make_move_iterator(logprobs.end()));
  }

  void on_delta(ChoiceDelta delta) override {
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

  void on_finished(const Usage& usage) override {
    exchange_->begin_events();
    if (options_.include_usage) {
      buffer_ += head_;
      buffer_ += ",\"choices\":[],";
      append_usage(buffer_, usage);
      buffer_ += "}\n\n";
    }
    buffer_ += net::kSseDone;
    exchange_->finish_events(buffer_);
    exchange_->log(200, &usage);
  }

  void on_failed(const Status& status) override {
    if (!exchange_->events_begun()) return exchange_->send_error(status);
    flush();
    exchange_->fail_events(status);
  }

  void flush() override {
    if (buffer_.empty()) return;
    exchange_->begin_events();
    exchange_->write(buffer_);
    buffer_.clear();
  }

  void on_tick(int64_t now_us) override { exchange_->keep_alive(now_us); }

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
    buffer_ += head_;
    buffer_ += ",\"choices\":[{\"index\":";
    append_json_int(buffer_, index);
    buffer_ += ",\"text\":";
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
    buffer_ += "}]";
    buffer_ += tail_;
  }

  const text::Tokenizer& tokenizer_;
  std::unique_ptr<HttpExchange> exchange_;
  CompletionAnswerOptions options_;
  std::vector<Choice> choices_;
  std::string head_;
  std::string tail_;
  std::string buffer_;
};

}  // namespace

std::unique_ptr<GenerationSink> make_completion_stream_sink(const ApiContext& context,
                                                            std::unique_ptr<HttpExchange> exchange,
                                                            CompletionAnswerOptions options) {
  return std::make_unique<CompletionStreamSink>(context, std::move(exchange), std::move(options));
}

}  // namespace fathom::api
