// Copies the engine's numbers into the metrics registry when somebody scrapes.
#pragma once

#include <memory>
#include <mutex>

#include "base/metrics.h"
#include "fathom/engine.h"

namespace fathom {

// Any thread may call update(); counters only ever grow, also over an engine's restart.
class EngineMetrics {
 public:
  EngineMetrics(const Engine& engine, const Metrics& metrics)
      : engine_(engine), metrics_(metrics) {}

  void update(bool ready);

 private:
  void add(CounterId id, uint64_t now, uint64_t& before);
  template <size_t N>
  void merge(HistogramId id, const BucketCounts<N>& now, BucketCounts<N>& before);

  const Engine& engine_;
  const Metrics& metrics_;
  std::mutex mutex_;
  EngineStats last_;
};

}  // namespace fathom
