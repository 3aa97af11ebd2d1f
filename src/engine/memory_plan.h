// The memory plan: what an engine will take before it takes anything. Derived from CountOps: the
// same model text runs without data, at the worst step that is ever admitted. Pure but for reading
// the checkpoint's headers and the host's limits; called by the thread that loads.
#pragma once

#include <cstdint>
#include <memory>
#include <string>
#include <vector>

#include "engine/engine_options.h"
#include "engine/step_program.h"
#include "fathom/backend.h"
#include "fathom/model.h"
#include "fathom/weight.h"

namespace fathom {

// Of one pipeline stage, per rank.
struct StageMemory {
  int64_t weight_bytes = 0;
  int64_t packed_bytes = 0;     // of weights once more, in their packed form; 0: they are not
  int64_t kv_block_bytes = 0;   // of one block of all its cache groups
  int64_t fixed_bytes = 0;      // slot table, step arrays, outputs
  int64_t workspace_bytes = 0;  // step arena at the worst admitted shape
  KvLayout layout;
};

struct MemoryPlan {
  ModelInfo model;
  RankGrid grid;
  std::vector<StageMemory> stages;
  KvLayout cache;      // of all stages together
  int32_t blocks = 0;  // of each cache group, the padding block 0 included
  int32_t max_model_len = 0;
  int64_t available_bytes_per_rank = 0;  // what may be used
  std::string device;
  std::string device_id;
  SlotLimits slots;
  StepLimits step;
  int32_t prompt_logprob_tokens_max = 0;  // of a step

  int64_t rank_bytes(const StageMemory& stage) const {
    return stage.weight_bytes + stage.packed_bytes + stage.fixed_bytes + stage.workspace_bytes +
           int64_t{blocks} * stage.kv_block_bytes;
  }
  bool packs_weights() const;
  int64_t kv_bytes() const;  // of all ranks
  int64_t total_bytes() const;
  // For people: a line per part, a column per stage.
  std::string table() const;
};

// How many CPU threads each rank gets.
int32_t threads_per_rank(const EngineOptions& options);

// Of `weights` only names, shapes and formats are looked at. kResourceExhausted with the table in
// its sentence when the options cannot fit; kInvalidArgument when they contradict the model.
Result<MemoryPlan> plan_memory(const EngineOptions& options, const WeightSource& weights,
                               Backend& backend);
// The same with the checkpoint opened and the backend chosen as the options say.
Result<MemoryPlan> plan_memory(const EngineOptions& options);

// What model_dir and load_format name. With `shapes_only` synthetic weights have no data.
Result<std::shared_ptr<const WeightSource>> open_weights(const EngineOptions& options,
                                                         bool shapes_only);

}  // namespace fathom
