// Building and ending the gRPC server.
#include "api/grpc_server.h"

#include <absl/synchronization/mutex.h>
#include <grpcpp/ext/proto_server_reflection_plugin.h>
#include <grpcpp/grpcpp.h>
#include <grpcpp/health_check_service_interface.h>
#include <stdlib.h>

#include <chrono>

#include "api/grpc_service.h"

namespace fathom::api {
namespace {

std::shared_ptr<grpc::ServerCredentials> credentials_of(const GrpcServerOptions& options) {
  if (options.certificate.empty()) return grpc::InsecureServerCredentials();
  grpc::SslServerCredentialsOptions ssl(
      options.client_ca.empty() ? GRPC_SSL_DONT_REQUEST_CLIENT_CERTIFICATE
                                : GRPC_SSL_REQUEST_AND_REQUIRE_CLIENT_CERTIFICATE_AND_VERIFY);
  ssl.pem_key_cert_pairs.push_back({options.key, options.certificate});
  ssl.pem_root_certs = options.client_ca;
  return grpc::SslServerCredentials(ssl);
}

std::string address_of(const GrpcServerOptions& options) {
  const bool v6 = options.host.find(':') != std::string::npos;
  return (v6 ? "[" + options.host + "]" : options.host) + ":" + std::to_string(options.port);
}

}  // namespace

class GrpcServer::Impl {
 public:
  explicit Impl(GrpcServerOptions given) : options(std::move(given)), service(options) {}

  GrpcServerOptions options;
  InferenceService service;
  std::unique_ptr<grpc::Server> server;
  int bound_port = 0;
};

Result<std::unique_ptr<GrpcServer>> GrpcServer::start(GrpcServerOptions options) {
  // Debian builds Abseil without NDEBUG: every lock of gRPC would be entered in a graph of all the
  // process, itself under one lock, to find deadlocks.
  absl::SetMutexDeadlockDetectionMode(absl::OnDeadlockCycle::kIgnore);
  grpc::EnableDefaultHealthCheckService(true);
  grpc::reflection::InitProtoReflectionServerBuilderPlugin();
  auto impl = std::make_unique<Impl>(std::move(options));
  const GrpcServerOptions& o = impl->options;
  grpc::ServerBuilder builder;
  builder.AddListeningPort(address_of(o), credentials_of(o), &impl->bound_port);
  builder.RegisterService(&impl->service);
  builder.SetMaxReceiveMessageSize(o.message_bytes_max);
  builder.SetMaxSendMessageSize(-1);
  builder.AddChannelArgument(GRPC_ARG_MAX_METADATA_SIZE, o.metadata_bytes_max);
  builder.AddChannelArgument(GRPC_ARG_MAX_CONCURRENT_STREAMS, o.streams_per_connection_max);
  builder.AddChannelArgument(GRPC_ARG_ALLOW_REUSEPORT, 0);
  builder.AddChannelArgument(GRPC_ARG_HTTP2_MIN_RECV_PING_INTERVAL_WITHOUT_DATA_MS, 30'000);
  builder.AddChannelArgument(GRPC_ARG_KEEPALIVE_PERMIT_WITHOUT_CALLS, 1);
  impl->server = builder.BuildAndStart();
  if (impl->server == nullptr || impl->bound_port == 0) {
    return unavailable("cannot listen for gRPC on " + address_of(o) +
                       ": the address is taken or not ours, or the certificate and key do not fit")
        .about("grpc_port");
  }
  std::unique_ptr<GrpcServer> server(new GrpcServer(std::move(impl)));
  server->set_serving(false);
  return server;
}

GrpcServer::GrpcServer(std::unique_ptr<Impl> impl) : impl_(std::move(impl)) {}

GrpcServer::~GrpcServer() { stop(0); }

uint16_t GrpcServer::port() const { return static_cast<uint16_t>(impl_->bound_port); }

void GrpcServer::set_serving(bool serving) {
  auto* health = impl_->server->GetHealthCheckService();
  health->SetServingStatus(serving);
  health->SetServingStatus(v1::Inference::service_full_name(), serving);
}

void GrpcServer::stop(int64_t bound_ms) {
  if (impl_->server == nullptr) return;
  impl_->server->Shutdown(std::chrono::system_clock::now() + std::chrono::milliseconds(bound_ms));
  impl_->server->Wait();
  impl_->server.reset();
}

void require_tls13_for_grpc() {
  ::setenv("GRPC_SSL_CIPHER_SUITES", "ECDHE-PSK-CHACHA20-POLY1305", 1);
}

}  // namespace fathom::api
