// chat.completion: the whole answer at once.
#include "api/chat_sinks.h"
#include "api/json_writer.h"
#include "api/response_json.h"

namespace fathom::api {
namespace {

class ChatSink final : public GenerationSink {
 public:
  ChatSink(const ApiContext& context, std::unique_ptr<HttpExchange> exchange,
           ChatAnswerOptions options)
      : tokenizer_(*context.model.tokenizer),
        exchange_(std::move(exchange)),
        options_(std::move(options)),
        envelope_(make_envelope(context, "chatcmpl-", "chat.completion")),
        answers_(options_.choices) {}

  void on_delta(ChoiceDelta& delta) override {
    Answer& answer = answers_[delta.choice];
    answer.reasoning += delta.reasoning;
    answer.content += delta.content;
    if (options_.logprobs) append_logprobs(answer, delta);
    if (options_.return_token_ids) {
      answer.tokens.insert(answer.tokens.end(), delta.tokens.begin(), delta.tokens.end());
    }
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
    if (options_.return_token_ids) {
      body += "\"prompt_token_ids\":";
      append_token_ids(body, options_.prompt_token_ids);
      body += ',';
    }
    append_usage(body, usage);
    body += '}';
    exchange_->send_json(200, body);
    exchange_->log(200, &usage);
  }

  void on_gone(const Usage& usage) override { exchange_->log_gone(usage); }

  void on_failed(const Status& status) override { exchange_->send_error(status); }

 private:
  struct Answer {
    std::string reasoning;
    std::string content;
    std::string logprobs;  // entries of logprobs.content
    std::vector<TokenId> tokens;
    FinishReason reason = FinishReason::kStop;
  };

  void append_logprobs(Answer& answer, const ChoiceDelta& delta) {
    for (size_t i = 0; i < delta.logprobs.size(); ++i) {
      if (!answer.logprobs.empty()) answer.logprobs += ',';
      append_chat_logprob(answer.logprobs, tokenizer_, delta.tokens[i], delta.logprobs[i]);
    }
  }

  void append_choice(std::string& body, size_t index) {
    const Answer& answer = answers_[index];
    body += "{\"index\":";
    append_json_int(body, static_cast<int64_t>(index));
    body += ",\"message\":{\"role\":\"assistant\",\"content\":";
    append_json_string(body, answer.content);
    if (!answer.reasoning.empty()) {
      body += ",\"reasoning_content\":";
      append_json_string(body, answer.reasoning);
    }
    body += ",\"refusal\":null},\"logprobs\":";
    body += options_.logprobs ? "{\"content\":[" + answer.logprobs + "],\"refusal\":null}" : "null";
    body += ",\"finish_reason\":";
    append_json_string(body, finish_reason_name(answer.reason));
    if (options_.return_token_ids) {
      body += ",\"token_ids\":";
      append_token_ids(body, answer.tokens);
    }
    body += '}';
  }

  const text::Tokenizer& tokenizer_;
  std::unique_ptr<HttpExchange> exchange_;
  ChatAnswerOptions options_;
  Envelope envelope_;
  std::vector<Answer> answers_;
};

}  // namespace

std::unique_ptr<GenerationSink> make_chat_sink(const ApiContext& context,
                                               std::unique_ptr<HttpExchange> exchange,
                                               ChatAnswerOptions options) {
  return std::make_unique<ChatSink>(context, std::move(exchange), std::move(options));
}

}  // namespace fathom::api
