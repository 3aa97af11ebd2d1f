// sd_notify, through libsystemd.
#include "daemon/service_notify.h"

#include <systemd/sd-daemon.h>

namespace fathom {
namespace {

std::string describe(const EngineHealth& health) {
  switch (health.state) {
    case EngineState::kStarting: return "starting the engine";
    case EngineState::kLoading:
      return "loading " + std::to_string(static_cast<int>(health.load_progress * 100)) + " %";
    case EngineState::kReady: return "serving";
    case EngineState::kDraining: return "draining";
    case EngineState::kStopped: return "stopped";
    case EngineState::kFailed: return "the engine has failed: " + health.status.message();
  }
  return "";
}

}  // namespace

ServiceNotify::ServiceNotify() {
  uint64_t interval_us = 0;
  if (sd_watchdog_enabled(0, &interval_us) > 0)
    watchdog_interval_us_ = static_cast<int64_t>(interval_us / 2);
}

void ServiceNotify::update(const EngineHealth& health, bool alive) {
  std::string message;
  if (health.state == EngineState::kReady && !ready_sent_) {
    ready_sent_ = true;
    message += "READY=1\n";
  }
  std::string status = describe(health);
  if (status != status_) {
    status_ = std::move(status);
    message += "STATUS=" + status_ + "\n";
    if (health.state == EngineState::kLoading) message += "EXTEND_TIMEOUT_USEC=60000000\n";
  }
  if (alive && watchdog_interval_us_ > 0) message += "WATCHDOG=1\n";
  if (!message.empty()) send(message);
}

void ServiceNotify::stopping() { send("STOPPING=1\nSTATUS=draining\n"); }

void ServiceNotify::send(const std::string& message) { sd_notify(0, message.c_str()); }

}  // namespace fathom
