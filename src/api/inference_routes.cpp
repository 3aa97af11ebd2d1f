// POST /v1/chat/completions and /v1/completions. The io thread only posts; the rest runs on the
// work pool.
#include "api/inference_routes.h"

#include <utility>

#include "api/api_server.h"
#include "api/chat_sinks.h"
#include "api/completion_sinks.h"
#include "api/parse_call.h"
#include "api/prepare.h"

namespace fathom::api {
namespace {

// Fields of a call that come from the connection and not from the body.
void complete_call(CommonCall& call, const HttpExchange& exchange, const ApiContext& context) {
  call.request_id = exchange.request_id();
  call.cache_identity = exchange.identity().name + '\0' + call.cache_identity;
  if (call.unknown_fields > 0) {
    context.metrics->add(CounterId::kUnknownFields, static_cast<double>(call.unknown_fields));
  }
}

// Starts the generation; the client's leaving ends it.
void start_generation(const ApiContext& context, GenerationSpec spec,
                      std::unique_ptr<GenerationSink> sink, net::ResponseWriter& response) {
  auto generation = Generation::start(context, std::move(spec), std::move(sink));
  if (generation == nullptr) return;
  response.on_close([weak = std::weak_ptr<Generation>(generation)](net::CloseReason) {
    if (auto alive = weak.lock()) alive->cancel();
  });
}

Status run_chat(const ApiContext& context, const std::string& body,
                std::unique_ptr<HttpExchange>& exchange, net::ResponseWriter& response) {
  FATHOM_ASSIGN(Json json, parse_body(body, context.limits));
  FATHOM_ASSIGN(ChatCall call, parse_chat_call(json, context.limits, context.model.defaults));
  complete_call(call, *exchange, context);
  FATHOM_ASSIGN(GenerationSpec spec, prepare_chat(context, call));
  ChatAnswerOptions options;
  options.choices = call.choices;
  options.logprobs = call.sampling.logprobs.has_value();
  options.include_usage = call.include_usage;
  options.return_token_ids = call.return_token_ids;
  if (options.return_token_ids) options.prompt_token_ids = spec.prompts[0];
  auto sink = call.stream ? make_chat_stream_sink(context, std::move(exchange), std::move(options))
                          : make_chat_sink(context, std::move(exchange), std::move(options));
  start_generation(context, std::move(spec), std::move(sink), response);
  return Status::ok();
}

Status run_completion(const ApiContext& context, const std::string& body,
                      std::unique_ptr<HttpExchange>& exchange, net::ResponseWriter& response) {
  FATHOM_ASSIGN(Json json, parse_body(body, context.limits));
  FATHOM_ASSIGN(CompletionCall call,
                parse_completion_call(json, context.limits, context.model.defaults));
  complete_call(call, *exchange, context);
  FATHOM_ASSIGN(GenerationSpec spec, prepare_completion(context, call));
  CompletionAnswerOptions options;
  options.choices_per_prompt = call.choices;
  options.logprobs = call.sampling.logprobs.has_value();
  options.echo = call.echo;
  options.include_usage = call.include_usage;
  options.return_token_ids = call.return_token_ids;
  options.prompts = spec.prompts;
  auto sink = call.stream
                  ? make_completion_stream_sink(context, std::move(exchange), std::move(options))
                  : make_completion_sink(context, std::move(exchange), std::move(options));
  start_generation(context, std::move(spec), std::move(sink), response);
  return Status::ok();
}

using Runner = Status (*)(const ApiContext&, const std::string&, std::unique_ptr<HttpExchange>&,
                          net::ResponseWriter&);

// Runs `run` on the pool; an error it returns is the answer.
void post(RouteCall call, Runner run) {
  const ApiContext& context = call.server->context();
  auto shared = std::make_shared<RouteCall>(std::move(call));
  context.pool->post([shared, run] {
    const ApiContext& context = shared->server->context();
    auto exchange = std::make_unique<HttpExchange>(*shared);
    const Status status = run(context, shared->request.body, exchange, *shared->response);
    if (status.is_ok()) return;
    context.metrics->counter(CounterId::kRejections, {"invalid"}).add();
    exchange->send_error(status);
  });
}

}  // namespace

void handle_chat_completions(RouteCall call) { post(std::move(call), run_chat); }

void handle_completions(RouteCall call) { post(std::move(call), run_completion); }

}  // namespace fathom::api
