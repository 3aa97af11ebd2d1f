// A listening socket: accepts and hands connections to the io threads in turn. Lives on one io
// thread.
#pragma once

#include <memory>
#include <vector>

#include "net/reactor.h"
#include "net/server_state.h"

namespace fathom::net {

class IoThread;

class Acceptor final : public ReadinessSink, public std::enable_shared_from_this<Acceptor> {
 public:
  Acceptor(IoThread& home, std::vector<IoThread*> targets, ListenerState& listener, Watch watch);

  void start() { arm(); }
  void on_readable() override;
  void on_writable() override {}
  // True while descriptors or memory have run out and accepting waits for the next tick.
  bool paused() const { return paused_; }
  void resume();
  void close();

 private:
  void arm();
  void refuse(int descriptor);

  IoThread& home_;
  const std::vector<IoThread*> targets_;
  ListenerState& listener_;
  Watch watch_;
  size_t next_target_ = 0;
  bool paused_ = false;
  bool closed_ = false;
};

}  // namespace fathom::net
