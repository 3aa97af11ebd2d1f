// Status to grpc::Status with google.rpc details in grpc-status-details-bin.
#pragma once

#include <grpcpp/support/status.h>

#include <string>

#include "fathom/status.h"

namespace fathom::api {

// kUnimplemented of a field stays UNIMPLEMENTED; wrong fields carry BadRequest, busy servers
// RetryInfo, a missing model ResourceInfo, internal errors RequestInfo; every error ErrorInfo with
// the stable reason.
grpc::Status to_grpc_status(const Status& status, const std::string& request_id);

}  // namespace fathom::api
