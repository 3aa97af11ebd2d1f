// Activations between ops: reading them as float32 rows, and writing what an op computed in the
// form its consumer wants (the epilogue that rounds and quantizes).
#pragma once

#include <cstdint>

#include "fathom/ops.h"
#include "ops/cpu/matmul.h"

namespace fathom {

// Rows of `x` as float32: the tensor itself when it is float32, else a copy taken from `arena`.
Rows read_rows(const Tensor& x, Arena& arena);
// The same with the copy's memory given: [rows, columns].
Rows read_rows(const Tensor& x, float* data);

// The same for an activation; e4m3 values come decoded with their scales.
Rows read_rows(const Act& x, Arena& arena);
Rows read_rows(const Act& x, float* data);

// An undefined-content activation [rows, columns] of `spec`, taken from `arena`.
Act make_act(int64_t rows, int64_t columns, const ActSpec& spec, Arena& arena);

// Groups of 128 columns that an activation of `columns` has.
int64_t scale_groups(int64_t columns, const ActSpec& spec);

// Writes one float32 row to row `i` of `act`: as it is, rounded to bfloat16, or rounded to bfloat16
// and then quantized to e4m3 in groups of 128 (docs/numerics.md). `row` is overwritten.
void write_row(float* row, const Act& act, int64_t i);

// What a scale is rounded up to.
enum class ScaleForm { kFloat, kBF16, kPowerOfTwo };

// Quantizes n <= 128 values in one group: scale = max(|x|, 1e-4) / 448, rounded up to its form,
// code = e4m3(x / scale). Returns the scale.
float quantize_group(const float* x, int64_t n, ScaleForm form, uint8_t* codes);

// silu(gate) * up of rows [gate | up]; writes `width` values a row in place, at the row's start.
void gate_rows(float* rows, int64_t count, int64_t width);

// Stores n floats to element `at` of a float32 or bfloat16 tensor's memory.
void store_floats(const float* x, int64_t n, DType dtype, void* to, int64_t at);
// Loads n floats from there.
void load_floats(const void* from, DType dtype, int64_t at, int64_t n, float* x);
// Rounds n values through `dtype` (float32: nothing).
void round_floats(float* x, int64_t n, DType dtype);

}  // namespace fathom
