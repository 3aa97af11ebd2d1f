// The layers' ops, each a few kernels with float32 rows between them.
#include "kernels/dense.h"
#include "ops/cuda/cuda_ops.h"

namespace fathom {

using kernels::Format;

kernels::Format CudaOps::act_format() const { return format_of(act_dtype()); }

void CudaOps::check_single(const Comm* group) const {
  FATHOM_CHECK(group == nullptr || group->size() == 1, "this backend runs one rank");
}

Act CudaOps::take_act(int64_t rows, int64_t columns, const ActSpec& spec) {
  Act act;
  act.spec = spec;
  switch (spec.format) {
    case ActFormat::kF32: act.data = arena_.take(DType::kF32, {rows, columns}); break;
    case ActFormat::kBF16: act.data = arena_.take(DType::kBF16, {rows, columns}); break;
    case ActFormat::kFp8Block:
      act.data = arena_.take(DType::kF8E4M3, {rows, columns});
      act.scales =
          arena_.take(DType::kF32, {rows, (spec.first_column_in_block + columns + 127) / 128});
      break;
  }
  return act;
}

Tensor CudaOps::linear(const Act& x, const Weight& weight) {
  arena_.name_op("linear");
  const Tensor out = arena_.take(act_dtype(), {x.data.shape[0], weight.out()});
  linear_partial(x, weight, out);
  return out;
}

Partial CudaOps::linear_partial(const Act& x, const Weight& weight, const Tensor& out) {
  multiply(x, weight, out, act_format());
  return Partial{out};
}

Tensor CudaOps::logits(const Act& x, const Weight& head, Comm* group) {
  check_single(group);
  arena_.name_op("logits");
  const Tensor out = arena_.take(DType::kF32, {x.data.shape[0], head.out()});
  peaked_logits_ = nullptr;
  multiply(x, head, out, Format::kF32);
  return out;
}

}  // namespace fathom
