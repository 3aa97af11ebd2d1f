// The bounds of a request that an engine relies on. The front end has checked its client's fields;
// this is checked again wherever a request enters an engine.
#pragma once

#include "fathom/engine.h"
#include "fathom/request.h"
#include "fathom/status.h"

namespace fathom {

// Names the field. kInvalidArgument with reason "context_length_exceeded" when the prompt leaves no
// room for an answer.
Status check_request(const Request& request, const EngineInfo& info);

}  // namespace fathom
