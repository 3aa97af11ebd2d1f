// Reads CUPTI's activity buffers; its functions are C callbacks, so what they fill is one place.
#include "kernel_trace.h"

#include <cxxabi.h>
#include <dlfcn.h>

#if __has_include(<cupti.h>)  // of the toolkit, but a package of its own
#include <cupti.h>
#define FATHOM_WITH_CUPTI 1
#endif

#include <algorithm>
#include <cstdlib>
#include <mutex>

namespace fathom::bench {

#ifdef FATHOM_WITH_CUPTI

namespace {

constexpr size_t kBufferBytes = size_t{4} << 20;

struct Cupti {
  decltype(&cuptiActivityRegisterCallbacks) register_callbacks = nullptr;
  decltype(&cuptiActivityEnable) enable = nullptr;
  decltype(&cuptiActivityFlushAll) flush = nullptr;
  decltype(&cuptiActivityGetNextRecord) next = nullptr;
  std::mutex lock;
  std::vector<KernelSpan> spans;  // CUPTI's thread adds, take() takes
};

Cupti& cupti() {
  static Cupti one;
  return one;
}

std::string demangled(const char* name) {
  int status = 0;
  char* text = abi::__cxa_demangle(name, nullptr, nullptr, &status);
  std::string result = status == 0 ? text : name;
  std::free(text);
  return result;
}

void CUPTIAPI give_buffer(uint8_t** buffer, size_t* size, size_t* records_max) {
  *buffer = static_cast<uint8_t*>(std::aligned_alloc(64, kBufferBytes));
  *size = *buffer == nullptr ? 0 : kBufferBytes;
  *records_max = 0;
}

void CUPTIAPI read_buffer(CUcontext, uint32_t, uint8_t* buffer, size_t, size_t valid) {
  Cupti& c = cupti();
  const std::lock_guard hold(c.lock);
  CUpti_Activity* record = nullptr;
  while (c.next(buffer, valid, &record) == CUPTI_SUCCESS) {
    if (record->kind != CUPTI_ACTIVITY_KIND_CONCURRENT_KERNEL) continue;
    const auto* kernel = reinterpret_cast<const CUpti_ActivityKernel10*>(record);
    c.spans.push_back({kernel->name == nullptr ? "" : kernel->name, kernel->start, kernel->end,
                       kernel->gridX * kernel->gridY * kernel->gridZ,
                       kernel->blockX * kernel->blockY * kernel->blockZ});
  }
  std::free(buffer);
}

template <typename Function>
bool find(void* library, const char* name, Function& function) {
  function = reinterpret_cast<Function>(::dlsym(library, name));
  return function != nullptr;
}

}  // namespace

Result<std::unique_ptr<KernelTrace>> KernelTrace::open(const std::string& library) {
  void* handle = ::dlopen(library.c_str(), RTLD_NOW | RTLD_GLOBAL);
  if (handle == nullptr) return unavailable(std::string("CUPTI: ") + ::dlerror());
  Cupti& c = cupti();
  if (!find(handle, "cuptiActivityRegisterCallbacks", c.register_callbacks) ||
      !find(handle, "cuptiActivityEnable", c.enable) ||
      !find(handle, "cuptiActivityFlushAll", c.flush) ||
      !find(handle, "cuptiActivityGetNextRecord", c.next)) {
    return unavailable("CUPTI: " + library + " lacks the activity functions");
  }
  if (c.register_callbacks(give_buffer, read_buffer) != CUPTI_SUCCESS ||
      c.enable(CUPTI_ACTIVITY_KIND_CONCURRENT_KERNEL) != CUPTI_SUCCESS) {
    return unavailable("CUPTI does not record kernels here");
  }
  return std::unique_ptr<KernelTrace>(new KernelTrace());
}

KernelTrace::~KernelTrace() { cupti().flush(CUPTI_ACTIVITY_FLAG_FLUSH_FORCED); }

Result<std::vector<KernelSpan>> KernelTrace::take() {
  Cupti& c = cupti();
  if (c.flush(CUPTI_ACTIVITY_FLAG_FLUSH_FORCED) != CUPTI_SUCCESS) {
    return unavailable("CUPTI gives no records");
  }
  const std::lock_guard hold(c.lock);
  std::vector<KernelSpan> spans = std::move(c.spans);
  c.spans.clear();
  for (KernelSpan& span : spans) span.name = demangled(span.name.c_str());
  std::sort(spans.begin(), spans.end(), [](const KernelSpan& a, const KernelSpan& b) {
    return a.start_ns < b.start_ns;
  });
  return spans;
}

#else

Result<std::unique_ptr<KernelTrace>> KernelTrace::open(const std::string&) {
  return unimplemented("this build was made without CUPTI's headers");
}

KernelTrace::~KernelTrace() = default;

Result<std::vector<KernelSpan>> KernelTrace::take() { return unimplemented("no CUPTI"); }

#endif

}  // namespace fathom::bench
