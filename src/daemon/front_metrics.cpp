// HttpServerStats to series.
#include "daemon/front_metrics.h"

namespace fathom {

FrontMetrics::FrontMetrics(const Metrics& metrics)
    : refused_(metrics.counter(CounterId::kConnectionsRefused, {"limit"})),
      handshakes_failed_(metrics.counter(CounterId::kConnectionsRefused, {"tls"})),
      slow_clients_(metrics.counter(CounterId::kSlowClients)),
      restarts_(metrics.counter(CounterId::kEngineRestarts)),
      connections_(metrics.gauge(GaugeId::kConnections)) {}

void FrontMetrics::add(const CounterSeries& series, uint64_t now, uint64_t& before) {
  if (now > before) series.add(static_cast<double>(now - before));
  before = now;
}

void FrontMetrics::update(const net::HttpServerStats& stats, uint64_t engine_restarts) {
  std::lock_guard lock(mutex_);
  add(refused_, stats.connections_refused, last_.connections_refused);
  add(handshakes_failed_, stats.handshakes_failed, last_.handshakes_failed);
  add(slow_clients_, stats.slow_clients_cut, last_.slow_clients_cut);
  add(restarts_, engine_restarts, last_restarts_);
  connections_.set(static_cast<double>(stats.connections_open));
}

}  // namespace fathom
