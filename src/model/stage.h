// Stage: this rank's place in the pipeline and the layers that come with it; what every family asks
// of the ranks it is split over. Values; immutable.
#pragma once

#include <cstdint>
#include <string>

#include "fathom/comm.h"
#include "fathom/status.h"
#include "fathom/weight.h"

namespace fathom {

struct Stage {
  Stage(const Groups& ranks, int32_t model_layers);

  bool is_first() const { return Groups::rank_of(groups.pp) == 0; }
  bool is_last() const { return Groups::rank_of(groups.pp) + 1 == Groups::size_of(groups.pp); }
  int32_t tensor_ranks() const { return Groups::size_of(groups.tp); }

  const Groups groups;
  const Span layers;
};

// Fails when n things cannot be dealt to `ranks` ranks: "num_attention_heads 28 cannot be ...".
Status check_split(int64_t n, const char* what, int32_t ranks);
// Fails when there are more stages than layers.
Status check_stages(const Groups& groups, int32_t layers);

}  // namespace fathom
