// text_completion: the whole answer at once.
#include "api/completion_sinks.h"
#include "api/json_writer.h"
#include "api/response_json.h"

namespace fathom::api {
namespace {

class CompletionSink final : public GenerationSink {
 public:
  CompletionSink(const ApiContext& context, std::unique_ptr<HttpExchange> exchange,
                 CompletionAnswerOptions options)
      : tokenizer_(*context.model.tokenizer),
        exchange_(std::move(exchange)),
        options_(std::move(options)),
        envelope_(make_envelope(context, "cmpl-", "text_completion")),
        answers_(options_.prompts.size() * options_.choices_per_prompt) {}

  void on_prompt_logprobs(int32_t choice, std::vector<TokenLogprobs> logprobs) override {
    auto& all = answers_[choice].prompt_logprobs;
    all.insert(all.end(), std::make_move_iterator(logprobs.begin()),
               std::make_move_iterator(logprobs.end()));
  }

  void on_delta(ChoiceDelta& delta) override {
    Answer& answer = answers_[delta.choice];
    answer.text += delta.content;
    answer.tokens.insert(answer.tokens.end(), delta.tokens.begin(), delta.tokens.end());
    answer.logprobs.insert(answer.logprobs.end(), std::make_move_iterator(delta.logprobs.begin()),
                           std::make_move_iterator(delta.logprobs.end()));
  }

  void on_end(const ChoiceEnd& end) override { answers_[end.choice].reason = end.reason; }

  void on_finished(const Usage& usage) override {
    std::string body;
    append_envelope(body, envelope_);
    body += ",\"choices\":[";
    for (size_t i = 0; i < answers_.size(); ++i) {
      if (i > 0) body += ',';
      append_choice(body, i);
    }
    body += "],";
    append_usage(body, usage);
    body += '}';
    exchange_->send_json(200, body);
    exchange_->log(200, &usage);
  }

  void on_gone(const Usage& usage) override { exchange_->log_gone(usage); }

  void on_failed(const Status& status) override { exchange_->send_error(status); }

 private:
  struct Answer {
    std::string text;
    std::vector<TokenId> tokens;
    std::vector<TokenLogprobs> logprobs;
    std::vector<TokenLogprobs> prompt_logprobs;
    FinishReason reason = FinishReason::kStop;
  };

  std::string logprobs_of(const Answer& answer, const std::vector<TokenId>& prompt) const {
    if (!options_.logprobs) return "null";
    LegacyLogprobs legacy(tokenizer_);
    if (options_.echo) add_prompt_logprobs(legacy, prompt, answer.prompt_logprobs);
    for (size_t i = 0; i < answer.logprobs.size(); ++i)
      legacy.add(answer.tokens[i], answer.logprobs[i]);
    return legacy.take();
  }

  void append_choice(std::string& body, size_t index) {
    const Answer& answer = answers_[index];
    const std::vector<TokenId>& prompt = options_.prompts[index / options_.choices_per_prompt];
    body += "{\"index\":";
    append_json_int(body, static_cast<int64_t>(index));
    body += ",\"text\":";
    append_json_string(body,
                       options_.echo ? tokenizer_.decode(prompt, true) + answer.text : answer.text);
    body += ",\"logprobs\":" + logprobs_of(answer, prompt) + ",\"finish_reason\":";
    append_json_string(body, finish_reason_name(answer.reason));
    if (options_.return_token_ids) {
      body += ",\"prompt_token_ids\":";
      append_token_ids(body, prompt);
      body += ",\"token_ids\":";
      append_token_ids(body, answer.tokens);
    }
    body += '}';
  }

  const text::Tokenizer& tokenizer_;
  std::unique_ptr<HttpExchange> exchange_;
  CompletionAnswerOptions options_;
  Envelope envelope_;
  std::vector<Answer> answers_;
};

}  // namespace

std::unique_ptr<GenerationSink> make_completion_sink(const ApiContext& context,
                                                     std::unique_ptr<HttpExchange> exchange,
                                                     CompletionAnswerOptions options) {
  return std::make_unique<CompletionSink>(context, std::move(exchange), std::move(options));
}

}  // namespace fathom::api
