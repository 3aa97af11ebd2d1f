// Rotary tables: frequencies with YaRN's interpolation (Peng et al., 2023; models.md 2.2), and the
// cosines and sines of every position. Pure functions.
#pragma once

#include <cstdint>
#include <optional>
#include <vector>

#include "fathom/weight.h"

namespace fathom {

struct YarnConfig {
  double factor = 1.0;
  double original_positions = 4096.0;
  double beta_fast = 32.0;
  double beta_slow = 1.0;
  double attention_factor = 1.0;  // multiplies cosines and sines
};

struct RopeConfig {
  double theta = 10000.0;
  int32_t dims = 64;
  std::optional<YarnConfig> yarn;
};

// 0.1 * a * ln(s) + 1, and 1 for s <= 1.
double yarn_mscale(double s, double a);

// Radians per position of each pair: [dims / 2].
std::vector<double> rope_frequencies(const RopeConfig& config);

struct RopeTables {
  HostTensor cosines;  // f32 [positions, dims / 2]
  HostTensor sines;
};

// Angles are float32 products of position and frequency, as in every reference implementation.
RopeTables make_rope_tables(const RopeConfig& config, int64_t positions);

}  // namespace fathom
