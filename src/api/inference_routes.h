// Handlers of the inference routes; listed in routes.cpp.
#pragma once

#include "api/routes.h"

namespace fathom::api {

void handle_chat_completions(RouteCall call);
void handle_completions(RouteCall call);
void handle_tokenize(RouteCall call);
void handle_detokenize(RouteCall call);

}  // namespace fathom::api
