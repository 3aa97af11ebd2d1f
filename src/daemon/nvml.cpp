// The library's entry points, and one reading through them. Types and numbers are those of NVML's
// published interface, which keeps them.
#include "daemon/nvml.h"

#include <dlfcn.h>

#include <array>

namespace fathom {
namespace {

using Device = void*;
using EventSet = void*;
using Return = int;  // 0: done

constexpr unsigned kTemperatureGpu = 0;
constexpr unsigned kClockSm = 1;
constexpr unsigned kCorrected = 0;
constexpr unsigned kUncorrected = 1;
constexpr unsigned kVolatile = 0;
constexpr unsigned long long kXidCriticalError = 8;
constexpr int kXidsPerReadingMax = 64;

struct Utilization {
  unsigned gpu;  // percent
  unsigned memory;
};

struct Memory {
  unsigned long long total;
  unsigned long long free;
  unsigned long long used;
};

struct EventData {
  Device device;
  unsigned long long type;
  unsigned long long data;
  unsigned gpu_instance;
  unsigned compute_instance;
};

}  // namespace

struct NvmlDevice::Calls {
  void* library = nullptr;
  Device device = nullptr;
  EventSet events = nullptr;
  Return (*shutdown)() = nullptr;
  Return (*utilization)(Device, Utilization*) = nullptr;
  Return (*memory)(Device, Memory*) = nullptr;
  Return (*temperature)(Device, unsigned, unsigned*) = nullptr;
  Return (*power)(Device, unsigned*) = nullptr;
  Return (*clock)(Device, unsigned, unsigned*) = nullptr;
  Return (*ecc)(Device, unsigned, unsigned, unsigned long long*) = nullptr;
  Return (*wait)(EventSet, EventData*, unsigned) = nullptr;
  Return (*free_events)(EventSet) = nullptr;

  // A function that the library lacks stays null.
  template <typename F>
  bool find(const char* name, F*& function) {
    function = reinterpret_cast<F*>(::dlsym(library, name));
    return function != nullptr;
  }

  void find_readings() {
    find("nvmlDeviceGetUtilizationRates", utilization);
    find("nvmlDeviceGetMemoryInfo", memory);
    find("nvmlDeviceGetTemperature", temperature);
    find("nvmlDeviceGetPowerUsage", power);
    find("nvmlDeviceGetClockInfo", clock);
    find("nvmlDeviceGetTotalEccErrors", ecc);
  }

  // Xid errors arrive as events; where they cannot be had there are none.
  void listen() {
    Return (*create)(EventSet*) = nullptr;
    Return (*enrol)(Device, unsigned long long, EventSet) = nullptr;
    if (!find("nvmlEventSetCreate", create) || !find("nvmlDeviceRegisterEvents", enrol) ||
        !find("nvmlEventSetWait_v2", wait) || !find("nvmlEventSetFree", free_events)) {
      return;
    }
    if (create(&events) != 0) events = nullptr;
    if (events != nullptr && enrol(device, kXidCriticalError, events) != 0) {
      free_events(events);
      events = nullptr;
    }
  }
};

NvmlDevice::NvmlDevice() : calls_(std::make_unique<Calls>()) {}

Result<std::unique_ptr<NvmlDevice>> NvmlDevice::open(const std::string& library,
                                                     const std::string& pci_id) {
  std::unique_ptr<NvmlDevice> made(new NvmlDevice());
  Calls& calls = *made->calls_;
  calls.library = ::dlopen(library.c_str(), RTLD_NOW | RTLD_LOCAL);
  if (calls.library == nullptr) return unavailable(std::string("NVML: ") + ::dlerror());
  Return (*init)() = nullptr;
  Return (*by_pci_id)(const char*, Device*) = nullptr;
  Return (*uuid)(Device, char*, unsigned) = nullptr;
  if (!calls.find("nvmlInit_v2", init) || !calls.find("nvmlShutdown", calls.shutdown) ||
      !calls.find("nvmlDeviceGetHandleByPciBusId_v2", by_pci_id) ||
      !calls.find("nvmlDeviceGetUUID", uuid)) {
    calls.shutdown = nullptr;  // nothing was begun
    return unavailable("NVML: " + library + " lacks what every driver's has");
  }
  if (const Return error = init(); error != 0) {
    calls.shutdown = nullptr;
    return unavailable("NVML: error " + std::to_string(error) + " at start");
  }
  if (by_pci_id(pci_id.c_str(), &calls.device) != 0)
    return not_found("NVML knows no device " + pci_id);
  std::array<char, 96> text{};
  if (uuid(calls.device, text.data(), text.size()) == 0) made->uuid_ = text.data();
  calls.find_readings();
  calls.listen();
  return made;
}

NvmlDevice::~NvmlDevice() {
  if (calls_->events != nullptr) calls_->free_events(calls_->events);
  if (calls_->shutdown != nullptr) calls_->shutdown();
  if (calls_->library != nullptr) ::dlclose(calls_->library);
}

GpuReading NvmlDevice::read() {
  const Calls& c = *calls_;
  GpuReading reading;
  reading.uuid = uuid_;
  if (Utilization now{}; c.utilization != nullptr && c.utilization(c.device, &now) == 0)
    reading.utilization_ratio = now.gpu / 100.0;
  if (Memory now{}; c.memory != nullptr && c.memory(c.device, &now) == 0) {
    reading.memory_used_bytes = static_cast<int64_t>(now.used);
    reading.memory_total_bytes = static_cast<int64_t>(now.total);
  }
  unsigned value = 0;
  if (c.temperature != nullptr && c.temperature(c.device, kTemperatureGpu, &value) == 0)
    reading.temperature_celsius = value;
  if (c.power != nullptr && c.power(c.device, &value) == 0) reading.power_watts = value / 1000.0;
  if (c.clock != nullptr && c.clock(c.device, kClockSm, &value) == 0)
    reading.sm_clock_hertz = value * 1e6;
  unsigned long long count = 0;
  if (c.ecc != nullptr && c.ecc(c.device, kCorrected, kVolatile, &count) == 0)
    reading.ecc_corrected = count;
  if (c.ecc != nullptr && c.ecc(c.device, kUncorrected, kVolatile, &count) == 0)
    reading.ecc_uncorrected = count;
  EventData event{};
  for (int i = 0; i < kXidsPerReadingMax && c.events != nullptr; ++i) {
    if (c.wait(c.events, &event, 0) != 0) break;
    if ((event.type & kXidCriticalError) != 0) reading.xids.push_back(event.data);
  }
  return reading;
}

}  // namespace fathom
