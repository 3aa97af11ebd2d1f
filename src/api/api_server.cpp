// Route matching and refusals.
#include "api/api_server.h"

#include "api/api_error.h"
#include "api/exchange.h"
#include "api/response_json.h"

namespace fathom::api {
namespace {

bool path_matches(std::string_view pattern, std::string_view path) {
  if (!pattern.ends_with("/*")) return pattern == path;
  const std::string_view stem = pattern.substr(0, pattern.size() - 1);
  return path.starts_with(stem) && path.size() > stem.size() &&
         path.find('/', stem.size()) == path.npos;
}

net::HttpReply reply_of(const ApiError& error, const std::string& request_id) {
  net::HttpReply reply{error.http_status, {}, error_body(error)};
  reply.headers.add("content-type", std::string(kJsonContentType));
  reply.headers.add("x-request-id", request_id);
  if (error.retry_after_s) reply.headers.add("retry-after", std::to_string(*error.retry_after_s));
  if (error.http_status == 401) reply.headers.add("www-authenticate", "Bearer");
  return reply;
}

Status drains() { return unavailable("the server is draining").because("draining"); }

}  // namespace

ApiServer::Match ApiServer::match(std::string_view method, std::string_view path) const {
  Match found;
  for (const Route& route : options_.routes) {
    if (!path_matches(route.path, path)) continue;
    found.known_path = route.path;
    if (route.method != method && (method != "HEAD" || route.method != "GET")) continue;
    found.route = &route;
    return found;
  }
  return found;
}

net::HttpReply ApiServer::refuse(std::string_view route, const ApiError& error,
                                 const std::string& id) const {
  count_http(context(), route, error.http_status);
  return reply_of(error, id);
}

Result<auth::Identity> ApiServer::check(const net::HttpRequest& request, const Route& route) const {
  return auth::check_access(route.access,
                            {.authorization = request.headers.find("authorization"),
                             .api_key = request.headers.find("x-api-key"),
                             .certificate_verified = request.peer.verified,
                             .certificate_name = request.peer.name},
                            options_.auth);
}

Status readiness_of(const ApiContext& context, const ServerState& state) {
  if (state.leaving.load(std::memory_order_relaxed)) return drains();
  return admission_of(context, state);
}

Status admission_of(const ApiContext& context, const ServerState& state) {
  if (state.draining.load(std::memory_order_relaxed)) return drains();
  const EngineHealth health = context.model.engine->health();
  switch (health.state) {
    case EngineState::kReady: break;
    case EngineState::kStarting:
    case EngineState::kLoading: return unavailable("the model is loading").because("model_loading");
    case EngineState::kDraining:
    case EngineState::kStopped: return drains();
    case EngineState::kFailed: return unavailable("the engine has failed").because("engine_failed");
  }
  if (context.clock->now_us() - health.last_progress_us > state.ready_bound_us) {
    return unavailable("the engine makes no progress").because("engine_stalled");
  }
  return Status::ok();
}

std::optional<net::HttpReply> ApiServer::on_headers(const net::HttpRequest& request) {
  const std::string id = request_id_of(request);
  const auto [route, known_path] = match(request.method, request.path);
  if (route == nullptr) {
    const std::string what = request.method + " " + request.path;
    const char* type = "invalid_request_error";
    if (!known_path.empty()) {
      return refuse(known_path,
                    {405, type, "method_not_allowed", "", "Method not allowed: " + what, {}}, id);
    }
    return refuse(kNoRoute, {404, type, "unknown_url", "", "Unknown request URL: " + what, {}}, id);
  }
  const auto identity = check(request, *route);
  if (!identity.is_ok()) {
    const std::string reason = identity.status().reason();
    options_.context->metrics->counter(CounterId::kAuthFailures, {reason}).add();
    return refuse(route->path, to_api_error(identity.status()), id);
  }
  if (!route->needs_engine) return std::nullopt;
  const Status admitted = admission_of(context(), state());
  if (!admitted.is_ok()) return refuse(route->path, to_api_error(admitted), id);
  return std::nullopt;
}

void ApiServer::on_request(net::HttpRequest request,
                           std::shared_ptr<net::ResponseWriter> response) {
  const Route* route = match(request.method, request.path).route;
  FATHOM_CHECK(route != nullptr, "a request without a route passed on_headers");
  auto identity = check(request, *route);
  if (!identity.is_ok()) {
    const net::HttpReply reply =
        refuse(route->path, to_api_error(identity.status()), request_id_of(request));
    response->send(reply.status, reply.headers, reply.body);
    return;
  }
  route->handler(
      {this, route, std::move(request), std::move(identity).value(), std::move(response)});
}

net::HttpReply ApiServer::on_error(int status, std::string_view code, std::string_view message) {
  const char* type = status >= 500 ? "server_error" : "invalid_request_error";
  return refuse(kNoRoute, {status, type, std::string(code), "", std::string(message), {}},
                make_id("req-"));
}

}  // namespace fathom::api
