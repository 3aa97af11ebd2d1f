// Named threads and the eventfd that wakes one.
#pragma once

#include <cstdint>
#include <functional>
#include <optional>
#include <stop_token>
#include <string>
#include <thread>

#include "base/file.h"
#include "fathom/status.h"

namespace fathom {

// Names the calling thread as `top -H` and a core show it (15 characters are kept).
void set_thread_name(const std::string& name);

// A joining thread that bears `name`; its destructor requests a stop and waits.
std::jthread start_thread(std::string name, std::function<void(std::stop_token)> run);

// A counter that wakes a waiter: any thread notifies, one thread waits, or polls fd() beside other
// descriptors.
class EventFd {
 public:
  static Result<EventFd> make();

  int fd() const { return fd_.get(); }
  // Never blocks; safe in a signal handler.
  void notify() const;
  // Takes all notifications given so far; false when there were none. Never blocks.
  bool consume() const;
  // Waits until notified (true, and consumed) or `timeout_us` has gone by (false); no timeout waits
  // for ever.
  bool wait(std::optional<int64_t> timeout_us = std::nullopt) const;

 private:
  explicit EventFd(UniqueFd fd) : fd_(std::move(fd)) {}
  UniqueFd fd_;
};

}  // namespace fathom
