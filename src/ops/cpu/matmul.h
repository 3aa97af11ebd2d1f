// The products under every CPU op. Both kernels give each output the same arithmetic whatever
// stands beside it: one vector accumulator per output and scale block, blocks in column order.
#pragma once

#include <cstdint>

#include "fathom/weight.h"
#include "ops/cpu/instructions.h"
#include "ops/cpu/thread_pool.h"

namespace fathom {

// Rows of activations as float32; e4m3 activations come decoded, with their scales beside them.
struct Rows {
  const float* data = nullptr;
  int64_t stride = 0;
  int64_t count = 0;
  int64_t columns = 0;
  const float* scales = nullptr;  // [count, scale_stride], one per weight block; null: 1
  int64_t scale_stride = 0;
  const int32_t* index = nullptr;  // row i of the product is row index[i]; null: row i

  const float* row(int64_t i) const { return data + at(i) * stride; }
  const float* row_scales(int64_t i) const { return scales + at(i) * scale_stride; }

 private:
  int64_t at(int64_t i) const { return index == nullptr ? i : index[i]; }
};

// A dense float32 or bfloat16 matrix [rows, columns], rows `stride` elements apart.
struct Matrix {
  const void* data = nullptr;
  int64_t stride = 0;
  int64_t rows = 0;
  int64_t columns = 0;
  DType dtype = DType::kF32;
};

// The products, on the instructions that the machine has; the bits are the same with either.
class Products {
 public:
  explicit Products(Instructions instructions) : instructions_(instructions) {}

  // Floats of scratch that `matmul` needs: some decoded weight rows per thread.
  int64_t scratch_floats(const Weight& weight, int32_t threads) const;

  // out[i][o] = sum over k of x[i][k] * w[o][k], float32; out rows are `out_stride` apart.
  void matmul(const Rows& x, const Weight& weight, float* out, int64_t out_stride, ThreadPool& pool,
              float* scratch) const;

  // Outputs [begin, end) of it on the calling thread, `begin` a multiple of 8.
  void matmul_part(const Rows& x, const Weight& weight, int64_t begin, int64_t end, float* out,
                   int64_t out_stride, float* scratch) const;
  // About the multiply-adds that `matmul` is worth, for ThreadPool::split.
  static int64_t cost(int64_t rows, const Weight& weight);

  // out[i][o] = scale * sum over k of x[i][k] * b[o][k] for x.count rows and b.rows outputs.
  void dot_rows(const Rows& x, const Matrix& b, float scale, float* out, int64_t out_stride) const;

  // out[i][c] += sum over k of x[i][k] * b[k][c] for x.columns = b.rows, in order of k.
  void add_product(const Rows& x, const Matrix& b, float* out, int64_t out_stride) const;

 private:
  bool wide() const { return instructions_ == Instructions::kAvx512; }

  const Instructions instructions_;
};

}  // namespace fathom
