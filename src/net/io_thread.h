// One io thread: its reactor, its connections, and the list of those with something to send. Owned
// by the HttpServer.
#pragma once

#include <array>
#include <memory>
#include <mutex>
#include <span>
#include <thread>
#include <vector>

#include "net/connection.h"
#include "net/reactor.h"
#include "net/socket_calls.h"

namespace fathom::net {

class Acceptor;

class IoThread {
 public:
  IoThread(ServerState& server, uint32_t tick_ms);
  ~IoThread();

  void start(const std::string& name);

  // Any thread.
  void post(std::function<void()> task) { reactor_.post(std::move(task)); }
  // Takes over an accepted socket.
  void adopt(ListenerState& listener, Accepted accepted);
  // Has flush_queued() called soon. Many calls cost one wake-up.
  void schedule(std::shared_ptr<Connection> connection);
  // Cuts every connection, lets the loop run out and joins the thread. Not on the thread itself.
  void stop();

  // The thread itself.
  Reactor& reactor() { return reactor_; }
  std::span<char> scratch() { return scratch_; }
  int64_t now_ms() const { return now_ms_; }  // a clock as coarse as the tick
  void remove(Connection& connection);
  void drain();
  void add_acceptor(std::shared_ptr<Acceptor> acceptor);
  void close_acceptors();
  void ensure_tick();

 private:
  void on_tick();
  void flush_scheduled();
  void open_connection(ListenerState& listener, Accepted accepted);

  ServerState& server_;
  const uint32_t tick_ms_;
  int64_t now_ms_ = 0;
  bool tick_armed_ = false;
  bool stopping_ = false;
  std::array<char, 64 * 1024> scratch_;
  std::vector<std::shared_ptr<Connection>> connections_;
  std::vector<std::shared_ptr<Acceptor>> acceptors_;

  std::mutex scheduled_mutex_;
  std::vector<std::shared_ptr<Connection>> scheduled_;  // guarded by scheduled_mutex_
  std::vector<std::shared_ptr<Connection>> flushing_;   // kept for its capacity

  Reactor reactor_;
  std::thread thread_;
};

}  // namespace fathom::net
