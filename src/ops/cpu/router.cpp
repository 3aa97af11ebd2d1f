// Grouped routing: sigmoid scores with a correction bias (V3), softmax greedy or group-limited
// (V2).
#include "ops/cpu/router.h"

#include <algorithm>
#include <cmath>
#include <limits>

namespace fathom {
namespace {

constexpr float kExcluded = -std::numeric_limits<float>::infinity();

// Index of the largest of n values, the lowest among equals.
int64_t best_of(const float* values, int64_t n) {
  return std::max_element(values, values + n) - values;
}

float group_score(GroupScore kind, const float* values, int64_t n) {
  if (kind == GroupScore::kMax || n < 2) return *std::max_element(values, values + n);
  float first = kExcluded;
  float second = kExcluded;
  for (int64_t i = 0; i < n; ++i) {
    second = std::max(second, std::min(first, values[i]));
    first = std::max(first, values[i]);
  }
  return first + second;
}

void score(const MoeParams& params, float* logits) {
  if (params.score == ScoreFunction::kSigmoid) {
    for (int32_t e = 0; e < params.experts; ++e) logits[e] = 1.0F / (1.0F + std::exp(-logits[e]));
    return;
  }
  const float largest = *std::max_element(logits, logits + params.experts);
  float sum = 0.0F;
  for (int32_t e = 0; e < params.experts; ++e) sum += logits[e] = std::exp(logits[e] - largest);
  for (int32_t e = 0; e < params.experts; ++e) logits[e] /= sum;
}

// Sets the choices of every group but the best groups_per_token to minus infinity.
void exclude_groups(const MoeParams& params, float* choices, float* group_scores) {
  const int64_t size = params.experts / params.groups;
  for (int32_t g = 0; g < params.groups; ++g) {
    group_scores[g] = group_score(params.group_score, choices + g * size, size);
  }
  // Groups still above kExcluded after this loop were not chosen.
  float* chosen = group_scores + params.groups;
  std::fill_n(chosen, params.groups, 0.0F);
  for (int32_t i = 0; i < params.groups_per_token; ++i) {
    const int64_t g = best_of(group_scores, params.groups);
    chosen[g] = 1.0F;
    group_scores[g] = kExcluded;
  }
  for (int32_t g = 0; g < params.groups; ++g) {
    if (chosen[g] == 0.0F) std::fill_n(choices + g * size, size, kExcluded);
  }
}

}  // namespace

int64_t route_scratch_floats(const MoeParams& params) { return params.experts + 2 * params.groups; }

void route(const MoeParams& params, float* logits, float* scratch, int32_t* ids, float* weights) {
  score(params, logits);
  float* choices = scratch;
  std::copy_n(logits, params.experts, choices);
  if (params.bias.defined()) {
    for (int32_t e = 0; e < params.experts; ++e) choices[e] += params.bias.as<float>()[e];
  }
  if (params.groups > 1) exclude_groups(params, choices, scratch + params.experts);
  float sum = 0.0F;
  for (int32_t i = 0; i < params.experts_per_token; ++i) {
    const int64_t e = best_of(choices, params.experts);
    ids[i] = static_cast<int32_t>(e);
    weights[i] = logits[e];
    sum += weights[i];
    choices[e] = kExcluded;
  }
  const float factor = params.normalize ? params.scale / (sum + 1e-20F) : params.scale;
  for (int32_t i = 0; i < params.experts_per_token; ++i) weights[i] *= factor;
}

}  // namespace fathom
