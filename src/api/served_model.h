// The model that this front end serves: the engine's handle and everything text-sided about it.
// Made by the daemon, immutable afterwards, shared by all handlers.
#pragma once

#include <cstdint>
#include <memory>
#include <optional>
#include <string>

#include "api/limits.h"
#include "api/work_pool.h"
#include "base/clock.h"
#include "base/hash.h"
#include "base/metrics.h"
#include "fathom/engine.h"
#include "text/chat_format.h"
#include "text/tokenizer.h"

namespace fathom::api {

// Sampling defaults of the checkpoint's generation_config.json.
struct SamplingDefaults {
  float temperature = 1.0F;
  float top_p = 1.0F;
  int32_t top_k = 0;
};

struct ServedModel {
  std::string name;
  int64_t created_unix_s = 0;
  std::shared_ptr<Engine> engine;
  std::shared_ptr<const text::Tokenizer> tokenizer;
  std::optional<text::ChatFormat> chat_format;  // empty: completions only
  int32_t max_model_len = 0;
  int32_t vocab = 0;  // ids of prompts and biases are below this
  SamplingDefaults defaults;
};

// What every handler works with. Owned by the daemon; outlives the listeners.
struct ApiContext {
  ServedModel model;
  ApiLimits limits;
  WorkPool* pool = nullptr;
  const Clock* clock = nullptr;
  const Metrics* metrics = nullptr;
  const KeyedHasher* hasher = nullptr;  // names prefix-cache tenants
  bool share_prefixes = false;          // all callers are one tenant
  bool allow_control_tokens = false;    // text of users may spell them
  bool access_log = true;
  std::string version;
};

}  // namespace fathom::api
