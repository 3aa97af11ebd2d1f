// ApiServer: the HttpHandler of one listener. Matches the route, authorizes its entry, refuses
// early what cannot be served, and hands the rest to the route's handler. Called on io threads;
// immutable after construction but for drain.
#pragma once

#include <atomic>
#include <functional>
#include <memory>
#include <span>
#include <string>

#include "api/api_error.h"
#include "api/routes.h"
#include "api/served_model.h"
#include "auth/route_policy.h"
#include "net/http_server.h"

namespace fathom::api {

// What the front end says of itself on the health routes and /metrics.
struct ServerState {
  std::atomic<bool> leaving{false};    // not ready, so that load balancers look elsewhere
  std::atomic<bool> draining{false};   // new requests are refused
  int64_t ready_bound_us = 3'000'000;  // the step loop must have moved within this time
};

// Ok while a new request can be served: the engine is loaded and proves progress, and the server
// does not drain.
Status admission_of(const ApiContext& context, const ServerState& state);
// What the health routes say: the same, and the server is not about to drain.
Status readiness_of(const ApiContext& context, const ServerState& state);

struct ApiServerOptions {
  const ApiContext* context = nullptr;
  const ServerState* state = nullptr;
  auth::AuthConfig auth;
  std::span<const Route> routes;
  std::function<std::string()> metrics_text;  // body of /metrics
};

class ApiServer final : public net::HttpHandler {
 public:
  explicit ApiServer(ApiServerOptions options) : options_(std::move(options)) {}

  std::optional<net::HttpReply> on_headers(const net::HttpRequest& request) override;
  void on_request(net::HttpRequest request, std::shared_ptr<net::ResponseWriter> response) override;
  net::HttpReply on_error(int status, std::string_view code, std::string_view message) override;

  const ApiContext& context() const { return *options_.context; }
  const ServerState& state() const { return *options_.state; }
  std::span<const Route> routes() const { return options_.routes; }
  std::string metrics_text() const { return options_.metrics_text(); }

  Status readiness() const { return readiness_of(context(), state()); }

 private:
  struct Match {
    const Route* route = nullptr;
    std::string_view known_path;  // of a route that takes other methods
  };
  Match match(std::string_view method, std::string_view path) const;
  net::HttpReply refuse(std::string_view route, const ApiError& error, const std::string& id) const;
  Result<auth::Identity> check(const net::HttpRequest& request, const Route& route) const;

  ApiServerOptions options_;
};

}  // namespace fathom::api
