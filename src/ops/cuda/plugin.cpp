// The plugin's one export.
#include "ops/cuda/backend.h"

extern "C" __attribute__((visibility("default"))) fathom::Backend* fathom_make_backend(
    int32_t abi, std::string* why) {
  if (abi != fathom::kBackendAbi) return nullptr;
  auto backend = fathom::CudaBackend::open();
  if (backend.is_ok()) return backend->release();
  *why = backend.status().message();
  return nullptr;
}
