// Rich error details.
#include "api/grpc_status.h"

#include "api/api_error.h"
#include "google/rpc/error_details.pb.h"
#include "google/rpc/status.pb.h"

namespace fathom::api {
namespace {

void add_details(const Status& status, const std::string& request_id, google::rpc::Status& out) {
  const ApiError error = to_api_error(status);
  google::rpc::ErrorInfo info;
  info.set_reason(error.code);
  info.set_domain("fathom");
  out.add_details()->PackFrom(info);
  if (status.code() == Code::kInvalidArgument && !status.subject().empty()) {
    google::rpc::BadRequest bad;
    auto* violation = bad.add_field_violations();
    violation->set_field(status.subject());
    violation->set_description(status.message());
    out.add_details()->PackFrom(bad);
  }
  if (error.retry_after_s) {
    google::rpc::RetryInfo retry;
    retry.mutable_retry_delay()->set_seconds(*error.retry_after_s);
    out.add_details()->PackFrom(retry);
  }
  if (status.code() == Code::kNotFound) {
    google::rpc::ResourceInfo resource;
    resource.set_resource_type(status.subject());
    resource.set_description(status.message());
    out.add_details()->PackFrom(resource);
  }
  if (status.code() == Code::kInternal || status.code() == Code::kDataLoss) {
    google::rpc::RequestInfo request;
    request.set_request_id(request_id);
    out.add_details()->PackFrom(request);
  }
}

}  // namespace

grpc::Status to_grpc_status(const Status& status, const std::string& request_id) {
  if (status.is_ok()) return grpc::Status::OK;
  google::rpc::Status details;
  details.set_code(static_cast<int>(status.code()));
  details.set_message(status.message());
  add_details(status, request_id, details);
  return {static_cast<grpc::StatusCode>(status.code()), status.message(),
          details.SerializeAsString()};
}

}  // namespace fathom::api
