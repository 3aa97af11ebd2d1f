// The memory plan of a model directory, for inspect: what an engine would take here, or on ranks of
// a size that the user names.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "ctl/commands.h"

namespace fathom::ctl {

struct PlannedStage {
  int64_t weight_bytes = 0;
  int64_t packed_bytes = 0;
  int64_t kv_bytes = 0;
  int64_t workspace_bytes = 0;
  int64_t fixed_bytes = 0;  // slot table and step arrays
};

struct InspectPlan {
  bool fits = false;
  std::string why;  // it does not fit, or cannot be planned
  std::string table;
  std::vector<PlannedStage> stages;  // of one rank each; empty when it does not fit
  int64_t kv_blocks = 0;
  int64_t block_tokens = 0;
  int64_t max_model_len = 0;
};

// `directory` holds config.json. Weights are looked at, not read; without `has_weights` their
// shapes follow from the config.
InspectPlan make_plan(const InspectOptions& options, const std::string& directory,
                      bool has_weights);

}  // namespace fathom::ctl
