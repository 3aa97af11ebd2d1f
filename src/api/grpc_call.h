// Protobuf requests to calls: the same checks and the same names of fields as the JSON parsers'.
#pragma once

#include "api/calls.h"
#include "api/limits.h"
#include "api/served_model.h"
#include "fathom/status.h"
#include "fathom/v1/inference.pb.h"

namespace fathom::api {

Result<ChatCall> read_chat_request(const v1::ChatRequest& request, const ApiLimits& limits,
                                   const SamplingDefaults& defaults);
Result<CompletionCall> read_complete_request(const v1::CompleteRequest& request,
                                             const ApiLimits& limits,
                                             const SamplingDefaults& defaults);

}  // namespace fathom::api
