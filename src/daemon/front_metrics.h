// Copies the front end's own counters into the metrics registry when somebody scrapes.
#pragma once

#include <cstdint>
#include <mutex>

#include "base/metrics.h"
#include "net/http_server.h"

namespace fathom {

// Any thread may call update().
class FrontMetrics {
 public:
  explicit FrontMetrics(const Metrics& metrics);

  void update(const net::HttpServerStats& stats, uint64_t engine_restarts);

 private:
  // Adds what `now` has grown by since `before`.
  static void add(const CounterSeries& series, uint64_t now, uint64_t& before);

  CounterSeries refused_;
  CounterSeries handshakes_failed_;
  CounterSeries slow_clients_;
  CounterSeries restarts_;
  GaugeSeries connections_;
  std::mutex mutex_;  // guards the last counts
  net::HttpServerStats last_;
  uint64_t last_restarts_ = 0;
};

}  // namespace fathom
