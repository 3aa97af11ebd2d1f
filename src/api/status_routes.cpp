// Models, health, version, metrics.
#include "api/status_routes.h"

#include "api/api_error.h"
#include "api/api_server.h"
#include "api/exchange.h"
#include "api/json_writer.h"
#include "api/response_json.h"
#include "base/version.h"

namespace fathom::api {
namespace {

void send(RouteCall& call, int status, std::string_view content_type, std::string_view body) {
  net::HeaderList headers;
  headers.add("content-type", std::string(content_type));
  headers.add("x-request-id", request_id_of(call.request));
  if (status == 503) headers.add("retry-after", "2");
  count_http(call.server->context(), call.route->path, status);
  call.response->send(status, headers, body);
}

std::string model_object(const ApiContext& context) {
  std::string out = "{\"id\":";
  append_json_string(out, context.model.name);
  out += ",\"object\":\"model\",\"created\":";
  append_json_int(out, context.model.created_unix_s);
  out += ",\"owned_by\":\"fathom\",\"max_model_len\":";
  append_json_int(out, context.model.max_model_len);
  out += ",\"context_length\":";
  append_json_int(out, context.model.max_model_len);
  out += '}';
  return out;
}

}  // namespace

void handle_models(RouteCall call) {
  send(call, 200, kJsonContentType,
       "{\"object\":\"list\",\"data\":[" + model_object(call.server->context()) + "]}");
}

void handle_model(RouteCall call) {
  const ApiContext& context = call.server->context();
  const std::string name = call.request.path.substr(call.request.path.rfind('/') + 1);
  if (name == context.model.name) return send(call, 200, kJsonContentType, model_object(context));
  const Status missing = not_found("The model `" + name + "` does not exist")
                             .about("model")
                             .because("model_not_found");
  send(call, 404, kJsonContentType, error_body(to_api_error(missing)));
}

// The process answers: that is what live means.
void handle_live(RouteCall call) { send(call, 200, kJsonContentType, "{\"status\":\"live\"}"); }

void handle_ready(RouteCall call) {
  const Status ready = call.server->readiness();
  if (ready.is_ok()) return send(call, 200, kJsonContentType, "{\"status\":\"ready\"}");
  std::string body = "{\"status\":";
  append_json_string(body, ready.reason());
  const EngineHealth health = call.server->context().model.engine->health();
  if (health.state == EngineState::kLoading) {
    body += ",\"progress\":";
    append_json_float(body, static_cast<float>(health.load_progress));
  }
  body += '}';
  send(call, 503, kJsonContentType, body);
}

void handle_version(RouteCall call) {
  std::string body = "{\"version\":";
  append_json_string(body, version());
  body += ",\"commit\":";
  append_json_string(body, commit());
  body += '}';
  send(call, 200, kJsonContentType, body);
}

void handle_metrics(RouteCall call) {
  send(call, 200, "text/plain; version=0.0.4; charset=utf-8", call.server->metrics_text());
}

}  // namespace fathom::api
