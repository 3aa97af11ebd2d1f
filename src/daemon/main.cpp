// fathomd: the front end, or with --engine (started by the front end, never by hand) the engine of
// one model.
#include <cstdio>
#include <string_view>

#include "api/grpc_server.h"
#include "config/config.h"
#include "daemon/daemon.h"
#include "engine/engine_process.h"

extern char** environ;

namespace {

constexpr int kEngineSocket = 3;
constexpr int kExitUnavailable = 69;  // EX_UNAVAILABLE of sysexits.h

}  // namespace

int main(int argc, char** argv) {
  if (argc > 1 && std::string_view(argv[1]) == "--engine")
    return fathom::engine_main(kEngineSocket);

  auto launch = fathom::load_config(argc, argv, environ);
  if (!launch.is_ok()) {
    std::fprintf(stderr, "fathomd: %s\n", launch.status().message().c_str());
    return fathom::kExitConfig;
  }
  if (launch->print) {
    std::fputs(launch->print->c_str(), stdout);
    return 0;
  }
  fathom::api::require_tls13_for_grpc();
  auto daemon = fathom::Daemon::start(launch->config);
  if (!daemon.is_ok()) {
    std::fprintf(stderr, "fathomd: %s\n", daemon.status().message().c_str());
    const bool bad_setting = daemon.status().code() == fathom::Code::kInvalidArgument ||
                             daemon.status().code() == fathom::Code::kNotFound;
    return bad_setting ? fathom::kExitConfig : kExitUnavailable;
  }
  return (*daemon)->run();
}
