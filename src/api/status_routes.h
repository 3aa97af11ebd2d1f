// Handlers that answer at once on the io thread: models, health, version, metrics, /openapi.json.
#pragma once

#include "api/routes.h"

namespace fathom::api {

void handle_models(RouteCall call);
void handle_model(RouteCall call);
void handle_live(RouteCall call);
void handle_ready(RouteCall call);
void handle_version(RouteCall call);
void handle_metrics(RouteCall call);
void handle_openapi(RouteCall call);

}  // namespace fathom::api
