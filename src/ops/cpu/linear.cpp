// Linear layers, the gated pair of an MLP, and the vocabulary head.
#include <algorithm>
#include <cmath>

#include "ops/cpu/cpu_ops_impl.h"
#include "ops/cpu/simd.h"

namespace fathom {

void CpuOps::linear_rows(const Rows& x, const Weight& weight, float* out) {
  FATHOM_CHECK(x.columns == weight.in(), "activation and weight differ in columns");
  FATHOM_CHECK(x.scales == nullptr || weight.format == WeightFormat::kFp8Block,
               "FP8 activations need an FP8 weight");
  ArenaScope scope(arena_);
  float* scratch = floats(matmul_scratch_floats(weight, pool_.size()));
  matmul(x, weight, out, weight.out(), pool_, scratch);
  round_floats(out, x.count * weight.out(), act_dtype());
}

Tensor CpuOps::linear(const Act& x, const Weight& weight) {
  const Tensor out = arena_.take(act_dtype(), {x.data.shape[0], weight.out()});
  linear_partial(x, weight, out);
  return out;
}

Partial CpuOps::linear_partial(const Act& x, const Weight& weight, const Tensor& out) {
  FATHOM_CHECK(out.shape[0] == x.data.shape[0] && out.shape[1] == weight.out(),
               "linear output has another shape");
  ArenaScope scope(arena_);
  const Rows rows = read_rows(x, arena_);
  if (out.dtype == DType::kF32) {
    linear_rows(rows, weight, out.as<float>());
  } else {
    float* y = floats(rows.count * weight.out());
    linear_rows(rows, weight, y);
    store_floats(y, rows.count * weight.out(), out.dtype, out.data, 0);
  }
  return Partial{out};
}

void CpuOps::gate_rows(float* rows, int64_t count, int64_t width) {
  const __m256 one = _mm256_set1_ps(1.0F);
  for (int64_t i = 0; i < count; ++i) {
    float* gate = rows + i * 2 * width;
    const float* up = gate + width;
    int64_t k = 0;
    for (; k + simd::kLanes <= width; k += simd::kLanes) {
      const __m256 g = _mm256_loadu_ps(gate + k);
      const __m256 low = _mm256_max_ps(g, _mm256_set1_ps(-88.0F));
      const __m256 e = simd::exp(_mm256_sub_ps(_mm256_setzero_ps(), low));
      const __m256 silu = _mm256_div_ps(g, _mm256_add_ps(one, e));
      _mm256_storeu_ps(gate + k, _mm256_mul_ps(silu, _mm256_loadu_ps(up + k)));
    }
    for (; k < width; ++k) gate[k] = gate[k] / (1.0F + std::exp(-gate[k])) * up[k];
  }
}

Act CpuOps::gated_linear(const Act& x, const Weight& gate_up, ActSpec out) {
  const int64_t count = x.data.shape[0];
  const int64_t width = gate_up.out() / 2;
  const Act act = make_act(count, width, out, arena_);
  ArenaScope scope(arena_);
  const Rows rows = read_rows(x, arena_);
  float* y = floats(count * gate_up.out());
  linear_rows(rows, gate_up, y);
  gate_rows(y, count, width);
  for (int64_t i = 0; i < count; ++i) write_row(y + i * 2 * width, act, i);
  return act;
}

Tensor CpuOps::logits(const Act& x, const Weight& head, Comm* group) {
  const int64_t count = x.data.shape[0];
  const int64_t ranks = group == nullptr ? 1 : group->size();
  const int64_t shard = head.out();
  const Tensor out = arena_.take(DType::kF32, {count, ranks * shard});
  if (count == 0) return out;  // every rank sees the same batch: none of them gathers
  ArenaScope scope(arena_);
  const Rows rows = read_rows(x, arena_);
  float* scratch = floats(matmul_scratch_floats(head, pool_.size()));
  if (ranks == 1) {
    matmul(rows, head, out.as<float>(), shard, pool_, scratch);
    return out;
  }
  const Tensor part = arena_.take(DType::kF32, {count, shard});
  const Tensor parts = arena_.take(DType::kF32, {ranks * count, shard});
  matmul(rows, head, part.as<float>(), shard, pool_, scratch);
  note(group->all_gather(part, parts));
  for (int64_t rank = 0; rank < ranks; ++rank) {
    for (int64_t i = 0; i < count; ++i) {
      std::copy_n(parts.as<float>() + (rank * count + i) * shard, shard,
                  out.as<float>() + i * ranks * shard + rank * shard);
    }
  }
  return out;
}

}  // namespace fathom
