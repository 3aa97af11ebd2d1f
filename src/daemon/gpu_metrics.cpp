// Readings to series, and the thread that takes them.
#include "daemon/gpu_metrics.h"

#include <chrono>
#include <utility>

#include "base/log.h"
#include "base/thread.h"

namespace fathom {
namespace {

constexpr std::chrono::seconds kPeriod{1};

}  // namespace

// A driver that was loaded again counts from zero: its count is then all new.
void GpuMetrics::add_ecc(const char* kind, const std::string& uuid, std::optional<uint64_t> now,
                         uint64_t& before) {
  if (!now) return;
  const uint64_t grown = *now >= before ? *now - before : *now;
  before = *now;
  metrics_.counter(CounterId::kGpuEccErrors, {uuid, kind}).add(static_cast<double>(grown));
}

void GpuMetrics::update(const GpuReading& r) {
  const auto set = [&](GaugeId id, const auto& value) {
    if (value) metrics_.gauge(id, {r.uuid}).set(static_cast<double>(*value));
  };
  set(GaugeId::kGpuUtilization, r.utilization_ratio);
  set(GaugeId::kGpuMemoryUsed, r.memory_used_bytes);
  set(GaugeId::kGpuMemoryTotal, r.memory_total_bytes);
  set(GaugeId::kGpuTemperature, r.temperature_celsius);
  set(GaugeId::kGpuPower, r.power_watts);
  set(GaugeId::kGpuSmClock, r.sm_clock_hertz);
  add_ecc("corrected", r.uuid, r.ecc_corrected, ecc_corrected_);
  add_ecc("uncorrected", r.uuid, r.ecc_uncorrected, ecc_uncorrected_);
  for (const uint64_t xid : r.xids) {
    metrics_.counter(CounterId::kGpuXidErrors, {r.uuid, std::to_string(xid)}).add(1);
    Logger("gpu").error("the driver reports an Xid error", {{"uuid", r.uuid}, {"xid", xid}});
  }
}

GpuMonitor::GpuMonitor(const Metrics& metrics, std::function<std::string()> device_id)
    : gpu_metrics_(metrics), device_id_(std::move(device_id)) {
  thread_ = start_thread("gpu-monitor", [this](std::stop_token stop) { run(stop); });
}

GpuMonitor::~GpuMonitor() = default;

void GpuMonitor::run(std::stop_token stop) {
  std::unique_ptr<NvmlDevice> device;
  std::unique_lock lock(mutex_);
  while (!stopping_.wait_for(lock, stop, kPeriod, [&] { return stop.stop_requested(); })) {
    const std::string id = device_id_();
    if (id.empty()) continue;
    if (device == nullptr) {
      auto opened = NvmlDevice::open(kNvmlLibrary, id);
      if (!opened.is_ok()) {
        Logger("gpu").warn("no metrics of the GPU", {{"why", opened.status().message()}});
        return;
      }
      device = std::move(*opened);
    }
    gpu_metrics_.update(device->read());
  }
}

}  // namespace fathom
