// GrpcServer: the gRPC listener: fathom.v1.Inference, grpc.health.v1 and reflection. Made and
// stopped by the daemon's main thread; its handlers hop to the work pool at once.
#pragma once

#include <cstdint>
#include <memory>
#include <string>

#include "api/api_server.h"
#include "api/served_model.h"
#include "auth/route_policy.h"
#include "fathom/status.h"

namespace fathom::api {

struct GrpcServerOptions {
  const ApiContext* context = nullptr;
  const ServerState* state = nullptr;
  auth::AuthConfig auth;
  std::string host = "127.0.0.1";
  uint16_t port = 0;  // 0: the kernel picks one; port() says which
  // PEM contents; empty certificate: plaintext.
  std::string certificate;
  std::string key;
  std::string client_ca;  // not empty: client certificates are required
  int32_t message_bytes_max = 32 << 20;
  int32_t metadata_bytes_max = 16 << 10;
  int32_t streams_per_connection_max = 256;
  size_t queued_events_max = 4096;  // of one stream that its client does not read
};

class GrpcServer {
 public:
  // Binds and serves. Errors name the address.
  static Result<std::unique_ptr<GrpcServer>> start(GrpcServerOptions options);
  ~GrpcServer();

  uint16_t port() const;
  // What grpc.health.v1 says for "" and for fathom.v1.Inference.
  void set_serving(bool serving);
  // New calls are refused, running ones end or are cancelled at the bound.
  void stop(int64_t bound_ms);

 private:
  class Impl;
  explicit GrpcServer(std::unique_ptr<Impl> impl);
  std::unique_ptr<Impl> impl_;
};

// gRPC 1.51 has no public way to say TLS 1.3 only: it reads this from the environment when it
// starts. Call before any gRPC object or thread exists (main).
void require_tls13_for_grpc();

}  // namespace fathom::api
