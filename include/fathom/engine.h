// Engine: the handle on one loaded model, the same in this process (tests, benchmarks, simulator)
// and across the engine process's socket. Thread-safe.
#pragma once

#include <cstdint>
#include <functional>
#include <memory>
#include <string>
#include <vector>

#include "fathom/bucket_counts.h"
#include "fathom/model.h"
#include "fathom/request.h"
#include "fathom/status.h"

namespace fathom {

// Numbers of the scheduler and the step loop, sampled by metrics and status pages.
struct EngineStats {
  int32_t requests_running = 0;
  int32_t requests_waiting = 0;
  int32_t waiting_tokens = 0;
  int64_t blocks_total = 0;
  int64_t blocks_used = 0;    // referenced by running sequences
  int64_t blocks_cached = 0;  // free, but hold a cached prefix
  uint64_t steps_total = 0;
  uint64_t prompt_tokens_total = 0;
  uint64_t generated_tokens_total = 0;
  uint64_t prefix_query_tokens_total = 0;
  uint64_t prefix_hit_tokens_total = 0;
  uint64_t preemptions_total = 0;
  uint64_t drafting_rows_total = 0;  // rows that verified at least one draft
  uint64_t drafted_tokens_total = 0;
  uint64_t accepted_draft_tokens_total = 0;
  StepSeconds step_seconds;
  StepTokens step_tokens;
};

enum class EngineState : uint8_t { kStarting, kLoading, kReady, kDraining, kStopped, kFailed };

struct EngineHealth {
  EngineState state = EngineState::kStarting;
  Status status;                 // why it failed
  double load_progress = 0.0;    // 0 to 1
  int64_t last_progress_us = 0;  // monotonic time of the last proof that the step loop moves
};

// What the front end must know of the loaded model.
struct EngineInfo {
  ModelInfo model;
  int32_t max_model_len = 0;
  int32_t block_tokens = 64;
  int64_t blocks_total = 0;
  std::string device;     // "cpu" or the GPU's name
  std::string device_id;  // a GPU's PCI bus id; empty: none
  std::string numerics;
  std::string plan_table;  // the memory planner's table, for people
};

class Engine {
 public:
  virtual ~Engine() = default;

  // kResourceExhausted (queue full, reason "queue_full"), kUnavailable (loading, draining, failed;
  // reasons "model_loading", "draining", "overloaded"), kInvalidArgument (longer than
  // max_model_len).
  virtual Result<std::unique_ptr<TokenStream>> submit(Request request) = 0;
  // No new requests; running ones go on. Returns at once; health() says kStopped when nothing runs.
  virtual void drain() = 0;
  virtual EngineHealth health() const = 0;
  virtual EngineStats stats() const = 0;
  virtual EngineInfo info() const = 0;
};

}  // namespace fathom
