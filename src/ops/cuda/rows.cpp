// What stands between products: each op one kernel on rows of vectors, or a few plain ones where
// rows do not lie so.
#include "kernels/rows.h"

#include "kernels/dense.h"
#include "ops/cuda/choose_rows.h"
#include "ops/cuda/cuda_ops.h"

namespace fathom {

void CudaOps::finish(const float* x, int64_t rows, int64_t stride, const Act& act) {
  const int64_t columns = act.data.shape[1];
  Tensor from = Tensor::of(const_cast<float*>(x), DType::kF32, {rows, columns});
  from.stride[0] = stride;
  if (!rows_in_vectors({&from, &act.data}) || !groups_in_vectors(act.spec)) {
    kernels::finish_rows(stream_, x, rows, columns, stride, epilogue_of(act));
    return;
  }
  check(kernels::join_rows(stream_, rows_of(from), columns, {}, 0, rows, epilogue_of(act)),
        "finish");
}

Tensor CudaOps::embed(const Tensor& ids, const Tensor& table, int32_t first_row, Comm* group) {
  check_single(group);
  arena_.name_op("embed");
  const int64_t columns = table.shape[1];
  const Tensor out = arena_.take(act_dtype(), {ids.shape[0], columns});
  if (!rows_in_vectors({&table, &out})) {
    kernels::embed(stream_, ids.as<int32_t>(), ids.shape[0], rows_of(table), table.shape[0],
                   first_row, columns, rows_of(out));
    return out;
  }
  check(kernels::pick_rows(stream_, ids.as<int32_t>(), ids.shape[0], rows_of(table), table.shape[0],
                           first_row, columns, epilogue_of(Act{out, {}, {}})),
        "embed");
  return out;
}

Act CudaOps::norm(const Tensor& x, const Tensor& weight, float epsilon, ActSpec out) {
  return add_norm(Partial{}, x, weight, epsilon, out);
}

Act CudaOps::reduce_add_norm(const Partial& partial, const Tensor& residual, const Tensor& weight,
                             float epsilon, ActSpec out, Comm* group) {
  check_single(group);
  return add_norm(partial, residual, weight, epsilon, out);
}

// The partial's data may be undefined.
Act CudaOps::add_norm(const Partial& partial, const Tensor& x, const Tensor& weight, float epsilon,
                      ActSpec out) {
  arena_.name_op("norm");
  const int64_t rows = x.shape[0];
  const int64_t columns = x.shape[1];
  const Act act = take_act(rows, columns, out);
  if (partial.open) {
    if (close_sum_in_norm(partial, x, weight, epsilon, act)) return act;
    close_sum(partial);
  }
  const Tensor& part = partial.data;
  const bool vectors = rows_in_vectors({part.defined() ? &part : nullptr, &x, &act.data});
  if (vectors && groups_in_vectors(out) && columns <= kernels::kNormColumnsMax) {
    const kernels::Rows more = part.defined() ? rows_of(part) : kernels::Rows{};
    check(kernels::add_norm_rows(stream_, more, rows_of(x), rows, columns, weight.as<float>(),
                                 epsilon, epilogue_of(act)),
          "norm");
    return act;
  }
  reduce_add(Partial{part}, x, nullptr);
  ArenaScope scope(arena_);
  float* y = floats(rows * columns);
  kernels::rms_norm(stream_, rows_of(x), rows, columns, weight.as<float>(), epsilon, y);
  finish(y, rows, columns, act);
  return act;
}

void CudaOps::reduce_add(const Partial& partial, const Tensor& residual, Comm* group) {
  check_single(group);
  if (!partial.data.defined()) return;
  if (partial.open) close_sum(partial);
  const int64_t rows = residual.shape[0];
  const int64_t columns = residual.shape[1];
  if (!rows_in_vectors({&partial.data, &residual})) {
    kernels::add_rows(stream_, rows_of(partial.data), rows_of(residual), rows, columns);
    return;
  }
  check(kernels::add_to_rows(stream_, rows_of(partial.data), rows_of(residual), rows, columns),
        "reduce_add");
}

Tensor CudaOps::gather_rows(const Tensor& x, const Tensor& index) {
  arena_.name_op("gather_rows");
  const int64_t count = index.shape[0];
  const int64_t columns = x.shape[1];
  const Tensor out = arena_.take(x.dtype, {count, columns});
  if (x.dtype != DType::kF8E4M3 && rows_in_vectors({&x, &out})) {
    check(kernels::pick_rows(stream_, index.as<int32_t>(), count, rows_of(x), x.shape[0], 0,
                             columns, epilogue_of(Act{out, {}, {}})),
          "gather_rows");
    return out;
  }
  const int64_t size = dtype_bytes(x.dtype);
  kernels::gather(stream_, x.data, x.stride[0] * size, index.as<int32_t>(), count, columns * size,
                  out.data);
  return out;
}

Act CudaOps::concat(const Act& left, const Act& right, ActSpec out) {
  arena_.name_op("concat");
  const int64_t rows = left.data.shape[0];
  const int64_t columns = left.data.shape[1] + right.data.shape[1];
  const Act act = take_act(rows, columns, out);
  if (rows_in_vectors({&left.data, &right.data, &act.data}) && groups_in_vectors(out)) {
    check(kernels::join_rows(stream_, rows_of(left.data), left.data.shape[1], rows_of(right.data),
                             right.data.shape[1], rows, epilogue_of(act)),
          "concat");
    return act;
  }
  ArenaScope scope(arena_);
  float* both = floats(rows * columns);
  kernels::concat(stream_, rows_of(left.data), left.data.shape[1], rows_of(right.data),
                  right.data.shape[1], rows, both);
  finish(both, rows, columns, act);
  return act;
}

}  // namespace fathom
