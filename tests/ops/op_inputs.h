// Inputs of op cases: host arrays that are a hash of (seed, element), the same in C++ and in
// tests/golden/ops/make_op_vectors.py, and their way into a backend.
#pragma once

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <thread>
#include <vector>

#include "base/float_formats.h"
#include "fathom/ops.h"

namespace fathom::testing {

inline uint64_t splitmix64(uint64_t x) {
  x += 0x9E3779B97F4A7C15U;
  x = (x ^ (x >> 30)) * 0xBF58476D1CE4E5B9U;
  x = (x ^ (x >> 27)) * 0x94D049BB133111EBU;
  return x ^ (x >> 31);
}

// Uniform numbers in [-1, 1) with 24 bits.
class HashNumbers {
 public:
  explicit HashNumbers(uint32_t seed) : base_(splitmix64(seed)) {}
  float operator[](uint64_t i) const {
    const uint64_t bits = splitmix64(base_ + i * 0x9E3779B97F4A7C15U) >> 40;
    return static_cast<float>(static_cast<int64_t>(bits) - (int64_t{1} << 23)) * 0x1p-23F;
  }

 private:
  uint64_t base_;
};

// A matrix with the values that its stored form stands for.
struct HostMatrix {
  int64_t rows = 0;
  int64_t columns = 0;
  std::vector<float> values;

  double at(int64_t r, int64_t c) const { return values[r * columns + c]; }
};

// Calls body(begin, end) for parts of [0, count), on every core where they are many.
template <typename Body>
void in_parts(int64_t count, Body&& body) {
  constexpr int64_t kPartMin = int64_t{1} << 20;
  const int64_t cores = std::max<int64_t>(1, std::thread::hardware_concurrency());
  const int64_t parts = std::clamp<int64_t>(count / kPartMin, 1, cores);
  std::vector<std::jthread> threads;
  for (int64_t p = 1; p < parts; ++p) {
    threads.emplace_back([&, p] { body(count * p / parts, count * (p + 1) / parts); });
  }
  body(0, count / parts);
}

// Uniform in [-spread, spread).
inline HostMatrix random_matrix(int64_t rows, int64_t columns, uint32_t seed, float spread = 1.0F) {
  const HashNumbers numbers(seed);
  HostMatrix m{rows, columns, std::vector<float>(rows * columns)};
  in_parts(rows * columns, [&](int64_t begin, int64_t end) {
    for (int64_t i = begin; i < end; ++i) m.values[i] = spread * numbers[i];
  });
  return m;
}

inline HostMatrix rounded_to_bf16(HostMatrix m) {
  for (float& x : m.values) x = round_to_bf16(x);
  return m;
}

// The values that a matrix has once it is in a backend's act_dtype.
inline HostMatrix as_stored(const HostMatrix& m, Numerics numerics) {
  return numerics == Numerics::kNative ? rounded_to_bf16(m) : m;
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

inline Tensor place_bytes(Ops& ops, const std::vector<uint8_t>& values) {
  const auto n = static_cast<int64_t>(values.size());
  return ops.place(host_tensor(values, DType::kU8, {n}), DType::kU8).value();
}

inline Act plain_act(Ops& ops, const HostMatrix& m) {
  const bool reference = ops.numerics() == Numerics::kReference;
  return Act{place(ops, m), {}, {reference ? ActFormat::kF32 : ActFormat::kBF16, false, 0}};
}

// A matrix as a checkpoint stores it, and the values it stands for.
struct StoredWeight {
  HostWeight stored;
  HostMatrix matrix;
};

inline StoredWeight random_bf16(int64_t rows, int64_t columns, uint32_t seed, float spread) {
  StoredWeight w{{}, random_matrix(rows, columns, seed, spread)};
  std::vector<uint16_t> bits(w.matrix.values.size());
  in_parts(rows * columns, [&](int64_t begin, int64_t end) {
    for (int64_t i = begin; i < end; ++i) {
      bits[i] = float_to_bf16(w.matrix.values[i]);
      w.matrix.values[i] = bf16_to_float(bits[i]);
    }
  });
  w.stored.values = host_tensor(std::move(bits), DType::kBF16, {rows, columns});
  return w;
}

// FP8 e4m3 with 128x128 blocks whose first column lies inside a scale block.
inline StoredWeight random_fp8(int64_t rows, int64_t columns, int32_t first_column, uint32_t seed,
                               float spread = 0.1F) {
  const HashNumbers numbers(seed);
  const HashNumbers scale_numbers(seed + 1);
  const int64_t row_blocks = (rows + 127) / 128;
  const int64_t blocks = (first_column + columns + 127) / 128;
  std::vector<float> scales(row_blocks * blocks);
  for (size_t i = 0; i < scales.size(); ++i) {
    scales[i] = spread / 256.0F * (1.0F + 0.5F * scale_numbers[i]);
  }
  StoredWeight w{{}, {rows, columns, std::vector<float>(rows * columns)}};
  std::vector<uint8_t> codes(rows * columns);
  in_parts(rows * columns, [&](int64_t begin, int64_t end) {
    for (int64_t i = begin; i < end; ++i) {
      const int64_t block = i / columns / 128 * blocks + (first_column + i % columns) / 128;
      codes[i] = float_to_e4m3(256.0F * numbers[i]);
      w.matrix.values[i] = e4m3_to_float(codes[i]) * scales[block];
    }
  });
  w.stored.values = host_tensor(std::move(codes), DType::kF8E4M3, {rows, columns});
  w.stored.scales = host_tensor(std::move(scales), DType::kF32, {row_blocks, blocks});
  w.stored.first_column_in_block = first_column;
  return w;
}

inline StoredWeight random_weight(int64_t rows, int64_t columns, WeightFormat format, uint32_t seed,
                                  float spread) {
  return format == WeightFormat::kFp8Block ? random_fp8(rows, columns, 0, seed, spread)
                                           : random_bf16(rows, columns, seed, spread);
}

}  // namespace fathom::testing
