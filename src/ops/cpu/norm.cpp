// RMSNorm (models.md 2.1), alone and joined to the residual sum: float32 inside, rounded once.
#include <cmath>

#include "ops/cpu/cpu_ops_impl.h"
#include "ops/cpu/norm.h"
#include "ops/cpu/simd.h"

namespace fathom {

void rms_norm(const float* x, const float* weight, int64_t n, float epsilon, float* y) {
  __m256 squares = _mm256_setzero_ps();
  int64_t i = 0;
  for (; i + simd::kLanes <= n; i += simd::kLanes) {
    const __m256 v = _mm256_loadu_ps(x + i);
    squares = _mm256_fmadd_ps(v, v, squares);
  }
  float sum = simd::sum(squares);
  for (; i < n; ++i) sum += x[i] * x[i];
  const float scale = 1.0F / std::sqrt(sum / static_cast<float>(n) + epsilon);
  const __m256 by = _mm256_set1_ps(scale);
  for (i = 0; i + simd::kLanes <= n; i += simd::kLanes) {
    const __m256 v = _mm256_mul_ps(_mm256_loadu_ps(x + i), by);
    _mm256_storeu_ps(y + i, _mm256_mul_ps(v, _mm256_loadu_ps(weight + i)));
  }
  for (; i < n; ++i) y[i] = x[i] * scale * weight[i];
}

Act CpuOps::norm(const Tensor& x, const Tensor& weight, float epsilon, ActSpec out) {
  const int64_t rows = x.shape[0];
  const int64_t columns = x.shape[1];
  FATHOM_CHECK(weight.elements() == columns, "norm weight has another width");
  const Act act = make_act(rows, columns, out, arena_);
  ArenaScope scope(arena_);
  float* row = floats(columns);
  for (int64_t i = 0; i < rows; ++i) {
    load_floats(x.data, x.dtype, i * x.stride[0], columns, row);
    rms_norm(row, weight.as<float>(), columns, epsilon, row);
    write_row(row, act, i);
  }
  return act;
}

void CpuOps::reduce_add(const Partial& partial, const Tensor& residual, Comm* group) {
  if (!partial.data.defined()) return;
  const int64_t n = residual.shape[1];
  FATHOM_CHECK(partial.data.shape[0] == residual.shape[0] && partial.data.shape[1] == n,
               "partial sum has another shape than the residual");
  all_reduce(partial.data, group);
  ArenaScope scope(arena_);
  float* sum = floats(n);
  float* part = floats(n);
  for (int64_t i = 0; i < residual.shape[0]; ++i) {
    load_floats(residual.data, residual.dtype, i * residual.stride[0], n, sum);
    load_floats(partial.data.data, partial.data.dtype, i * partial.data.stride[0], n, part);
    simd::add_scaled(1.0F, part, n, sum);
    store_floats(sum, n, residual.dtype, residual.data, i * residual.stride[0]);
  }
}

Act CpuOps::reduce_add_norm(const Partial& partial, const Tensor& residual, const Tensor& weight,
                            float epsilon, ActSpec out, Comm* group) {
  reduce_add(partial, residual, group);
  return norm(residual, weight, epsilon, out);
}

}  // namespace fathom
