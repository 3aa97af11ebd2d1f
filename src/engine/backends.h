// Which backend a device setting means. Pure but for opening the CUDA plugin.
#pragma once

#include <memory>

#include "engine/engine_options.h"
#include "fathom/backend.h"

namespace fathom {

// kAuto: CUDA where its plugin opens and finds a GPU, else the CPU. kUnavailable says why a device
// that was asked for by name cannot be had.
Result<std::unique_ptr<Backend>> make_backend(EngineOptions::Device device);

// CPU ranks: threads of this process, each with its own Ops and collectives among threads.
std::unique_ptr<Backend> make_cpu_backend();

// Cores that this process may use: its affinity, and its cgroup's quota.
int32_t usable_cores();
// Memory that this process may still use: the machine's and its cgroup's.
Result<int64_t> usable_memory_bytes();

}  // namespace fathom
