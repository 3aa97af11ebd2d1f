// The CPU backend, and the way to the CUDA plugin.
#include "engine/backends.h"

#include <dlfcn.h>

#include <filesystem>
#include <system_error>

#include "comm/thread_comm.h"
#include "ops/cpu/cpu_ops.h"

namespace fathom {
namespace {

constexpr const char* kCudaPlugin = "libfathom_cuda.so";

// In lib/ beside the program's bin/, as builds and bundles lay them out; else where the system's
// loader looks.
std::string plugin_path() {
  std::error_code error;
  const std::filesystem::path program = std::filesystem::read_symlink("/proc/self/exe", error);
  const std::filesystem::path beside = program.parent_path().parent_path() / "lib" / kCudaPlugin;
  return !error && std::filesystem::exists(beside, error) ? beside.string() : kCudaPlugin;
}

class CpuBackend final : public Backend {
 public:
  std::string device_name() const override { return "cpu"; }
  bool deterministic() const override { return true; }

  Result<int64_t> memory_bytes_per_rank(const RankGrid& grid, double fraction) override {
    FATHOM_ASSIGN(const int64_t bytes, usable_memory_bytes());
    return static_cast<int64_t>(static_cast<double>(bytes) * fraction) / grid.ranks();
  }

  Result<std::unique_ptr<Ops>> make_ops(const OpsSetup& setup) override {
    return make_cpu_ops(
        {.numerics = setup.numerics, .threads = setup.threads, .arena_bytes = setup.arena_bytes});
  }

  Result<std::vector<Groups>> make_groups(const RankGrid& grid) override {
    std::vector<Groups> groups(static_cast<size_t>(grid.ranks()));
    if (grid.tensor > 1) {
      for (int32_t stage = 0; stage < grid.pipeline; ++stage) {
        auto comms = take(grid.tensor);
        for (int32_t t = 0; t < grid.tensor; ++t) groups[stage * grid.tensor + t].tp = comms[t];
      }
    }
    if (grid.pipeline > 1) {
      for (int32_t t = 0; t < grid.tensor; ++t) {
        auto comms = take(grid.pipeline);
        for (int32_t stage = 0; stage < grid.pipeline; ++stage) {
          groups[stage * grid.tensor + t].pp = comms[stage];
        }
      }
    }
    if (grid.ranks() > 1) {
      auto comms = take(grid.ranks());
      for (int32_t rank = 0; rank < grid.ranks(); ++rank) groups[rank].world = comms[rank];
    }
    return groups;
  }

 private:
  std::vector<Comm*> take(int32_t size) {
    std::vector<Comm*> pointers;
    for (std::unique_ptr<Comm>& comm : make_thread_group(size)) {
      pointers.push_back(comm.get());
      comms_.push_back(std::move(comm));
    }
    return pointers;
  }

  std::vector<std::unique_ptr<Comm>> comms_;
};

// The plugin stays open for the life of the process: its objects have code in it.
Result<std::unique_ptr<Backend>> make_cuda_backend() {
  void* plugin = ::dlopen(plugin_path().c_str(), RTLD_NOW | RTLD_LOCAL);
  if (plugin == nullptr) {
    return unavailable(std::string("device cuda: ") + ::dlerror()).about("device");
  }
  auto make = reinterpret_cast<MakeBackend>(::dlsym(plugin, kBackendSymbol));
  std::string why;
  Backend* backend = make == nullptr ? nullptr : make(kBackendAbi, &why);
  if (backend == nullptr) {
    if (why.empty()) why = std::string(kCudaPlugin) + " is of another version";
    return unavailable("device cuda: " + why).about("device");
  }
  return std::unique_ptr<Backend>(backend);
}

}  // namespace

std::unique_ptr<Backend> make_cpu_backend() { return std::make_unique<CpuBackend>(); }

Result<std::unique_ptr<Backend>> make_backend(EngineOptions::Device device) {
  if (device == EngineOptions::Device::kCpu) return make_cpu_backend();
  Result<std::unique_ptr<Backend>> cuda = make_cuda_backend();
  if (cuda.is_ok() || device == EngineOptions::Device::kCuda) return cuda;
  return make_cpu_backend();
}

}  // namespace fathom
