// Linear layers, the gated pair of an MLP, and the vocabulary head.
#include <algorithm>

#include "ops/cpu/cpu_ops_impl.h"

namespace fathom {

void CpuOps::linear_rows(const Rows& x, const Weight& weight, float* out) {
  FATHOM_CHECK(x.columns == weight.in(), "activation and weight differ in columns");
  FATHOM_CHECK(x.scales == nullptr || weight.format == WeightFormat::kFp8Block,
               "FP8 activations need an FP8 weight");
  ArenaScope scope(arena_);
  float* scratch = floats(products_.scratch_floats(weight, pool_.size()));
  products_.matmul(x, weight, out, weight.out(), pool_, scratch);
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
  float* scratch = floats(products_.scratch_floats(head, pool_.size()));
  if (ranks == 1) {
    products_.matmul(rows, head, out.as<float>(), shard, pool_, scratch);
    return out;
  }
  const Tensor part = arena_.take(DType::kF32, {count, shard});
  const Tensor parts = arena_.take(DType::kF32, {ranks * count, shard});
  products_.matmul(rows, head, part.as<float>(), shard, pool_, scratch);
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
