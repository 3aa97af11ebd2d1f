// Inputs of op cases: host arrays from a seed, and their way into a backend.
#pragma once

#include <cmath>
#include <random>
#include <vector>

#include "base/float_formats.h"
#include "fathom/ops.h"

namespace fathom::testing {

// A matrix with the values that its stored form stands for.
struct HostMatrix {
  int64_t rows = 0;
  int64_t columns = 0;
  std::vector<float> values;

  double at(int64_t r, int64_t c) const { return values[r * columns + c]; }
};

inline HostMatrix random_matrix(int64_t rows, int64_t columns, uint32_t seed, float spread = 1.0F) {
  std::mt19937 random(seed);
  std::normal_distribution<float> normal(0.0F, spread);
  HostMatrix m{rows, columns, std::vector<float>(rows * columns)};
  for (float& x : m.values) x = normal(random);
  return m;
}

inline HostMatrix rounded_to_bf16(HostMatrix m) {
  for (float& x : m.values) x = round_to_bf16(x);
  return m;
}

template <typename T>
HostTensor host_tensor(std::vector<T> values, DType dtype, std::initializer_list<int64_t> shape) {
  auto owner = std::make_shared<std::vector<T>>(std::move(values));
  return {Tensor::of(owner->data(), dtype, shape), owner};
}

// Uploads a matrix in act_dtype.
inline Tensor place(Ops& ops, const HostMatrix& m) {
  const HostTensor host = host_tensor(m.values, DType::kF32, {m.rows, m.columns});
  return ops.place(host, ops.act_dtype()).value();
}

inline Tensor place_floats(Ops& ops, const std::vector<float>& values) {
  const auto n = static_cast<int64_t>(values.size());
  return ops.place(host_tensor(values, DType::kF32, {n}), DType::kF32).value();
}

inline Tensor place_ints(Ops& ops, const std::vector<int32_t>& values) {
  const auto n = static_cast<int64_t>(values.size());
  return ops.place(host_tensor(values, DType::kI32, {n}), DType::kI32).value();
}

// An FP8 block weight whose first column lies inside a scale block, and the values it stands for.
struct Fp8Weight {
  HostWeight stored;
  HostMatrix matrix;
};

inline Fp8Weight random_fp8(int64_t rows, int64_t columns, int32_t first_column, uint32_t seed) {
  const HostMatrix source = random_matrix(rows, columns, seed, 60.0F);
  const int64_t blocks = (first_column + columns + 127) / 128;
  const HostMatrix scales = random_matrix((rows + 127) / 128, blocks, seed + 1, 0.001F);
  Fp8Weight w;
  w.matrix = source;
  std::vector<uint8_t> codes(rows * columns);
  std::vector<float> positive = scales.values;
  for (float& s : positive) s = std::fabs(s) + 0.0005F;
  for (int64_t i = 0; i < rows * columns; ++i) {
    codes[i] = float_to_e4m3(source.values[i]);
    const int64_t block = i / columns / 128 * blocks + (first_column + i % columns) / 128;
    w.matrix.values[i] = e4m3_to_float(codes[i]) * positive[block];
  }
  w.stored.values = host_tensor(codes, DType::kF8E4M3, {rows, columns});
  w.stored.scales = host_tensor(positive, DType::kF32, {scales.rows, blocks});
  w.stored.first_column_in_block = first_column;
  return w;
}

inline Act plain_act(Ops& ops, const HostMatrix& m) {
  const bool reference = ops.numerics() == Numerics::kReference;
  return Act{place(ops, m), {}, {reference ? ActFormat::kF32 : ActFormat::kBF16, false, 0}};
}

// x times w transposed, in float64.
inline std::vector<double> product(const HostMatrix& x, const HostMatrix& w) {
  std::vector<double> y(x.rows * w.rows);
  for (int64_t i = 0; i < x.rows; ++i) {
    for (int64_t o = 0; o < w.rows; ++o) {
      double sum = 0.0;
      for (int64_t k = 0; k < x.columns; ++k) sum += x.at(i, k) * w.at(o, k);
      y[i * w.rows + o] = sum;
    }
  }
  return y;
}

}  // namespace fathom::testing
