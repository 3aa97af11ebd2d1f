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
#include "fathom/scratch.h"
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
  int64_t arena_bytes = 0;   // step workspace, from the memory plan
  int64_t weight_bytes = 0;  // likewise, with packed copies; 0: not known
  int32_t threads = 1;       // of the CPU backend, for this rank
  bool deterministic = false;  // a row's results do not depend on what else is in its step
};

class Backend {
 public:
  virtual ~Backend() = default;

  // "cpu", or the GPU's name.
  virtual std::string device_name() const = 0;
  // Which device it is, for those who look at it from outside: a GPU's PCI bus id; empty: none.
  virtual std::string device_id() const { return {}; }
  // Whether a sequence's numbers are the same whatever else is in its steps: what the setting
  // `deterministic` promises.
  virtual bool deterministic() const { return false; }
  // Bytes that the memory plan may give to one rank, weights included, so that `fraction` of the
  // device's memory is in use at most. What is in use already, and what a backend takes beside the
  // plan, are taken off.
  virtual Result<int64_t> memory_bytes_per_rank(const RankGrid& grid, double fraction) = 0;
  // What its ops take from the step arena beside their outputs; null: what the CPU's take.
  virtual std::unique_ptr<ScratchBounds> scratch_bounds(Numerics) const { return nullptr; }
  // Step workspace for the worst step, which CountOps counted with these bounds.
  virtual int64_t workspace_bytes(int64_t counted_bytes) const { return counted_bytes; }
  // Tokens of a step that fill whole rounds of its products' tiles, in a model of dense layers of
  // this width; 0: any number is as good.
  virtual int32_t round_tokens(int32_t) const { return 0; }
  // Called on the rank's own thread.
  virtual Result<std::unique_ptr<Ops>> make_ops(const OpsSetup& setup) = 0;
  // The groups of every rank, by rank. They live as long as the backend.
  virtual Result<std::vector<Groups>> make_groups(const RankGrid& grid) = 0;
};

// What a backend plugin exports with C linkage as kBackendSymbol. Null with a sentence in `why`
// when there is no device that it can use; null without one when `abi` is not the one it was built
// with.
inline constexpr int32_t kBackendAbi = 6;
inline constexpr const char* kBackendSymbol = "fathom_make_backend";
using MakeBackend = Backend* (*)(int32_t abi, std::string* why);

}  // namespace fathom
