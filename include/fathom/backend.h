// Backend: what a kind of device gives an engine process. The CPU's is linked in; CUDA's is a
// plugin that is opened only where a GPU is used. Made by the thread that loads a model, which
// outlives it.
#pragma once

#include <cstdint>
#include <memory>
#include <string>
#include <vector>

#include "fathom/comm.h"
#include "fathom/ops.h"
#include "fathom/status.h"

namespace fathom {

// How many ranks an engine has. Rank r is tensor-parallel rank r % tensor of stage r / tensor.
struct RankGrid {
  int32_t tensor = 1;
  int32_t pipeline = 1;
  int32_t ranks() const { return tensor * pipeline; }
};

// What one rank's Ops is made with.
struct OpsSetup {
  int32_t rank = 0;
  Numerics numerics = Numerics::kNative;
  int64_t arena_bytes = 0;  // step workspace, from the memory plan
  int32_t threads = 1;      // of the CPU backend, for this rank
};

class Backend {
 public:
  virtual ~Backend() = default;

  // "cpu", or the GPU's name.
  virtual std::string device_name() const = 0;
  // Bytes that one rank may use, weights included.
  virtual Result<int64_t> memory_bytes_per_rank(const RankGrid& grid) = 0;
  // Called on the rank's own thread.
  virtual Result<std::unique_ptr<Ops>> make_ops(const OpsSetup& setup) = 0;
  // The groups of every rank, by rank. They live as long as the backend.
  virtual Result<std::vector<Groups>> make_groups(const RankGrid& grid) = 0;
};

// What a backend plugin exports with C linkage as kBackendSymbol. Null when `abi` is not the one it
// was built with.
inline constexpr int32_t kBackendAbi = 1;
inline constexpr const char* kBackendSymbol = "fathom_make_backend";
using MakeBackend = Backend* (*)(int32_t abi);

}  // namespace fathom
