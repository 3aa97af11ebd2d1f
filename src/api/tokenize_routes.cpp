// POST /tokenize and /detokenize, in the form that vLLM's clients send.
#include <utility>

#include "api/api_server.h"
#include "api/exchange.h"
#include "api/inference_routes.h"
#include "api/json_fields.h"
#include "api/json_writer.h"
#include "api/parse_call.h"
#include "api/prepare.h"
#include "api/response_json.h"

namespace fathom::api {
namespace {

// {"prompt": text} or {"messages": [...]}; add_special_tokens false leaves BOS out of a text.
Result<std::vector<TokenId>> tokens_of(const ApiContext& context, const Json& body) {
  FieldReader fields(body, "");
  CommonCall common;
  fields.string("model", 256, common.model);
  bool add_special = true;
  fields.boolean("add_special_tokens", add_special);
  if (!fields.ok()) return fields.status();
  FATHOM_RETURN_IF_ERROR(check_model(context, common.model));
  if (fields.find("messages") != nullptr) {
    FATHOM_ASSIGN(ChatCall call, parse_chat_call(body, context.limits, context.model.defaults));
    text::OutputStart start = text::OutputStart::kContent;
    return encode_chat(context, call, &start);
  }
  std::string prompt;
  fields.string("prompt", context.limits.body_bytes_max, prompt);
  if (!fields.ok()) return fields.status();
  if (fields.find("prompt") == nullptr) {
    return invalid_argument("prompt or messages is required")
        .about("prompt")
        .because("missing_required_parameter");
  }
  if (add_special) return encode_text(context, prompt, "prompt");
  return context.model.tokenizer->encode(prompt, {});
}

Result<std::string> tokenize(const ApiContext& context, const Json& body) {
  FATHOM_ASSIGN(const std::vector<TokenId> ids, tokens_of(context, body));
  std::string out = "{\"count\":";
  append_json_int(out, static_cast<int64_t>(ids.size()));
  out += ",\"max_model_len\":";
  append_json_int(out, context.model.max_model_len);
  out += ",\"tokens\":";
  append_token_ids(out, ids);
  out += '}';
  return out;
}

Result<std::string> detokenize(const ApiContext& context, const Json& body) {
  FieldReader fields(body, "");
  std::string model;
  fields.string("model", 256, model);
  bool skip_special = false;
  fields.boolean("skip_special_tokens", skip_special);
  const Json* tokens = fields.find("tokens");
  if (!fields.ok()) return fields.status();
  FATHOM_RETURN_IF_ERROR(check_model(context, model));
  if (tokens == nullptr) {
    return invalid_argument("tokens is required")
        .about("tokens")
        .because("missing_required_parameter");
  }
  FATHOM_ASSIGN(const std::vector<TokenId> ids, parse_token_ids(*tokens, "tokens"));
  FATHOM_RETURN_IF_ERROR(check_ids(context, ids, "tokens"));
  std::string out = "{\"prompt\":";
  append_json_string(out, context.model.tokenizer->decode(ids, skip_special));
  out += '}';
  return out;
}

using Answer = Result<std::string> (*)(const ApiContext&, const Json&);

void post(RouteCall call, Answer answer) {
  const ApiContext& context = call.server->context();
  auto shared = std::make_shared<RouteCall>(std::move(call));
  context.pool->post([shared, answer] {
    const ApiContext& context = shared->server->context();
    HttpExchange exchange(*shared);
    auto body = parse_body(shared->request.body, context.limits);
    if (!body.is_ok()) return exchange.send_error(body.status());
    auto text = answer(context, *body);
    if (!text.is_ok()) return exchange.send_error(text.status());
    exchange.send_json(200, *text);
    exchange.log(200, nullptr);
  });
}

}  // namespace

void handle_tokenize(RouteCall call) { post(std::move(call), tokenize); }

void handle_detokenize(RouteCall call) { post(std::move(call), detokenize); }

}  // namespace fathom::api
