// Metrics over prometheus-cpp's core: families from metrics.def, text exposition, vLLM's names as
// copies.
#include "base/metrics.h"

#include <prometheus/counter.h>
#include <prometheus/gauge.h>
#include <prometheus/histogram.h>
#include <prometheus/registry.h>
#include <prometheus/text_serializer.h>

#include <map>
#include <mutex>
#include <set>
#include <stdexcept>
#include <vector>

#include "fathom/bucket_counts.h"
#include "fathom/check.h"

namespace fathom {
namespace {

// vLLM's buckets where it has them (its dashboards assume them), with finer ones below 10 ms.
const std::vector<double> kFirstTokenSeconds = {.001, .005, .01, .02, .04, .06, .08, .1,
                                                .25,  .5,   .75, 1,   2.5, 5,   7.5, 10,
                                                20,   40,   80,  160, 640, 2560};
const std::vector<double> kTokenSeconds = {.0005, .001, .002, .004, .006, .008, .01, .015, .02,
                                           .025,  .05,  .075, .1,   .15,  .2,   .3,  .4,   .5,
                                           .75,   1,    2.5,  5,    7.5,  10,   20,  40,   80};
const std::vector<double> kRequestSeconds = {.05, .1, .3, .5, .8, 1,   1.5, 2,   2.5, 5,    10,  15,
                                             20,  30, 40, 50, 60, 120, 240, 480, 960, 1920, 7680};
const std::vector<double> kTokenCounts = {1,     2,      5,      10,     20,   50,    100,
                                          200,   500,    1000,   2000,   5000, 10000, 20000,
                                          50000, 100000, 200000, 500000, 1e6};
const std::vector<double> kStepSeconds(kStepSecondsBounds.begin(), kStepSecondsBounds.end());
const std::vector<double> kStepTokenCounts(kStepTokensBounds.begin(), kStepTokensBounds.end());

enum class Scope { kModel, kProcess };

struct FamilySpec {
  const char* name;
  Scope scope;
  std::vector<std::string> labels;  // "ours" or "ours=vllm's"
  const char* help;
  std::string vllm_name;  // empty: none
  const std::vector<double>* buckets = nullptr;
};

#define LABELS(...) \
  std::vector<std::string> { __VA_ARGS__ }

#define FATHOM_GAUGE(...)
#define FATHOM_HISTOGRAM(...)
#define FATHOM_COUNTER(id, name, scope, labels, help, vllm) \
  {name, Scope::scope, labels, help, vllm},
const std::vector<FamilySpec> kCounters = {
#include "base/metrics.def"
};
#undef FATHOM_COUNTER
#undef FATHOM_GAUGE
#define FATHOM_COUNTER(...)
#define FATHOM_GAUGE(id, name, scope, labels, help, vllm) {name, Scope::scope, labels, help, vllm},
const std::vector<FamilySpec> kGauges = {
#include "base/metrics.def"
};
#undef FATHOM_GAUGE
#undef FATHOM_HISTOGRAM
#define FATHOM_GAUGE(...)
#define FATHOM_HISTOGRAM(id, name, scope, labels, help, vllm, buckets) \
  {name, Scope::scope, labels, help, vllm, &buckets},
const std::vector<FamilySpec> kHistograms = {
#include "base/metrics.def"
};
#undef FATHOM_COUNTER
#undef FATHOM_GAUGE
#undef FATHOM_HISTOGRAM
#undef LABELS

std::string own_label(const std::string& label) { return label.substr(0, label.find('=')); }
std::string vllm_label(const std::string& label) {
  size_t at = label.find('=');
  return at == std::string::npos ? label : label.substr(at + 1);
}

template <typename Series>
using Families = std::vector<prometheus::Family<Series>*>;

template <typename Series, typename Builder>
Families<Series> register_all(const std::vector<FamilySpec>& specs, Builder build,
                              prometheus::Registry& registry) {
  Families<Series> families;
  for (const FamilySpec& spec : specs) {
    families.push_back(&build().Name(spec.name).Help(spec.help).Register(registry));
  }
  return families;
}

// The family again under vLLM's name, with its label names and `model_name`.
prometheus::MetricFamily vllm_copy(const prometheus::MetricFamily& family, const FamilySpec& spec) {
  prometheus::MetricFamily copy = family;
  copy.name = spec.vllm_name;
  for (prometheus::ClientMetric& metric : copy.metric) {
    for (auto& label : metric.label) {
      if (label.name == "model") label.name = "model_name";
      for (const std::string& known : spec.labels) {
        if (label.name == own_label(known)) label.name = vllm_label(known);
      }
    }
  }
  return copy;
}

}  // namespace

struct MetricsRegistry::Impl {
  prometheus::Registry registry;
  Families<prometheus::Counter> counters =
      register_all<prometheus::Counter>(kCounters, prometheus::BuildCounter, registry);
  Families<prometheus::Gauge> gauges =
      register_all<prometheus::Gauge>(kGauges, prometheus::BuildGauge, registry);
  Families<prometheus::Histogram> histograms =
      register_all<prometheus::Histogram>(kHistograms, prometheus::BuildHistogram, registry);
  std::map<std::string, const FamilySpec*> aliased;  // our name -> spec with a vLLM name

  std::mutex mutex;                                          // guards seen
  std::map<std::string, std::set<prometheus::Labels>> seen;  // series per family

  Impl() {
    for (const auto* specs : {&kCounters, &kGauges, &kHistograms}) {
      for (const FamilySpec& spec : *specs) {
        if (!spec.vllm_name.empty()) aliased[spec.name] = &spec;
      }
    }
  }

  prometheus::Labels labels(const FamilySpec& spec, std::string_view model,
                            Metrics::LabelValues values) {
    FATHOM_CHECK(values.size() == spec.labels.size(), spec.name);
    prometheus::Labels labels;
    if (spec.scope == Scope::kModel) labels["model"] = model;
    const std::string_view* value = values.begin();
    for (const std::string& label : spec.labels) labels[own_label(label)] = *value++;
    return bounded(spec, std::move(labels));
  }

  prometheus::Labels bounded(const FamilySpec& spec, prometheus::Labels labels) {
    std::lock_guard lock(mutex);
    std::set<prometheus::Labels>& known = seen[spec.name];
    if (known.contains(labels)) return labels;
    if (known.size() < kSeriesPerFamilyMax) {
      known.insert(labels);
      return labels;
    }
    for (const std::string& label : spec.labels) labels[own_label(label)] = "other";
    return labels;
  }
};

MetricsRegistry::MetricsRegistry() : impl_(std::make_unique<Impl>()) {}
MetricsRegistry::~MetricsRegistry() = default;

std::string MetricsRegistry::text(bool vllm_names) const {
  std::vector<prometheus::MetricFamily> families = impl_->registry.Collect();
  if (vllm_names) {
    for (size_t i = 0, own = families.size(); i < own; ++i) {
      auto found = impl_->aliased.find(families[i].name);
      if (found != impl_->aliased.end()) families.push_back(vllm_copy(families[i], *found->second));
    }
  }
  return prometheus::TextSerializer().Serialize(families);
}

// Series of the families without labels, resolved at construction; the others hold a null until
// asked for.
struct Metrics::Impl {
  MetricsRegistry::Impl& registry;
  std::string model;
  std::vector<prometheus::Counter*> counters;
  std::vector<prometheus::Gauge*> gauges;
  std::vector<prometheus::Histogram*> histograms;
};

Metrics::Metrics(MetricsRegistry& registry, std::string_view model)
    : impl_(new Impl{*registry.impl_, std::string(model), {}, {}, {}}) {
  MetricsRegistry::Impl& all = impl_->registry;
  for (size_t i = 0; i < kCounters.size(); ++i) {
    bool plain = kCounters[i].labels.empty();
    impl_->counters.push_back(plain ? &all.counters[i]->Add(all.labels(kCounters[i], model, {}))
                                    : nullptr);
  }
  for (size_t i = 0; i < kGauges.size(); ++i) {
    bool plain = kGauges[i].labels.empty();
    impl_->gauges.push_back(plain ? &all.gauges[i]->Add(all.labels(kGauges[i], model, {}))
                                  : nullptr);
  }
  for (size_t i = 0; i < kHistograms.size(); ++i) {
    const FamilySpec& spec = kHistograms[i];
    impl_->histograms.push_back(
        &all.histograms[i]->Add(all.labels(spec, model, {}), *spec.buckets));
  }
}

Metrics::~Metrics() = default;

CounterSeries Metrics::counter(CounterId id, LabelValues values) const {
  auto i = static_cast<size_t>(id);
  if (values.size() == 0 && impl_->counters[i] != nullptr) return CounterSeries(impl_->counters[i]);
  auto labels = impl_->registry.labels(kCounters[i], impl_->model, values);
  return CounterSeries(&impl_->registry.counters[i]->Add(labels));
}

GaugeSeries Metrics::gauge(GaugeId id, LabelValues values) const {
  auto i = static_cast<size_t>(id);
  if (values.size() == 0 && impl_->gauges[i] != nullptr) return GaugeSeries(impl_->gauges[i]);
  auto labels = impl_->registry.labels(kGauges[i], impl_->model, values);
  return GaugeSeries(&impl_->registry.gauges[i]->Add(labels));
}

HistogramSeries Metrics::histogram(HistogramId id) const {
  return HistogramSeries(impl_->histograms[static_cast<size_t>(id)]);
}

void CounterSeries::add(double amount) const { series_->Increment(amount); }
void GaugeSeries::set(double value) const { series_->Set(value); }
void GaugeSeries::add(double amount) const { series_->Increment(amount); }
void HistogramSeries::observe(double value) const { series_->Observe(value); }

void HistogramSeries::merge(std::span<const uint64_t> counts, double sum) const {
  bool fits = true;
  try {
    series_->ObserveMultiple({counts.begin(), counts.end()}, sum);
  } catch (const std::length_error&) {
    fits = false;
  }
  FATHOM_CHECK(fits, "merged counts must have the histogram's buckets");
}

}  // namespace fathom
