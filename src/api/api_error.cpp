// The table behind to_api_error.
#include "api/api_error.h"

#include "api/json_writer.h"

namespace fathom::api {
namespace {

struct Row {
  Code code;
  int http_status;
  const char* type;
  const char* default_code;
  int retry_after_s;  // 0: none
};

constexpr Row kRows[] = {
    {Code::kInvalidArgument, 400, "invalid_request_error", "invalid_value", 0},
    {Code::kOutOfRange, 400, "invalid_request_error", "invalid_value", 0},
    {Code::kUnimplemented, 400, "invalid_request_error", "unsupported_parameter", 0},
    {Code::kFailedPrecondition, 400, "invalid_request_error", "failed_precondition", 0},
    {Code::kUnauthenticated, 401, "invalid_request_error", "invalid_api_key", 0},
    {Code::kPermissionDenied, 403, "permission_error", "client_not_allowed", 0},
    {Code::kNotFound, 404, "invalid_request_error", "not_found", 0},
    {Code::kAlreadyExists, 409, "invalid_request_error", "already_exists", 0},
    {Code::kResourceExhausted, 429, "rate_limit_error", "queue_full", 1},
    {Code::kCancelled, 499, "server_error", "cancelled", 0},
    {Code::kUnavailable, 503, "server_error", "overloaded", 2},
    {Code::kDeadlineExceeded, 504, "server_error", "deadline_exceeded", 0},
    {Code::kDataLoss, 500, "server_error", "internal_error", 0},
    {Code::kInternal, 500, "server_error", "internal_error", 0},
};

}  // namespace

ApiError to_api_error(const Status& status) {
  for (const Row& row : kRows) {
    if (row.code != status.code()) continue;
    ApiError error{row.http_status,  row.type,         row.default_code,
                   status.subject(), status.message(), {}};
    if (!status.reason().empty()) error.code = status.reason();
    if (row.retry_after_s > 0) error.retry_after_s = row.retry_after_s;
    return error;
  }
  return {500, "server_error", "internal_error", "", status.message(), {}};
}

std::string error_body(const ApiError& error) {
  std::string out = "{\"error\":{\"message\":";
  append_json_string(out, error.message);
  out += ",\"type\":";
  append_json_string(out, error.type);
  out += ",\"param\":";
  if (error.param.empty()) {
    out += "null";
  } else {
    append_json_string(out, error.param);
  }
  out += ",\"code\":";
  append_json_string(out, error.code);
  out += "}}";
  return out;
}

}  // namespace fathom::api
