// The methods of fathom.v1.Inference on gRPC's callback API.
#pragma once

#include <grpcpp/grpcpp.h>

#include <memory>
#include <string>

#include "api/grpc_server.h"
#include "fathom/v1/inference.grpc.pb.h"

namespace fathom::api {

class InferenceService final : public v1::Inference::CallbackService {
 public:
  explicit InferenceService(const GrpcServerOptions& options) : options_(options) {}

  grpc::ServerWriteReactor<v1::GenerationEvent>* Chat(grpc::CallbackServerContext* call,
                                                      const v1::ChatRequest* request) override;
  grpc::ServerWriteReactor<v1::GenerationEvent>* Complete(
      grpc::CallbackServerContext* call, const v1::CompleteRequest* request) override;
  grpc::ServerUnaryReactor* ChatOnce(grpc::CallbackServerContext* call,
                                     const v1::ChatRequest* request,
                                     v1::GenerationResponse* response) override;
  grpc::ServerUnaryReactor* CompleteOnce(grpc::CallbackServerContext* call,
                                         const v1::CompleteRequest* request,
                                         v1::GenerationResponse* response) override;
  grpc::ServerUnaryReactor* Tokenize(grpc::CallbackServerContext* call,
                                     const v1::TokenizeRequest* request,
                                     v1::TokenizeResponse* response) override;
  grpc::ServerUnaryReactor* Detokenize(grpc::CallbackServerContext* call,
                                       const v1::DetokenizeRequest* request,
                                       v1::DetokenizeResponse* response) override;
  grpc::ServerUnaryReactor* ListModels(grpc::CallbackServerContext* call,
                                       const v1::ListModelsRequest* request,
                                       v1::ListModelsResponse* response) override;

 private:
  const GrpcServerOptions& options_;
};

}  // namespace fathom::api
