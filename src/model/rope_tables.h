// Rotary tables: frequencies, with the ways in which longer contexts stretch them (models.md 2.2),
// and the cosines and sines of every position. Pure functions.
#pragma once

#include <cstdint>
#include <variant>
#include <vector>

#include "fathom/weight.h"

namespace fathom {

// Positions divided by `factor`.
struct LinearRope {
  double factor = 1.0;
};

// Llama 3.1: pairs that turn less than `low_frequency` times in the original context are slowed by
// `factor`, those that turn more than `high_frequency` times stay, the rest lie between.
struct Llama3Rope {
  double factor = 1.0;
  double low_frequency = 1.0;
  double high_frequency = 4.0;
  double original_positions = 8192.0;
};

// Peng et al., 2023.
struct YarnConfig {
  double factor = 1.0;
  double original_positions = 4096.0;
  double beta_fast = 32.0;
  double beta_slow = 1.0;
  double attention_factor = 1.0;  // multiplies cosines and sines
  double mscale_all_dims = 0.0;   // 0: not set; latent attention scales its softmax by it
};

using RopeScaling = std::variant<std::monostate, LinearRope, Llama3Rope, YarnConfig>;

struct RopeConfig {
  double theta = 10000.0;
  int32_t dims = 64;
  RopeScaling scaling;
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
