// Layers to stages, and what cannot be split.
#include "model/stage.h"

namespace fathom {
namespace {

Span layers_of(const Groups& groups, int32_t layers) {
  const int64_t stage = Groups::rank_of(groups.pp);
  const int64_t stages = Groups::size_of(groups.pp);
  return {layers * stage / stages, layers * (stage + 1) / stages};
}

}  // namespace

Stage::Stage(const Groups& ranks, int32_t model_layers)
    : groups(ranks), layers(layers_of(ranks, model_layers)) {}

Status check_split(int64_t n, const char* what, int32_t ranks) {
  if (n % ranks == 0) return Status::ok();
  return invalid_argument(std::string(what) + " " + std::to_string(n) +
                          " cannot be divided by the tensor parallel size " + std::to_string(ranks))
      .about("tensor_parallel_size");
}

Status check_stages(const Groups& groups, int32_t layers) {
  if (Groups::size_of(groups.pp) <= layers) return Status::ok();
  return invalid_argument("there are more pipeline stages than layers")
      .about("pipeline_parallel_size");
}

}  // namespace fathom
