// Puts listeners, io threads and their shared state together; see http_server.h.
#include "net/http_server.h"

#include <unistd.h>

#include <algorithm>
#include <latch>
#include <thread>
#include <utility>

#include "net/acceptor.h"
#include "net/io_thread.h"
#include "net/server_state.h"
#include "net/socket_calls.h"

namespace fathom::net {

namespace {

constexpr size_t kIoThreadsDefaultMax = 4;

size_t thread_count(size_t asked) {
  if (asked > 0) return asked;
  return std::clamp<size_t>(std::thread::hardware_concurrency(), 1, kIoThreadsDefaultMax);
}

// A fifth of the shortest timeout: a bound is kept to within 20 %.
uint32_t tick_for(const std::vector<ListenerConfig>& listeners) {
  uint32_t shortest_ms = 500;
  for (const auto& listener : listeners) {
    const HttpLimits& limits = listener.limits;
    shortest_ms = std::min({shortest_ms, limits.header_timeout_ms, limits.idle_timeout_ms,
                            limits.tls_handshake_timeout_ms, limits.write_stall_ms});
  }
  return std::max<uint32_t>(shortest_ms / 5, 5);
}

}  // namespace

class HttpServer::Impl {
 public:
  Status bind(HttpServerConfig& config);
  Status launch(size_t threads, uint32_t tick_ms);
  void begin_drain();
  bool wait_drained(std::chrono::milliseconds bound);
  void stop();

  ~Impl() {
    stop();
    for (const auto& bound : bound_) {
      if (bound.descriptor >= 0) ::close(bound.descriptor);
    }
  }

  // Runs `task(io thread)` on every io thread and waits until all have.
  template <typename Task>
  void on_every_thread(const Task& task) {
    std::latch done(static_cast<ptrdiff_t>(threads_.size()));
    for (const auto& thread : threads_) {
      thread->post([&, io = thread.get()] {
        task(*io);
        done.count_down();
      });
    }
    done.wait();
  }

  ServerState state_;
  std::vector<std::unique_ptr<ListenerState>> listeners_;
  std::vector<BoundSocket> bound_;
  std::vector<std::unique_ptr<IoThread>> threads_;
  bool started_ = false;
  bool stopped_ = false;
};

Status HttpServer::Impl::bind(HttpServerConfig& config) {
  for (auto& listener : config.listeners) {
    FATHOM_CHECK(listener.handler != nullptr, "a listener without a handler");
    auto bound = listen_on(listener.host, listener.port);
    if (!bound.is_ok()) {
      return Status(bound.status().code(),
                    "listener " + listener.name + ": " + bound.status().message())
          .about(listener.name);
    }
    bound_.push_back(*bound);
    auto state = std::make_unique<ListenerState>();
    state->config = std::move(listener);
    state->server = &state_;
    listeners_.push_back(std::move(state));
  }
  return Status::ok();
}

Status HttpServer::Impl::launch(size_t threads, uint32_t tick_ms) {
  std::vector<IoThread*> targets;
  for (size_t i = 0; i < threads; ++i) {
    threads_.push_back(std::make_unique<IoThread>(state_, tick_ms));
    targets.push_back(threads_.back().get());
  }
  std::vector<std::pair<IoThread*, std::shared_ptr<Acceptor>>> acceptors;
  for (size_t i = 0; i < listeners_.size(); ++i) {
    IoThread* home = targets[i % threads];
    auto watch = Watch::adopt(home->reactor(), std::exchange(bound_[i].descriptor, -1));
    if (!watch.is_ok()) return watch.status();
    acceptors.emplace_back(
        home, std::make_shared<Acceptor>(*home, targets, *listeners_[i], std::move(watch).value()));
  }
  for (size_t i = 0; i < threads; ++i) threads_[i]->start("http-io-" + std::to_string(i));
  started_ = true;
  for (auto& [home, acceptor] : acceptors) {
    home->post([home = home, acceptor = acceptor] { home->add_acceptor(acceptor); });
  }
  return Status::ok();
}

void HttpServer::Impl::begin_drain() {
  if (stopped_ || state_.draining.exchange(true)) return;
  on_every_thread([](IoThread& io) { io.close_acceptors(); });
  on_every_thread([](IoThread& io) { io.drain(); });
}

bool HttpServer::Impl::wait_drained(std::chrono::milliseconds bound) {
  std::unique_lock lock(state_.mutex);
  return state_.none_open.wait_for(lock, bound, [this] { return state_.open == 0; });
}

void HttpServer::Impl::stop() {
  if (std::exchange(stopped_, true) || !started_) return;
  state_.draining = true;
  on_every_thread([](IoThread& io) { io.close_acceptors(); });
  for (const auto& thread : threads_) thread->stop();
}

Result<std::unique_ptr<HttpServer>> HttpServer::start(HttpServerConfig config) {
  auto impl = std::make_unique<Impl>();
  const size_t threads = thread_count(config.io_threads);
  const uint32_t tick_ms = tick_for(config.listeners);
  FATHOM_RETURN_IF_ERROR(impl->bind(config));
  FATHOM_RETURN_IF_ERROR(impl->launch(threads, tick_ms));
  return std::unique_ptr<HttpServer>(new HttpServer(std::move(impl)));
}

HttpServer::HttpServer(std::unique_ptr<Impl> impl) : impl_(std::move(impl)) {}
HttpServer::~HttpServer() = default;

uint16_t HttpServer::port(size_t index) const { return impl_->bound_.at(index).port; }
void HttpServer::begin_drain() { impl_->begin_drain(); }
bool HttpServer::wait_drained(std::chrono::milliseconds bound) {
  return impl_->wait_drained(bound);
}
void HttpServer::stop() { impl_->stop(); }

HttpServerStats HttpServer::stats() const {
  const ServerCounters& counters = impl_->state_.counters;
  const auto read = [](const std::atomic<uint64_t>& counter) {
    return counter.load(std::memory_order_relaxed);
  };
  HttpServerStats stats;
  stats.connections_accepted = read(counters.accepted);
  stats.connections_refused = read(counters.refused);
  stats.handshakes_failed = read(counters.handshakes_failed);
  stats.requests = read(counters.requests);
  stats.requests_malformed = read(counters.malformed);
  stats.slow_clients_cut = read(counters.slow_clients);
  stats.clients_gone = read(counters.clients_gone);
  stats.socket_writes = read(counters.socket_writes);
  stats.bytes_sent = read(counters.bytes_sent);
  std::lock_guard lock(impl_->state_.mutex);
  stats.connections_open = impl_->state_.open;
  return stats;
}

}  // namespace fathom::net
