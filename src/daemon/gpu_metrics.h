// The engine's GPU in the metrics: a reading a second, by a thread of its own, since a sick device
// may keep its readers waiting.
#pragma once

#include <condition_variable>
#include <functional>
#include <memory>
#include <mutex>
#include <string>
#include <thread>

#include "base/metrics.h"
#include "daemon/nvml.h"

namespace fathom {

// Copies readings into series. One thread.
class GpuMetrics {
 public:
  explicit GpuMetrics(const Metrics& metrics) : metrics_(metrics) {}

  void update(const GpuReading& reading);

 private:
  void add_ecc(const char* kind, const std::string& uuid, std::optional<uint64_t> now,
               uint64_t& before);

  const Metrics& metrics_;
  uint64_t ecc_corrected_ = 0;
  uint64_t ecc_uncorrected_ = 0;
};

// Owned by the daemon.
class GpuMonitor {
 public:
  // `device_id` gives the PCI bus id of the engine's GPU, or nothing while there is none.
  GpuMonitor(const Metrics& metrics, std::function<std::string()> device_id);
  ~GpuMonitor();

 private:
  void run(std::stop_token stop);

  GpuMetrics gpu_metrics_;
  const std::function<std::string()> device_id_;
  std::mutex mutex_;
  std::condition_variable_any stopping_;
  std::jthread thread_;  // last: it uses the rest
};

}  // namespace fathom
