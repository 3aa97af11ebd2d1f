// One error object for every route (api conventions of OpenAI): HTTP status, type, code, param,
// message.
#pragma once

#include <optional>
#include <string>

#include "fathom/status.h"

namespace fathom::api {

struct ApiError {
  int http_status = 500;
  std::string
      type;  // "invalid_request_error", "rate_limit_error", "permission_error", "server_error"
  std::string code;   // stable word: "invalid_value", "queue_full", ...
  std::string param;  // the field it is about; empty: none
  std::string message;
  std::optional<int> retry_after_s;
};

// The one mapping from Status to what an HTTP client sees.
ApiError to_api_error(const Status& status);

// {"error":{"message":...,"type":...,"param":...,"code":...}}
std::string error_body(const ApiError& error);

}  // namespace fathom::api
