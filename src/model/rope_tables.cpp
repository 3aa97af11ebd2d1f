// Stretched frequencies and rotary tables.
#include "model/rope_tables.h"

#include <algorithm>
#include <cmath>
#include <numbers>

namespace fathom {
namespace {

// The pair whose wavelength fits `rotations` times into the original context.
double correction_dim(const RopeConfig& config, const YarnConfig& yarn, double rotations) {
  const double turns = yarn.original_positions / (rotations * 2.0 * std::numbers::pi);
  return config.dims * std::log(turns) / (2.0 * std::log(config.theta));
}

void stretch(const RopeConfig& config, const YarnConfig& yarn, std::vector<double>& frequencies) {
  const double low = std::max(std::floor(correction_dim(config, yarn, yarn.beta_fast)), 0.0);
  double high = std::min(std::ceil(correction_dim(config, yarn, yarn.beta_slow)),
                         static_cast<double>(config.dims - 1));
  if (low == high) high += 0.001;
  for (size_t i = 0; i < frequencies.size(); ++i) {
    const double plain = frequencies[i];
    const double ramp = std::clamp((static_cast<double>(i) - low) / (high - low), 0.0, 1.0);
    frequencies[i] = plain / yarn.factor * ramp + plain * (1.0 - ramp);
  }
}

void stretch(const RopeConfig&, const Llama3Rope& rope, std::vector<double>& frequencies) {
  for (double& f : frequencies) {
    const double turns = rope.original_positions * f / (2.0 * std::numbers::pi);
    const double keep = (turns - rope.low_frequency) / (rope.high_frequency - rope.low_frequency);
    const double share = std::clamp(keep, 0.0, 1.0);
    f = (1.0 - share) * f / rope.factor + share * f;
  }
}

void stretch(const RopeConfig&, const LinearRope& rope, std::vector<double>& frequencies) {
  for (double& f : frequencies) f /= rope.factor;
}

void stretch(const RopeConfig&, std::monostate, std::vector<double>&) {}

HostTensor owned(std::vector<float> values, int64_t rows, int64_t columns) {
  auto owner = std::make_shared<std::vector<float>>(std::move(values));
  return {Tensor::of(owner->data(), DType::kF32, {rows, columns}), owner};
}

}  // namespace

double yarn_mscale(double s, double a) { return s <= 1.0 ? 1.0 : 0.1 * a * std::log(s) + 1.0; }

std::vector<double> rope_frequencies(const RopeConfig& config) {
  std::vector<double> frequencies(config.dims / 2);
  for (size_t i = 0; i < frequencies.size(); ++i) {
    frequencies[i] = std::pow(config.theta, -2.0 * static_cast<double>(i) / config.dims);
  }
  std::visit([&](const auto& scaling) { stretch(config, scaling, frequencies); }, config.scaling);
  return frequencies;
}

RopeTables make_rope_tables(const RopeConfig& config, int64_t positions) {
  const std::vector<double> frequencies = rope_frequencies(config);
  const auto pairs = static_cast<int64_t>(frequencies.size());
  const auto* yarn = std::get_if<YarnConfig>(&config.scaling);
  const double factor = yarn != nullptr ? yarn->attention_factor : 1.0;
  std::vector<float> cosines(positions * pairs);
  std::vector<float> sines(positions * pairs);
  for (int64_t p = 0; p < positions; ++p) {
    for (int64_t i = 0; i < pairs; ++i) {
      const float angle = static_cast<float>(p) * static_cast<float>(frequencies[i]);
      cosines[p * pairs + i] = static_cast<float>(std::cos(double{angle}) * factor);
      sines[p * pairs + i] = static_cast<float>(std::sin(double{angle}) * factor);
    }
  }
  return {owned(std::move(cosines), positions, pairs), owned(std::move(sines), positions, pairs)};
}

}  // namespace fathom
