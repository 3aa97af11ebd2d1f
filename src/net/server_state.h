// What the connections of one server share: counters, the drain flag and a listener's settings.
// Written and read by all io threads; outlives every connection.
#pragma once

#include <atomic>
#include <condition_variable>
#include <mutex>

#include "net/http_server.h"

namespace fathom::net {

struct ServerCounters {
  std::atomic<uint64_t> accepted{0};
  std::atomic<uint64_t> refused{0};
  std::atomic<uint64_t> handshakes_failed{0};
  std::atomic<uint64_t> requests{0};
  std::atomic<uint64_t> malformed{0};
  std::atomic<uint64_t> slow_clients{0};
  std::atomic<uint64_t> clients_gone{0};
  std::atomic<uint64_t> socket_writes{0};
  std::atomic<uint64_t> bytes_sent{0};
};

inline void count(std::atomic<uint64_t>& counter, uint64_t by = 1) {
  counter.fetch_add(by, std::memory_order_relaxed);
}

struct ServerState {
  ServerCounters counters;
  std::atomic<bool> draining{false};
  std::atomic<uint64_t> next_connection_id{1};

  // Open connections of all listeners; waiters are told when there are none.
  void connection_opened() {
    std::lock_guard lock(mutex);
    ++open;
  }
  void connection_closed() {
    std::lock_guard lock(mutex);
    if (--open == 0) none_open.notify_all();
  }

  mutable std::mutex mutex;
  std::condition_variable none_open;
  size_t open = 0;  // guarded by mutex
};

// One listener's settings and its own count of connections.
struct ListenerState {
  ListenerConfig config;
  ServerState* server = nullptr;
  std::atomic<size_t> open{0};
  std::atomic<size_t> body_bytes{0};  // of bodies that are being read
};

}  // namespace fathom::net
