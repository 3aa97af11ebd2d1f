// The route table: for each handler its method, path and who may call it. Authorization looks at
// the matched entry, never at the URL string. One table per listener role.
#pragma once

#include <memory>
#include <span>
#include <string_view>

#include "api/served_model.h"
#include "auth/identity.h"
#include "auth/route_policy.h"
#include "net/http_message.h"
#include "net/response_writer.h"

namespace fathom::api {

class ApiServer;
struct Route;

// One request on its way to a handler.
struct RouteCall {
  const ApiServer* server = nullptr;
  const Route* route = nullptr;  // the entry that matched
  net::HttpRequest request;
  auth::Identity identity;
  std::shared_ptr<net::ResponseWriter> response;
};

// Runs on an io thread: it answers at once or posts to the work pool.
using RouteHandler = void (*)(RouteCall call);

struct Route {
  std::string_view method;
  std::string_view path;  // exact, or with a last segment "*" that matches one segment
  auth::Access access;
  bool needs_engine;  // refused with 503 before the body is read while the engine is loading or
                      // draining
  RouteHandler handler;
  std::string_view summary;  // one line of /openapi.json
};

std::span<const Route> data_routes();
std::span<const Route> admin_routes();
std::span<const Route> metrics_routes();

}  // namespace fathom::api
