// What the service manager is told: READY, STATUS with load progress, WATCHDOG, STOPPING. Silent
// when there is none. Called by the daemon's main thread.
#pragma once

#include <cstdint>
#include <string>

#include "fathom/engine.h"

namespace fathom {

class ServiceNotify {
 public:
  ServiceNotify();

  // Sends READY=1 once, STATUS= when it changed, and WATCHDOG=1 while `alive`.
  void update(const EngineHealth& health, bool alive);
  void stopping();
  // The manager's watchdog interval halved, or none.
  int64_t watchdog_interval_us() const { return watchdog_interval_us_; }

 private:
  void send(const std::string& message);

  int64_t watchdog_interval_us_ = 0;
  bool ready_sent_ = false;
  std::string status_;
};

}  // namespace fathom
