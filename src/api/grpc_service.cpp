// Each method: who calls, then on to the work pool.
#include "api/grpc_service.h"

#include <grpc/grpc_security_constants.h>

#include <algorithm>
#include <chrono>
#include <utility>

#include "api/grpc_call.h"
#include "api/grpc_sinks.h"
#include "api/grpc_status.h"
#include "api/prepare.h"
#include "api/response_json.h"
#include "base/log.h"
#include "net/peer_identity.h"

namespace fathom::api {
namespace {

std::string_view metadata_of(const grpc::CallbackServerContext& call, const char* name) {
  const auto at = call.client_metadata().find(name);
  return at == call.client_metadata().end()
             ? std::string_view()
             : std::string_view(at->second.data(), at->second.size());
}

std::vector<std::string> peer_names(const grpc::AuthContext& context, const char* property) {
  std::vector<std::string> names;
  for (const grpc::string_ref& value : context.FindPropertyValues(property)) {
    names.emplace_back(value.data(), value.size());
  }
  return names;
}

// Who calls, and what of the connection goes with the call.
struct Caller {
  std::string request_id;
  std::string remote;
  std::string identity;
  std::string certificate;
  std::optional<int64_t> deadline_us;
};

std::optional<int64_t> deadline_of(const grpc::CallbackServerContext& call,
                                   const ApiContext& context) {
  const auto left = call.deadline() - std::chrono::system_clock::now();
  const int64_t left_us = std::chrono::duration_cast<std::chrono::microseconds>(left).count();
  constexpr int64_t kNoDeadlineUs = int64_t{86'400} * 1'000'000 * 365;
  if (left_us > kNoDeadlineUs) return std::nullopt;
  return context.clock->now_us() + left_us;
}

Status authorize(const grpc::CallbackServerContext& call, const GrpcServerOptions& options,
                 Caller& caller) {
  const auto peer = call.auth_context();
  const bool verified = peer != nullptr && peer->IsPeerAuthenticated();
  if (verified) {
    caller.certificate = net::identity_from_san(peer_names(*peer, GRPC_PEER_URI_PROPERTY_NAME),
                                                peer_names(*peer, GRPC_PEER_DNS_PROPERTY_NAME));
  }
  const auto identity = auth::check_access(auth::Access::kData,
                                           {.authorization = metadata_of(call, "authorization"),
                                            .api_key = metadata_of(call, "x-api-key"),
                                            .certificate_verified = verified,
                                            .certificate_name = caller.certificate},
                                           options.auth);
  if (identity.is_ok()) {
    caller.identity = identity->name;
    return Status::ok();
  }
  options.context->metrics->counter(CounterId::kAuthFailures, {identity.status().reason()}).add();
  return identity.status();
}

// A call as it comes in: who calls, and whether it may.
struct Arrival {
  Caller caller;
  Status allowed;
};

Arrival receive(grpc::CallbackServerContext* call, const GrpcServerOptions& options) {
  Arrival arrival;
  Caller& caller = arrival.caller;
  const std::string_view given = metadata_of(*call, "x-request-id");
  caller.request_id = given.empty() || given.size() > 128 ? make_id("req-") : std::string(given);
  call->AddInitialMetadata("x-request-id", caller.request_id);
  caller.remote = call->peer();
  caller.deadline_us = deadline_of(*call, *options.context);
  arrival.allowed = authorize(*call, options, caller);
  return arrival;
}

// Counts a call when it is over, and writes its line of the access log.
OnCallEnd record_of(const ApiContext& context, std::string_view method, const Caller& caller) {
  const int64_t began_us = context.clock->now_us();
  return [&context, method, caller, began_us](grpc::StatusCode code, const Usage& usage) {
    const std::string_view status = code_name(static_cast<Code>(code));
    context.metrics->counter(CounterId::kGrpcRequests, {method, status}).add();
    if (!context.access_log) return;
    static const Logger kAccess("access");
    const std::string& who = caller.identity.empty() ? caller.certificate : caller.identity;
    kAccess.with_request(caller.request_id)
        .info("call", {{"method", std::string(method)},
                       {"status", std::string(status)},
                       {"identity", who.empty() ? std::string("-") : who},
                       {"certificate", caller.certificate},
                       {"remote", caller.remote},
                       {"prompt_tokens", usage.prompt_tokens},
                       {"completion_tokens", usage.completion_tokens},
                       {"ms", (context.clock->now_us() - began_us) / 1000}});
  };
}

void complete_call(CommonCall& call, const Caller& caller) {
  call.request_id = caller.request_id;
  call.cache_identity = caller.identity + '\0' + call.cache_identity;
}

struct Prepared {
  GenerationSpec spec;
  GrpcAnswerOptions answer;
};

void finish_prepared(const CommonCall& call, const Caller& caller, Prepared& out) {
  // A client's own deadline may only be the earlier one.
  out.spec.deadline_us =
      std::min(*out.spec.deadline_us, caller.deadline_us.value_or(*out.spec.deadline_us));
  out.answer.request_id = caller.request_id;
  out.answer.return_token_ids = call.return_token_ids;
  out.answer.choices_per_prompt = call.choices;
  out.answer.prompts = out.spec.prompts;
}

Result<Prepared> prepare(const GrpcServerOptions& options, const Caller& caller,
                         const v1::ChatRequest& request) {
  const ApiContext& context = *options.context;
  FATHOM_ASSIGN(ChatCall call, read_chat_request(request, context.limits, context.model.defaults));
  complete_call(call, caller);
  Prepared out;
  FATHOM_ASSIGN(out.spec, prepare_chat(context, call));
  finish_prepared(call, caller, out);
  return out;
}

Result<Prepared> prepare(const GrpcServerOptions& options, const Caller& caller,
                         const v1::CompleteRequest& request) {
  const ApiContext& context = *options.context;
  FATHOM_ASSIGN(CompletionCall call,
                read_complete_request(request, context.limits, context.model.defaults));
  complete_call(call, caller);
  Prepared out;
  FATHOM_ASSIGN(out.spec, prepare_completion(context, call));
  finish_prepared(call, caller, out);
  out.answer.echo = call.echo;
  return out;
}

Status server_admits(const GrpcServerOptions& options) {
  return admission_of(*options.context, *options.state);
}

// The client's leaving, its deadline and its slowness all end the generation.
template <typename Reactor>
void start_generation(const ApiContext& context, Prepared prepared,
                      std::unique_ptr<GenerationSink> sink, Reactor& reactor) {
  auto generation = Generation::start(context, std::move(prepared.spec), std::move(sink));
  if (generation == nullptr) return;
  reactor.set_on_gone([weak = std::weak_ptr<Generation>(generation)] {
    if (auto alive = weak.lock()) alive->cancel();
  });
}

// Requests are copied: a cancelled call ends, and its request goes, before the work runs.
template <typename Request>
grpc::ServerWriteReactor<v1::GenerationEvent>* stream(std::string_view method,
                                                      const GrpcServerOptions& options,
                                                      grpc::CallbackServerContext* call,
                                                      const Request* request) {
  auto [caller, allowed] = receive(call, options);
  auto writer =
      EventWriter::make(options.queued_events_max, record_of(*options.context, method, caller));
  EventWriter* raw = writer.get();
  const Status ready = allowed.is_ok() ? server_admits(options) : allowed;
  if (!ready.is_ok()) {
    writer->end(to_grpc_status(ready, caller.request_id));
    return raw;
  }
  options.context->pool->post(
      [&options, writer = std::move(writer), caller = caller, request = *request] {
        auto prepared = prepare(options, caller, request);
        if (!prepared.is_ok())
          return writer->end(to_grpc_status(prepared.status(), caller.request_id));
        auto sink = make_grpc_stream_sink(*options.context, writer, prepared->answer);
        start_generation(*options.context, std::move(*prepared), std::move(sink), *writer);
      });
  return raw;
}

template <typename Request>
grpc::ServerUnaryReactor* once(std::string_view method, const GrpcServerOptions& options,
                               grpc::CallbackServerContext* call, const Request* request,
                               v1::GenerationResponse* response) {
  auto [caller, allowed] = receive(call, options);
  auto done = UnaryEnd::make(record_of(*options.context, method, caller));
  UnaryEnd* raw = done.get();
  const Status ready = allowed.is_ok() ? server_admits(options) : allowed;
  if (!ready.is_ok()) {
    done->end(to_grpc_status(ready, caller.request_id));
    return raw;
  }
  options.context->pool->post(
      [&options, done = std::move(done), caller = caller, request = *request, response] {
        auto prepared = prepare(options, caller, request);
        if (!prepared.is_ok())
          return done->end(to_grpc_status(prepared.status(), caller.request_id));
        auto sink = make_grpc_unary_sink(*options.context, done, response, prepared->answer);
        start_generation(*options.context, std::move(*prepared), std::move(sink), *done);
      });
  return raw;
}

// Answers that are made at once: `answer` fills the response on the work pool.
template <typename Request, typename Response>
grpc::ServerUnaryReactor* answer_once(std::string_view method, const GrpcServerOptions& options,
                                      grpc::CallbackServerContext* call, const Request* request,
                                      Response* response,
                                      Status (*answer)(const ApiContext&, const Request&,
                                                       Response&)) {
  auto [caller, allowed] = receive(call, options);
  auto done = UnaryEnd::make(record_of(*options.context, method, caller));
  UnaryEnd* raw = done.get();
  if (!allowed.is_ok()) {
    done->end(to_grpc_status(allowed, caller.request_id));
    return raw;
  }
  options.context->pool->post(
      [&options, done = std::move(done), caller = caller, request = *request, response, answer] {
        Response out;
        const Status status = answer(*options.context, request, out);
        if (!status.is_ok()) return done->end(to_grpc_status(status, caller.request_id));
        done->end_with([&] { response->Swap(&out); });
      });
  return raw;
}

Status tokenize(const ApiContext& context, const v1::TokenizeRequest& request,
                v1::TokenizeResponse& response) {
  FATHOM_RETURN_IF_ERROR(check_model(context, request.model()));
  std::vector<TokenId> ids;
  if (request.has_chat()) {
    FATHOM_ASSIGN(const ChatCall call,
                  read_chat_request(request.chat(), context.limits, context.model.defaults));
    text::OutputStart start = text::OutputStart::kContent;
    FATHOM_ASSIGN(ids, encode_chat(context, call, &start));
  } else if (request.has_add_special_tokens() && !request.add_special_tokens()) {
    FATHOM_ASSIGN(ids, context.model.tokenizer->encode(request.text(), {}));
  } else {
    FATHOM_ASSIGN(ids, encode_text(context, request.text(), "text"));
  }
  for (TokenId id : ids) response.add_ids(static_cast<uint32_t>(id));
  response.set_max_model_len(static_cast<uint32_t>(context.model.max_model_len));
  return Status::ok();
}

Status detokenize(const ApiContext& context, const v1::DetokenizeRequest& request,
                  v1::DetokenizeResponse& response) {
  FATHOM_RETURN_IF_ERROR(check_model(context, request.model()));
  std::vector<TokenId> ids;
  for (uint32_t id : request.ids())
    ids.push_back(static_cast<TokenId>(std::min<uint32_t>(id, INT32_MAX)));
  FATHOM_RETURN_IF_ERROR(check_ids(context, ids, "ids"));
  response.set_text(context.model.tokenizer->decode(ids, request.skip_special_tokens()));
  return Status::ok();
}

Status list_models(const ApiContext& context, const v1::ListModelsRequest&,
                   v1::ListModelsResponse& response) {
  v1::Model* model = response.add_models();
  model->set_id(context.model.name);
  model->set_created_unix_s(context.model.created_unix_s);
  model->set_max_model_len(static_cast<uint32_t>(context.model.max_model_len));
  return Status::ok();
}

}  // namespace

grpc::ServerWriteReactor<v1::GenerationEvent>* InferenceService::Chat(
    grpc::CallbackServerContext* call, const v1::ChatRequest* request) {
  return stream("Chat", options_, call, request);
}

grpc::ServerWriteReactor<v1::GenerationEvent>* InferenceService::Complete(
    grpc::CallbackServerContext* call, const v1::CompleteRequest* request) {
  return stream("Complete", options_, call, request);
}

grpc::ServerUnaryReactor* InferenceService::ChatOnce(grpc::CallbackServerContext* call,
                                                     const v1::ChatRequest* request,
                                                     v1::GenerationResponse* response) {
  return once("ChatOnce", options_, call, request, response);
}

grpc::ServerUnaryReactor* InferenceService::CompleteOnce(grpc::CallbackServerContext* call,
                                                         const v1::CompleteRequest* request,
                                                         v1::GenerationResponse* response) {
  return once("CompleteOnce", options_, call, request, response);
}

grpc::ServerUnaryReactor* InferenceService::Tokenize(grpc::CallbackServerContext* call,
                                                     const v1::TokenizeRequest* request,
                                                     v1::TokenizeResponse* response) {
  return answer_once("Tokenize", options_, call, request, response, tokenize);
}

grpc::ServerUnaryReactor* InferenceService::Detokenize(grpc::CallbackServerContext* call,
                                                       const v1::DetokenizeRequest* request,
                                                       v1::DetokenizeResponse* response) {
  return answer_once("Detokenize", options_, call, request, response, detokenize);
}

grpc::ServerUnaryReactor* InferenceService::ListModels(grpc::CallbackServerContext* call,
                                                       const v1::ListModelsRequest* request,
                                                       v1::ListModelsResponse* response) {
  return answer_once("ListModels", options_, call, request, response, list_models);
}

}  // namespace fathom::api
