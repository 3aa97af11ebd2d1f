// GET /openapi.json: OpenAPI 3.1 of the data listener, paths from the route table.
#include "api/api_server.h"
#include "api/exchange.h"
#include "api/field_ranges.h"
#include "api/response_json.h"
#include "api/status_routes.h"
#include "base/json.h"
#include "base/version.h"

namespace fathom::api {
namespace {

Json number(FieldRange range) {
  return {{"type", "number"}, {"minimum", range.low}, {"maximum", range.high}};
}
Json integer(int64_t low) { return {{"type", "integer"}, {"minimum", low}}; }
Json boolean() { return {{"type", "boolean"}}; }
Json string() { return {{"type", "string"}}; }
Json array_of(Json items) { return {{"type", "array"}, {"items", std::move(items)}}; }
Json ref(const char* name) { return {{"$ref", std::string("#/components/schemas/") + name}}; }

Json common_properties(const ApiLimits& limits) {
  Json p = Json::object();
  p["model"] = string();
  p["temperature"] = number(kTemperatureRange);
  p["top_p"] = number(kProbabilityRange);
  p["top_k"] = integer(-1);
  p["min_p"] = number(kProbabilityRange);
  p["presence_penalty"] = number(kPenaltyRange);
  p["frequency_penalty"] = number(kPenaltyRange);
  p["repetition_penalty"] = number(kRepetitionRange);
  p["seed"] = {{"type", "integer"}};
  p["n"] = {{"type", "integer"}, {"minimum", 1}, {"maximum", limits.choices_max}};
  p["max_tokens"] = integer(0);
  p["min_tokens"] = integer(0);
  p["ignore_eos"] = boolean();
  p["stop"] = {{"oneOf", Json::array({string(), array_of(string())})}};
  p["stop_token_ids"] = array_of(integer(0));
  p["logit_bias"] = {{"type", "object"}, {"additionalProperties", number(kBiasRange)}};
  p["stream"] = boolean();
  p["stream_options"] = {{"type", "object"}, {"properties", {{"include_usage", boolean()}}}};
  p["return_token_ids"] = boolean();
  p["include_stop_str_in_output"] = boolean();
  p["skip_special_tokens"] = boolean();
  p["cache_salt"] = string();
  p["priority"] = {{"type", "integer"}};
  p["timeout_ms"] = integer(1);
  p["timeout_ms"]["maximum"] = limits.request_deadline_ms;
  return p;
}

Json chat_request(const ApiLimits& limits) {
  Json p = common_properties(limits);
  const Json role = {{"type", "string"}, {"enum", {"system", "developer", "user", "assistant"}}};
  const Json content = {
      {"oneOf", Json::array({string(), array_of({{"type", "object"}}), {{"type", "null"}}})}};
  p["messages"] = array_of(
      {{"type", "object"},
       {"required", {"role"}},
       {"properties", {{"role", role}, {"content", content}, {"reasoning_content", string()}}}});
  p["max_completion_tokens"] = integer(1);
  p["logprobs"] = boolean();
  p["top_logprobs"] = {{"type", "integer"}, {"minimum", 0}, {"maximum", limits.logprobs_max}};
  p["thinking"] = {{"type", "object"},
                   {"properties", {{"type", {{"enum", {"enabled", "disabled"}}}}}}};
  p["continue_final_message"] = boolean();
  return {{"type", "object"}, {"required", {"messages"}}, {"properties", std::move(p)}};
}

Json completion_request(const ApiLimits& limits) {
  Json p = common_properties(limits);
  const Json ids = array_of(integer(0));
  p["prompt"] = {{"oneOf", Json::array({string(), array_of(string()), ids, array_of(ids)})}};
  p["echo"] = boolean();
  p["logprobs"] = {{"type", "integer"}, {"minimum", 0}, {"maximum", limits.logprobs_max}};
  return {{"type", "object"}, {"required", {"prompt"}}, {"properties", std::move(p)}};
}

Json schemas(const ApiLimits& limits) {
  Json s = Json::object();
  s["ChatCompletionRequest"] = chat_request(limits);
  s["CompletionRequest"] = completion_request(limits);
  s["TokenizeRequest"] = {{"type", "object"},
                          {"properties",
                           {{"model", string()},
                            {"prompt", string()},
                            {"messages", array_of({{"type", "object"}})},
                            {"add_special_tokens", boolean()}}}};
  s["DetokenizeRequest"] = {
      {"type", "object"},
      {"required", {"tokens"}},
      {"properties", {{"model", string()}, {"tokens", array_of(integer(0))}}}};
  const Json nullable = {{"type", {"string", "null"}}};
  const Json error = {
      {"type", "object"},
      {"required", {"message", "type", "param", "code"}},
      {"properties",
       {{"message", string()}, {"type", string()}, {"param", nullable}, {"code", nullable}}}};
  s["Error"] = {{"type", "object"}, {"required", {"error"}}, {"properties", {{"error", error}}}};
  return s;
}

const char* body_schema(std::string_view path) {
  if (path.ends_with("chat/completions")) return "ChatCompletionRequest";
  if (path.ends_with("/completions")) return "CompletionRequest";
  return path == "/tokenize" ? "TokenizeRequest" : "DetokenizeRequest";
}

Json operation(const Route& route) {
  Json op = Json::object();
  op["summary"] = std::string(route.summary);
  if (route.path.ends_with("/*")) {
    op["parameters"] =
        Json::array({{{"name", "name"}, {"in", "path"}, {"required", true}, {"schema", string()}}});
  }
  if (route.method == "POST") {
    op["requestBody"] = {
        {"required", true},
        {"content", {{"application/json", {{"schema", ref(body_schema(route.path))}}}}}};
  }
  const Json failure = {{"description", "An error"},
                        {"content", {{"application/json", {{"schema", ref("Error")}}}}}};
  op["responses"] = {{"200", {{"description", "The answer"}}}, {"default", failure}};
  return op;
}

}  // namespace

void handle_openapi(RouteCall call) {
  const ApiContext& context = call.server->context();
  Json document = Json::object();
  document["openapi"] = "3.1.0";
  document["info"] = {{"title", "Fathom"}, {"version", std::string(version())}};
  document["paths"] = Json::object();
  for (const Route& route : call.server->routes()) {
    std::string path(route.path);
    if (path.ends_with("/*")) path.replace(path.size() - 1, 1, "{name}");
    const bool get = route.method == "GET";
    document["paths"][path][get ? "get" : "post"] = operation(route);
  }
  document["components"] = {{"schemas", schemas(context.limits)}};
  HttpExchange exchange(call);
  exchange.send_json(200, document.dump());
  exchange.log(200, nullptr);
}

}  // namespace fathom::api
