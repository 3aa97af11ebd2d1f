// Metrics: counters, gauges and histograms declared once in metrics.def, written by any thread,
// read as Prometheus text. A handle is resolved once and then costs an atomic addition (a
// histogram: a short lock).
#pragma once

#include <array>
#include <cstddef>
#include <cstdint>
#include <initializer_list>
#include <memory>
#include <span>
#include <string>
#include <string_view>

namespace prometheus {
class Counter;
class Gauge;
class Histogram;
}  // namespace prometheus

namespace fathom {

#define FATHOM_GAUGE(...)
#define FATHOM_HISTOGRAM(...)
#define FATHOM_COUNTER(id, ...) id,
enum class CounterId : size_t {
#include "base/metrics.def"
};
#undef FATHOM_COUNTER
#undef FATHOM_GAUGE
#define FATHOM_COUNTER(...)
#define FATHOM_GAUGE(id, ...) id,
enum class GaugeId : size_t {
#include "base/metrics.def"
};
#undef FATHOM_GAUGE
#undef FATHOM_HISTOGRAM
#define FATHOM_GAUGE(...)
#define FATHOM_HISTOGRAM(id, ...) id,
enum class HistogramId : size_t {
#include "base/metrics.def"
};
#undef FATHOM_COUNTER
#undef FATHOM_GAUGE
#undef FATHOM_HISTOGRAM

// One series. Valid as long as its MetricsRegistry; any thread.
class CounterSeries {
 public:
  explicit CounterSeries(prometheus::Counter* series) : series_(series) {}
  void add(double amount = 1) const;

 private:
  prometheus::Counter* series_;
};

class GaugeSeries {
 public:
  explicit GaugeSeries(prometheus::Gauge* series) : series_(series) {}
  void set(double value) const;
  void add(double amount) const;

 private:
  prometheus::Gauge* series_;
};

class HistogramSeries {
 public:
  explicit HistogramSeries(prometheus::Histogram* series) : series_(series) {}
  void observe(double value) const;
  // What another process has counted by the same bounds: values by bucket, and their sum.
  void merge(std::span<const uint64_t> counts, double sum) const;

 private:
  prometheus::Histogram* series_;
};

// Owns every series of the process; made once by the daemon. Any thread.
class MetricsRegistry {
 public:
  // Series of one family beyond this many fold into one whose label values are "other".
  static constexpr size_t kSeriesPerFamilyMax = 256;

  MetricsRegistry();
  ~MetricsRegistry();
  MetricsRegistry(const MetricsRegistry&) = delete;

  // Prometheus text format 0.0.4; `vllm_names` adds the families that have one again under vLLM's
  // names.
  std::string text(bool vllm_names) const;

 private:
  friend class Metrics;
  struct Impl;
  std::unique_ptr<Impl> impl_;
};

// The metrics of one model (and of the process, whose families bear no model label). Any thread.
class Metrics {
 public:
  using LabelValues = std::initializer_list<std::string_view>;

  Metrics(MetricsRegistry& registry, std::string_view model);
  ~Metrics();
  Metrics(const Metrics&) = delete;

  // Families without labels of their own; FATHOM_CHECK fails for the others.
  void add(CounterId id, double amount = 1) const { counter(id).add(amount); }
  void set(GaugeId id, double value) const { gauge(id).set(value); }
  void observe(HistogramId id, double value) const { histogram(id).observe(value); }

  // The series with these label values, in the order of metrics.def. With labels it takes a lock:
  // keep the handle.
  CounterSeries counter(CounterId id, LabelValues values = {}) const;
  GaugeSeries gauge(GaugeId id, LabelValues values = {}) const;
  HistogramSeries histogram(HistogramId id) const;

 private:
  struct Impl;
  std::unique_ptr<Impl> impl_;
};

}  // namespace fathom
