// One event loop: readiness of descriptors, tasks from other threads, a coarse tick. Hides
// Boost.Asio, which only reactor.cpp and asio_impl.cpp include. A Reactor runs on one thread, its
// owner's; only post() may be called elsewhere.
#pragma once

#include <cstdint>
#include <functional>
#include <memory>

#include "fathom/status.h"

namespace fathom::net {

// Told that its descriptor is ready. An armed direction reports once and must be armed again.
class ReadinessSink {
 public:
  virtual ~ReadinessSink() = default;
  virtual void on_readable() = 0;
  virtual void on_writable() = 0;
};

class Reactor {
 public:
  // `on_tick` runs once for each arm_tick.
  explicit Reactor(std::function<void()> on_tick);
  ~Reactor();
  Reactor(const Reactor&) = delete;
  Reactor& operator=(const Reactor&) = delete;

  // Serves events until release() was called and every descriptor is closed.
  void run();
  void release();
  void arm_tick(uint32_t delay_ms);

  // Any thread: runs `task` on the loop's thread, in order.
  void post(std::function<void()> task);

 private:
  friend class Watch;
  struct Impl;
  std::unique_ptr<Impl> impl_;
};

// A non-blocking descriptor, owned, and its place in a reactor. On the reactor's thread only.
// While a direction is armed the reactor holds its sink.
class Watch {
 public:
  static Result<Watch> adopt(Reactor& reactor, int descriptor);
  Watch(Watch&&) noexcept;
  Watch& operator=(Watch&&) noexcept;
  ~Watch();  // close()

  int descriptor() const { return descriptor_; }
  void arm_read(std::shared_ptr<ReadinessSink> sink);
  void arm_write(std::shared_ptr<ReadinessSink> sink);
  // Closes the descriptor; sinks are let go without a call.
  void close();

 private:
  struct Impl;
  explicit Watch(std::unique_ptr<Impl> impl);
  std::unique_ptr<Impl> impl_;
  int descriptor_ = -1;
};

}  // namespace fathom::net
