// A library with NVML's names: one device with numbers of its own, which tests look for.
#include <cstring>

extern "C" {

int nvmlInit_v2() { return 0; }
int nvmlShutdown() { return 0; }

int nvmlDeviceGetHandleByPciBusId_v2(const char* id, void** device) {
  if (std::strcmp(id, "00000000:3B:00.0") != 0) return 6;  // not found
  *device = reinterpret_cast<void*>(0x3b);
  return 0;
}

int nvmlDeviceGetUUID(void* device, char* text, unsigned size) {
  if (device != reinterpret_cast<void*>(0x3b) || size < 16) return 2;
  std::strcpy(text, "GPU-fake-0");
  return 0;
}

int nvmlDeviceGetUtilizationRates(void*, unsigned* rates) {
  rates[0] = 73;
  rates[1] = 12;
  return 0;
}

int nvmlDeviceGetMemoryInfo(void*, unsigned long long* memory) {
  memory[0] = 80ULL << 30;
  memory[1] = 30ULL << 30;
  memory[2] = 50ULL << 30;
  return 0;
}

int nvmlDeviceGetTemperature(void*, unsigned sensor, unsigned* celsius) {
  *celsius = sensor == 0 ? 61 : 999;
  return 0;
}

int nvmlDeviceGetPowerUsage(void*, unsigned*) { return 3; }  // not supported

int nvmlDeviceGetClockInfo(void*, unsigned clock, unsigned* megahertz) {
  *megahertz = clock == 1 ? 1980 : 1;
  return 0;
}

// One more corrected error at each call.
int nvmlDeviceGetTotalEccErrors(void*, unsigned kind, unsigned counter, unsigned long long* count) {
  static unsigned long long corrected = 4;
  if (counter != 0) return 2;
  *count = kind == 0 ? corrected++ : 0;
  return 0;
}

int nvmlEventSetCreate(void** set) {
  *set = reinterpret_cast<void*>(0xe);
  return 0;
}
int nvmlEventSetFree(void*) { return 0; }
int nvmlDeviceRegisterEvents(void*, unsigned long long kinds, void*) { return kinds == 8 ? 0 : 2; }

struct Event {
  void* device;
  unsigned long long type;
  unsigned long long data;
  unsigned instances[2];
};

// Xid 31 twice, then nothing.
int nvmlEventSetWait_v2(void*, Event* event, unsigned) {
  static int left = 2;
  if (left-- <= 0) return 10;  // timeout
  event->type = 8;
  event->data = 31;
  return 0;
}

}  // extern "C"
