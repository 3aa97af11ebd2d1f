// chat.completion.chunk: server-sent events.
#include <utility>

#include "api/chat_sinks.h"
#include "api/event_stream_sink.h"
#include "api/json_writer.h"
#include "api/response_json.h"

namespace fathom::api {
namespace {

class ChatStreamSink final : public EventStreamSink {
 public:
  ChatStreamSink(const ApiContext& context, std::unique_ptr<HttpExchange> exchange,
                 ChatAnswerOptions options)
      : EventStreamSink(context, std::move(exchange), "chatcmpl-", "chat.completion.chunk",
                        options.include_usage),
        tokenizer_(*context.model.tokenizer),
        options_(std::move(options)),
        opened_(options_.choices, false) {}

  void on_delta(ChoiceDelta& delta) override {
    open(delta.choice);
    const bool silent = delta.content.empty() && delta.reasoning.empty();
    if (silent && !options_.logprobs && !options_.return_token_ids) return;
    if (!delta.reasoning.empty()) {
      const bool last = delta.content.empty();
      append_text(delta, "\"delta\":{\"reasoning_content\":", delta.reasoning, last);
    }
    if (!delta.content.empty() || delta.reasoning.empty())
      append_text(delta, "\"delta\":{\"content\":", delta.content, true);
  }

  void on_end(const ChoiceEnd& end) override {
    open(end.choice);
    begin_chunk(end.choice);
    buffer_ += "\"delta\":{},\"logprobs\":null,\"finish_reason\":";
    append_json_string(buffer_, finish_reason_name(end.reason));
    end_choice();
    end_chunk();
  }

 private:
  // The first chunk of a choice carries the role, and the prompt's token ids when asked for.
  void open(int32_t choice) {
    if (opened_[choice]) return;
    opened_[choice] = true;
    begin_chunk(choice);
    buffer_ +=
        "\"delta\":{\"role\":\"assistant\",\"content\":\"\"},\"logprobs\":null,\"finish_reason\":"
        "null";
    end_choice();
    if (options_.return_token_ids && choice == 0) {
      buffer_ += ",\"prompt_token_ids\":";
      append_token_ids(buffer_, options_.prompt_token_ids);
    }
    end_chunk();
  }

  // One delta; the tokens and their logprobs go with the last chunk of a delta.
  void append_text(const ChoiceDelta& delta, std::string_view field, const std::string& text,
                   bool with_tokens) {
    begin_chunk(delta.choice);
    buffer_ += field;
    append_json_string(buffer_, text);
    if (options_.logprobs && with_tokens) {
      buffer_ += "},\"logprobs\":{\"content\":[";
      for (size_t i = 0; i < delta.logprobs.size(); ++i) {
        if (i > 0) buffer_ += ',';
        append_chat_logprob(buffer_, tokenizer_, delta.tokens[i], delta.logprobs[i]);
      }
      buffer_ += "],\"refusal\":null},\"finish_reason\":null";
    } else {
      buffer_ += "},\"logprobs\":null,\"finish_reason\":null";
    }
    if (options_.return_token_ids && with_tokens) {
      buffer_ += ",\"token_ids\":";
      append_token_ids(buffer_, delta.tokens);
    }
    end_choice();
    end_chunk();
  }

  const text::Tokenizer& tokenizer_;
  const ChatAnswerOptions options_;
  std::vector<bool> opened_;
};

}  // namespace

std::unique_ptr<GenerationSink> make_chat_stream_sink(const ApiContext& context,
                                                      std::unique_ptr<HttpExchange> exchange,
                                                      ChatAnswerOptions options) {
  return std::make_unique<ChatStreamSink>(context, std::move(exchange), std::move(options));
}

}  // namespace fathom::api
