// FrontServer: fathomd's front end put together from its libraries, over a simulated engine in this
// process: the HTTP, HTTPS (client certificates required) and gRPC listeners of the daemon, its
// work pool, the demo model's tokenizer. Made and ended by the benchmark's main thread.
#pragma once

#include <cstdint>
#include <memory>
#include <optional>
#include <string>

#include "fathom/status.h"
#include "token_gate.h"

namespace fathom::bench {

struct FrontServerOptions {
  std::string model_dir;
  std::string certificate_file;
  std::string key_file;
  std::string client_ca_file;
  int32_t streams = 256;
  int32_t tokens_per_stream_max = 1024;
  std::optional<uint64_t> unread_max;  // as PacedExecutor's
};

struct FrontCounts {
  uint64_t socket_writes = 0;  // of HTTP and HTTPS
  uint64_t bytes_sent = 0;
  uint64_t steps = 0;
  double sim_cpu_s = 0.0;     // of the simulated executor, on the engine's thread
  double engine_cpu_s = 0.0;  // of all of the engine's thread
};

class FrontServer {
 public:
  static Result<std::unique_ptr<FrontServer>> start(const FrontServerOptions& options,
                                                    TokenGate& gate);
  ~FrontServer();

  uint16_t http_port() const;
  uint16_t https_port() const;
  uint16_t grpc_port() const;
  FrontCounts counts() const;

 private:
  class Impl;
  explicit FrontServer(std::unique_ptr<Impl> impl);
  std::unique_ptr<Impl> impl_;
};

}  // namespace fathom::bench
