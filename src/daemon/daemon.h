// Daemon: builds the house in order, runs until a signal, drains, and tears it down in reverse.
// Main thread.
#pragma once

#include <memory>

#include "config/config.h"
#include "fathom/status.h"

namespace fathom {

class Daemon {
 public:
  // Binds every listener and starts the engine; returns before the model is loaded.
  static Result<std::unique_ptr<Daemon>> start(const Config& config);
  ~Daemon();

  // Serves until SIGTERM or SIGINT, then drains. The exit code.
  int run();

 private:
  class Impl;
  explicit Daemon(std::unique_ptr<Impl> impl);
  std::unique_ptr<Impl> impl_;
};

}  // namespace fathom
