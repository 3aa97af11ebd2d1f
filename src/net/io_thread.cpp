// See io_thread.h.
#include "net/io_thread.h"

#include <chrono>
#include <utility>

#include "base/thread.h"
#include "net/acceptor.h"

namespace fathom::net {

namespace {

int64_t steady_ms() {
  return std::chrono::duration_cast<std::chrono::milliseconds>(
             std::chrono::steady_clock::now().time_since_epoch())
      .count();
}

}  // namespace

IoThread::IoThread(ServerState& server, uint32_t tick_ms)
    : server_(server), tick_ms_(tick_ms), now_ms_(steady_ms()), reactor_([this] { on_tick(); }) {}

IoThread::~IoThread() { stop(); }

void IoThread::start(const std::string& name) {
  thread_ = std::thread([this, name] {
    set_thread_name(name);
    reactor_.run();
  });
}

void IoThread::adopt(ListenerState& listener, Accepted accepted) {
  post([this, &listener, accepted = std::move(accepted)]() mutable {
    open_connection(listener, std::move(accepted));
  });
}

void IoThread::open_connection(ListenerState& listener, Accepted accepted) {
  tune_connection(accepted.descriptor, listener.config.limits.socket_send_buffer_bytes);
  auto watch = Watch::adopt(reactor_, accepted.descriptor);
  std::unique_ptr<Transport> transport;
  if (watch.is_ok()) {
    transport = listener.config.tls
                    ? make_tls_transport(accepted.descriptor, listener.config.tls->get())
                    : make_plain_transport(accepted.descriptor);
  }
  if (stopping_ || !transport) {
    listener.open.fetch_sub(1, std::memory_order_relaxed);
    server_.connection_closed();
    return;
  }
  now_ms_ = steady_ms();
  auto connection =
      std::make_shared<Connection>(*this, listener, std::move(watch).value(), std::move(transport),
                                   std::move(accepted.remote_address));
  connection->table_index = connections_.size();
  connections_.push_back(connection);
  ensure_tick();
  connection->start();
}

void IoThread::remove(Connection& connection) {
  const size_t index = connection.table_index;
  const auto removed = std::move(connections_[index]);
  if (index + 1 != connections_.size()) {
    connections_[index] = std::move(connections_.back());
    connections_[index]->table_index = index;
  }
  connections_.pop_back();
  connection.listener().open.fetch_sub(1, std::memory_order_relaxed);
  server_.connection_closed();
}

void IoThread::schedule(std::shared_ptr<Connection> connection) {
  bool first = false;
  {
    std::lock_guard lock(scheduled_mutex_);
    first = scheduled_.empty();
    scheduled_.push_back(std::move(connection));
  }
  if (first) post([this] { flush_scheduled(); });
}

void IoThread::flush_scheduled() {
  {
    std::lock_guard lock(scheduled_mutex_);
    flushing_.swap(scheduled_);
  }
  for (const auto& connection : flushing_) connection->flush_queued();
  flushing_.clear();
}

void IoThread::ensure_tick() {
  if (tick_armed_ || stopping_) return;
  tick_armed_ = true;
  reactor_.arm_tick(tick_ms_);
}

void IoThread::on_tick() {
  tick_armed_ = false;
  now_ms_ = steady_ms();
  // Backwards: a connection that ends is replaced by the last one, which has had its turn.
  for (size_t i = connections_.size(); i-- > 0;) {
    if (i >= connections_.size()) continue;
    const auto connection = connections_[i];
    connection->on_tick(now_ms_);
  }
  bool accepting_waits = false;
  for (const auto& acceptor : acceptors_) {
    acceptor->resume();
    accepting_waits = accepting_waits || acceptor->paused();
  }
  if (!connections_.empty() || accepting_waits) ensure_tick();
}

void IoThread::add_acceptor(std::shared_ptr<Acceptor> acceptor) {
  acceptors_.push_back(acceptor);
  acceptor->start();
}

void IoThread::close_acceptors() {
  for (const auto& acceptor : acceptors_) acceptor->close();
  acceptors_.clear();
}

void IoThread::drain() {
  for (size_t i = connections_.size(); i-- > 0;) {
    if (i >= connections_.size()) continue;
    const auto connection = connections_[i];
    connection->on_drain();
  }
}

void IoThread::stop() {
  if (!thread_.joinable()) return;
  post([this] {
    stopping_ = true;
    close_acceptors();
    while (!connections_.empty()) {
      const auto connection = connections_.back();
      connection->close(CloseReason::kServerStopped);
    }
    reactor_.release();
  });
  thread_.join();
}

}  // namespace fathom::net
