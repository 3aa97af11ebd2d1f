// The tensors that a checkpoint of a given config holds, as a function of the config: names, shapes
// and dtypes as on the Hugging Face hub (models.md 3.2). Used to generate checkpoints and to count
// parameters. Pure.
#pragma once

#include <cstdint>
#include <vector>

#include "weights/arch_config.h"
#include "weights/safetensors_writer.h"

namespace fathom {

enum class TensorRole {
  kEmbedding,
  kHead,
  kNorm,
  kLinear,
  kResidualLinear,  // adds to the residual stream: o_proj, down_proj
  kExpert,          // a routed expert's gate or up
  kExpertResidual,  // its down
  kRouter,
  kRouterBias,
  kBias,
  kScale,  // of the FP8 tensor before it
};

struct InventoryTensor {
  TensorSpec spec;
  TensorRole role = TensorRole::kLinear;
  int64_t layer = -1;  // -1: embedding, last norm, head
  bool draft = false;
  bool copy = false;  // a draft layer's copy of the main embedding or head
};

// In model order. Linear weights are F8_E4M3 with scales when the config says fp8 (embeddings,
// norms, routers, head and eh_proj never are).
std::vector<InventoryTensor> tensor_inventory(const ArchConfig& config);

struct ParameterCount {
  int64_t total = 0;   // without draft layers, scales and correction biases' copies
  int64_t active = 0;  // that one token meets: its share of routed experts, embedding left out
  int64_t draft = 0;   // of draft layers, copies left out
};
ParameterCount count_parameters(const ArchConfig& config);

}  // namespace fathom
