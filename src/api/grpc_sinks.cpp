// Generations to protobuf.
#include "api/grpc_sinks.h"

#include <utility>

#include "api/grpc_status.h"

namespace fathom::api {
namespace {

void fill_logprob(const text::Tokenizer& tokenizer, TokenId id, const TokenLogprobs* value,
                  v1::TokenLogprob& out) {
  out.set_token_id(static_cast<uint32_t>(id));
  out.set_token(std::string(tokenizer.token_bytes(id)));
  if (value == nullptr) return;
  out.set_logprob(value->chosen);
  for (const auto& [top_id, logprob] : value->top) {
    v1::TopLogprob* top = out.add_top();
    top->set_token_id(static_cast<uint32_t>(top_id));
    top->set_token(std::string(tokenizer.token_bytes(top_id)));
    top->set_logprob(logprob);
  }
}

v1::FinishReason reason_of(FinishReason reason) {
  return reason == FinishReason::kLength ? v1::FINISH_REASON_LENGTH : v1::FINISH_REASON_STOP;
}

void fill_usage(const Usage& usage, v1::Usage& out) {
  out.set_prompt_tokens(static_cast<uint64_t>(usage.prompt_tokens));
  out.set_completion_tokens(static_cast<uint64_t>(usage.completion_tokens));
  out.set_cached_tokens(static_cast<uint64_t>(usage.cached_tokens));
  out.set_reasoning_tokens(static_cast<uint64_t>(usage.reasoning_tokens));
}

// Adds what a delta carries to a message with token_ids and logprobs (Delta or Choice).
template <typename Message>
void fill_tokens(const text::Tokenizer& tokenizer, const ChoiceDelta& delta, bool ids,
                 Message& out) {
  for (size_t i = 0; i < delta.tokens.size(); ++i) {
    if (ids) out.add_token_ids(static_cast<uint32_t>(delta.tokens[i]));
    if (i < delta.logprobs.size())
      fill_logprob(tokenizer, delta.tokens[i], &delta.logprobs[i], *out.add_logprobs());
  }
}

template <typename Message>
void fill_prompt_ids(const GrpcAnswerOptions& options, Message& out) {
  if (!options.return_token_ids) return;
  for (const auto& prompt : options.prompts) {
    auto* ids = out.add_prompt_token_ids();
    for (TokenId id : prompt) ids->add_ids(static_cast<uint32_t>(id));
  }
}

// Prompt logprobs come in pieces; the first token of a prompt has none.
class PromptCursor {
 public:
  template <typename Add>
  void fill(const text::Tokenizer& tokenizer, const std::vector<TokenId>& prompt,
            const std::vector<TokenLogprobs>& values, Add add) {
    if (at_ == 0 && !prompt.empty()) fill_logprob(tokenizer, prompt[at_++], nullptr, *add());
    for (size_t i = 0; i < values.size() && at_ < prompt.size(); ++i) {
      fill_logprob(tokenizer, prompt[at_++], &values[i], *add());
    }
  }

 private:
  size_t at_ = 0;
};

class GrpcStreamSink final : public GenerationSink {
 public:
  GrpcStreamSink(const ApiContext& context, std::shared_ptr<EventWriter> writer,
                 GrpcAnswerOptions options)
      : context_(context),
        tokenizer_(*context.model.tokenizer),
        writer_(std::move(writer)),
        options_(std::move(options)),
        opened_(options_.prompts.size() * options_.choices_per_prompt, false),
        cursors_(opened_.size()) {}

  void on_started() override {
    v1::GenerationEvent event;
    event.mutable_started()->set_request_id(options_.request_id);
    event.mutable_started()->set_model(context_.model.name);
    fill_prompt_ids(options_, *event.mutable_started());
    writer_->push(std::move(event));
  }

  void on_prompt_logprobs(int32_t choice, std::vector<TokenLogprobs> logprobs) override {
    v1::GenerationEvent event;
    auto* out = event.mutable_prompt_logprobs();
    out->set_choice(static_cast<uint32_t>(choice));
    cursors_[choice].fill(tokenizer_, prompt_of(choice), logprobs,
                          [&] { return out->add_logprobs(); });
    writer_->push(std::move(event));
  }

  void on_delta(ChoiceDelta& delta) override {
    open(delta.choice);
    v1::GenerationEvent event;
    auto* out = event.mutable_delta();
    out->set_choice(static_cast<uint32_t>(delta.choice));
    fill_tokens(tokenizer_, delta, options_.return_token_ids, *out);
    out->set_reasoning(std::move(delta.reasoning));
    out->set_text(std::move(delta.content));
    writer_->push(std::move(event));
  }

  void on_end(const ChoiceEnd& end) override {
    open(end.choice);
    v1::GenerationEvent event;
    auto* out = event.mutable_choice_finished();
    out->set_choice(static_cast<uint32_t>(end.choice));
    out->set_reason(reason_of(end.reason));
    if (end.matched_stop) out->set_matched_stop(*end.matched_stop);
    writer_->push(std::move(event));
  }

  void on_finished(const Usage& usage) override {
    v1::GenerationEvent event;
    fill_usage(usage, *event.mutable_finished()->mutable_usage());
    writer_->set_usage(usage);
    writer_->push(std::move(event));
    writer_->end(grpc::Status::OK);
  }

  void on_failed(const Status& status) override {
    writer_->end(to_grpc_status(status, options_.request_id));
  }

  void on_gone(const Usage& usage) override { writer_->set_usage(usage); }

 private:
  const std::vector<TokenId>& prompt_of(int32_t choice) const {
    return options_.prompts[choice / options_.choices_per_prompt];
  }

  // An echoed prompt leaves before the first token of its choice.
  void open(int32_t choice) {
    if (opened_[choice] || !options_.echo) return;
    opened_[choice] = true;
    v1::GenerationEvent event;
    event.mutable_delta()->set_choice(static_cast<uint32_t>(choice));
    event.mutable_delta()->set_text(tokenizer_.decode(prompt_of(choice), true));
    writer_->push(std::move(event));
  }

  const ApiContext& context_;
  const text::Tokenizer& tokenizer_;
  std::shared_ptr<EventWriter> writer_;
  GrpcAnswerOptions options_;
  std::vector<bool> opened_;
  std::vector<PromptCursor> cursors_;
};

class GrpcUnarySink final : public GenerationSink {
 public:
  GrpcUnarySink(const ApiContext& context, std::shared_ptr<UnaryEnd> done,
                v1::GenerationResponse* response, GrpcAnswerOptions options)
      : tokenizer_(*context.model.tokenizer),
        done_(std::move(done)),
        options_(std::move(options)),
        client_response_(response),
        cursors_(options_.prompts.size() * options_.choices_per_prompt) {
    response_.set_request_id(options_.request_id);
    response_.set_model(context.model.name);
    fill_prompt_ids(options_, response_);
    for (size_t i = 0; i < cursors_.size(); ++i) {
      v1::Choice* choice = response_.add_choices();
      choice->set_index(static_cast<uint32_t>(i));
      if (options_.echo)
        choice->set_text(
            tokenizer_.decode(options_.prompts[i / options_.choices_per_prompt], true));
    }
  }

  void on_prompt_logprobs(int32_t choice, std::vector<TokenLogprobs> logprobs) override {
    v1::Choice* out = response_.mutable_choices(choice);
    cursors_[choice].fill(tokenizer_, options_.prompts[choice / options_.choices_per_prompt],
                          logprobs, [&] { return out->add_prompt_logprobs(); });
  }

  void on_delta(ChoiceDelta& delta) override {
    v1::Choice* out = response_.mutable_choices(delta.choice);
    out->mutable_reasoning()->append(delta.reasoning);
    out->mutable_text()->append(delta.content);
    fill_tokens(tokenizer_, delta, options_.return_token_ids, *out);
  }

  void on_end(const ChoiceEnd& end) override {
    v1::Choice* out = response_.mutable_choices(end.choice);
    out->set_reason(reason_of(end.reason));
    if (end.matched_stop) out->set_matched_stop(*end.matched_stop);
  }

  // The client's message may be touched until the call has ended, and not after a cancel: fill it
  // last.
  void on_finished(const Usage& usage) override {
    fill_usage(usage, *response_.mutable_usage());
    done_->set_usage(usage);
    done_->end_with([this] { client_response_->Swap(&response_); });
  }

  void on_failed(const Status& status) override {
    done_->end(to_grpc_status(status, options_.request_id));
  }

  void on_gone(const Usage& usage) override { done_->set_usage(usage); }

 private:
  const text::Tokenizer& tokenizer_;
  std::shared_ptr<UnaryEnd> done_;
  GrpcAnswerOptions options_;
  v1::GenerationResponse* client_response_;
  v1::GenerationResponse response_;
  std::vector<PromptCursor> cursors_;
};

}  // namespace

std::unique_ptr<GenerationSink> make_grpc_stream_sink(const ApiContext& context,
                                                      std::shared_ptr<EventWriter> writer,
                                                      GrpcAnswerOptions options) {
  return std::make_unique<GrpcStreamSink>(context, std::move(writer), std::move(options));
}

std::unique_ptr<GenerationSink> make_grpc_unary_sink(const ApiContext& context,
                                                     std::shared_ptr<UnaryEnd> done,
                                                     v1::GenerationResponse* response,
                                                     GrpcAnswerOptions options) {
  return std::make_unique<GrpcUnarySink>(context, std::move(done), response, std::move(options));
}

}  // namespace fathom::api
