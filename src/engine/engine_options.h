// EngineOptions: everything that decides what one engine loads and how it runs. Made by the front
// end from its configuration; travels to the engine process as a frame. A value.
#pragma once

#include <cstdint>
#include <optional>
#include <string>

#include "fathom/status.h"
#include "fathom/weight.h"

namespace fathom {

struct EngineOptions {
  enum class Device : uint8_t { kAuto, kCpu, kCuda };
  enum class LoadFormat : uint8_t { kSafetensors, kSynthetic };

  std::string model_dir;  // holds config.json, and the shards unless the weights are synthetic
  LoadFormat load_format = LoadFormat::kSafetensors;
  Numerics numerics = Numerics::kNative;
  bool fp8_cache = false;  // KV entries as e4m3 with scales; else as numerics computes
  Device device = Device::kAuto;
  int32_t tensor_parallel = 1;
  int32_t pipeline_parallel = 1;
  // None: the model's longest context, or as much of it as the KV memory holds.
  std::optional<int32_t> max_model_len;
  int32_t max_num_seqs = 64;
  int32_t max_num_batched_tokens = 512;
  int32_t block_tokens = 64;
  std::optional<int64_t> kv_cache_bytes;  // of all ranks together; none: the memory plan decides
  double memory_fraction = 0.9;           // of the device's memory that one engine may use
  int32_t speculative_tokens = 0;         // drafts a step: 0 or 1 (the model's MTP layer)
  bool prefix_caching = true;
  bool deterministic = false;
  PackWeights pack_weights = PackWeights::kOff;
  int32_t threads = 0;  // of all CPU ranks together; 0: every core this process may use
  uint64_t seed = 0;    // of synthetic weights
  // Token ids from here on are padding of the vocabulary and are never sampled; none: the model's
  // vocab_size.
  std::optional<int32_t> vocab_tokens;
  int32_t queued_requests_max = 512;
  int64_t queued_tokens_max = int64_t{1} << 20;
  std::optional<int64_t> queued_us_max;         // until a first step; none: the request's deadline
  std::optional<int32_t> prefill_chunk_tokens;  // of one prompt in a step; none: the whole budget
  // Times a step of answers alone that one with prompts may take; none: no bound.
  std::optional<double> prefill_slowdown;
  // Of a step of answers and prompts while more wait than answer; none: no bound.
  std::optional<int64_t> prefill_step_us;
  // Lines on the engine's stderr, which is the front end's.
  bool log_json = false;
  int32_t log_level = 2;  // of base/log.h: 0 trace to 5 off
};

// Names the setting that is out of range.
Status check_options(const EngineOptions& options);

}  // namespace fathom
