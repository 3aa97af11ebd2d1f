// chat.completion.chunk: server-sent events. One buffer a stream; all that a wake brought leaves in
// one write.
#include "api/chat_sinks.h"
#include "api/json_writer.h"
#include "api/response_json.h"
#include "net/sse.h"

namespace fathom::api {
namespace {

class ChatStreamSink final : public GenerationSink {
 public:
  ChatStreamSink(const ApiContext& context, std::unique_ptr<HttpExchange> exchange,
                 ChatAnswerOptions options)
      : tokenizer_(*context.model.tokenizer),
        exchange_(std::move(exchange)),
        options_(std::move(options)),
        opened_(options_.choices, false) {
    const Envelope envelope = make_envelope(context, "chatcmpl-", "chat.completion.chunk");
    head_ = "data: ";
    append_envelope(head_, envelope);
    tail_ = options_.include_usage ? ",\"usage\":null}\n\n" : "}\n\n";
  }

  void on_started() override { exchange_->begin_events(); }

  void on_delta(ChoiceDelta delta) override {
    open(delta.choice);
    const bool silent = delta.content.empty() && delta.reasoning.empty();
    if (silent && !options_.logprobs && !options_.return_token_ids) return;
    if (!delta.reasoning.empty()) {
      const bool last = delta.content.empty();
      append_text(delta, "reasoning_content", delta.reasoning, last);
    }
    if (!delta.content.empty() || delta.reasoning.empty())
      append_text(delta, "content", delta.content, true);
  }

  void on_end(const ChoiceEnd& end) override {
    open(end.choice);
    begin_choice(end.choice);
    buffer_ += "\"delta\":{},\"logprobs\":null,\"finish_reason\":";
    append_json_string(buffer_, finish_reason_name(end.reason));
    buffer_ += "}]";
    buffer_ += tail_;
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
  // data: {...,"choices":[{"index":N,
  void begin_choice(int32_t choice) {
    buffer_ += head_;
    buffer_ += ",\"choices\":[{\"index\":";
    append_json_int(buffer_, choice);
    buffer_ += ',';
  }

  // The first chunk of a choice carries the role, and the prompt's token ids when asked for.
  void open(int32_t choice) {
    if (opened_[choice]) return;
    opened_[choice] = true;
    begin_choice(choice);
    buffer_ +=
        "\"delta\":{\"role\":\"assistant\",\"content\":\"\"},\"logprobs\":null,\"finish_reason\":"
        "null}]";
    if (options_.return_token_ids && choice == 0) {
      buffer_ += ",\"prompt_token_ids\":";
      append_token_ids(buffer_, options_.prompt_token_ids);
    }
    buffer_ += tail_;
  }

  // One delta; the tokens and their logprobs go with the last chunk of a delta.
  void append_text(const ChoiceDelta& delta, std::string_view field, const std::string& text,
                   bool with_tokens) {
    begin_choice(delta.choice);
    buffer_ += "\"delta\":{\"";
    buffer_ += field;
    buffer_ += "\":";
    append_json_string(buffer_, text);
    buffer_ += "},\"logprobs\":";
    if (options_.logprobs && with_tokens) {
      buffer_ += "{\"content\":[";
      for (size_t i = 0; i < delta.logprobs.size(); ++i) {
        if (i > 0) buffer_ += ',';
        append_chat_logprob(buffer_, tokenizer_, delta.tokens[i], delta.logprobs[i]);
      }
      buffer_ += "],\"refusal\":null}";
    } else {
      buffer_ += "null";
    }
    buffer_ += ",\"finish_reason\":null";
    if (options_.return_token_ids && with_tokens) {
      buffer_ += ",\"token_ids\":";
      append_token_ids(buffer_, delta.tokens);
    }
    buffer_ += "}]";
    buffer_ += tail_;
  }

  const text::Tokenizer& tokenizer_;
  std::unique_ptr<HttpExchange> exchange_;
  ChatAnswerOptions options_;
  std::vector<bool> opened_;
  std::string head_;
  std::string tail_;
  std::string buffer_;
};

}  // namespace

std::unique_ptr<GenerationSink> make_chat_stream_sink(const ApiContext& context,
                                                      std::unique_ptr<HttpExchange> exchange,
                                                      ChatAnswerOptions options) {
  return std::make_unique<ChatStreamSink>(context, std::move(exchange), std::move(options));
}

}  // namespace fathom::api
