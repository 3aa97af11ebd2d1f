// NVML's readings and their series, with a library that is made up.
#include "daemon/gpu_metrics.h"

#include <gtest/gtest.h>

namespace fathom {
namespace {

constexpr const char* kPciId = "00000000:3B:00.0";

TEST(Nvml, ReadsWhatTheDeviceReports) {
  auto device = NvmlDevice::open(FATHOM_FAKE_NVML, kPciId);
  ASSERT_TRUE(device.is_ok()) << device.status().to_string();
  const GpuReading reading = (*device)->read();
  EXPECT_EQ(reading.uuid, "GPU-fake-0");
  EXPECT_DOUBLE_EQ(reading.utilization_ratio.value(), 0.73);
  EXPECT_EQ(reading.memory_used_bytes, int64_t{50} << 30);
  EXPECT_EQ(reading.memory_total_bytes, int64_t{80} << 30);
  EXPECT_DOUBLE_EQ(reading.temperature_celsius.value(), 61);
  EXPECT_DOUBLE_EQ(reading.sm_clock_hertz.value(), 1.98e9);
  EXPECT_FALSE(reading.power_watts.has_value()) << "this device does not report it";
  EXPECT_EQ(reading.ecc_corrected, 4U);
  EXPECT_EQ(reading.ecc_uncorrected, 0U);
  EXPECT_EQ(reading.xids, (std::vector<uint64_t>{31, 31}));
  EXPECT_TRUE((*device)->read().xids.empty()) << "each is told once";
}

TEST(Nvml, SaysWhatIsMissing) {
  EXPECT_EQ(NvmlDevice::open("libno-such-nvml.so.1", kPciId).status().code(), Code::kUnavailable);
  EXPECT_EQ(NvmlDevice::open("libm.so.6", kPciId).status().code(), Code::kUnavailable);
  EXPECT_EQ(NvmlDevice::open(FATHOM_FAKE_NVML, "00000000:AA:00.0").status().code(),
            Code::kNotFound);
}

TEST(GpuMetrics, ReadingsBecomeSeries) {
  MetricsRegistry registry;
  const Metrics metrics(registry, "m");
  GpuMetrics gpu(metrics);
  GpuReading reading;
  reading.uuid = "GPU-1";
  reading.utilization_ratio = 0.5;
  reading.memory_used_bytes = 1000;
  reading.power_watts = 123.5;
  reading.ecc_corrected = 3;
  reading.xids = {79};
  gpu.update(reading);
  reading.ecc_corrected = 5;
  gpu.update(reading);
  reading.ecc_corrected = 1;  // the driver was loaded again
  reading.xids = {};
  gpu.update(reading);
  const std::string text = registry.text(false);
  for (const char* line : {"fathom_gpu_utilization_ratio{uuid=\"GPU-1\"} 0.5\n",
                           "fathom_gpu_memory_used_bytes{uuid=\"GPU-1\"} 1000\n",
                           "fathom_gpu_power_watts{uuid=\"GPU-1\"} 123.5\n",
                           "fathom_gpu_ecc_errors_total{kind=\"corrected\",uuid=\"GPU-1\"} 6\n",
                           "fathom_gpu_xid_errors_total{uuid=\"GPU-1\",xid=\"79\"} 2\n"}) {
    EXPECT_NE(text.find(line), std::string::npos) << line << text;
  }
  EXPECT_EQ(text.find("fathom_gpu_temperature_celsius{"), std::string::npos) << "never reported";
}

}  // namespace
}  // namespace fathom
