// Token ids to the residual stream.
#include <algorithm>

#include "ops/cpu/cpu_ops_impl.h"

namespace fathom {

Tensor CpuOps::embed(const Tensor& ids, const Tensor& table, int32_t first_row, Comm* group) {
  const int64_t tokens = ids.shape[0];
  const int64_t hidden = table.shape[1];
  const Tensor out = arena_.take(act_dtype(), {tokens, hidden});
  ArenaScope scope(arena_);
  float* row = floats(hidden);
  for (int64_t t = 0; t < tokens; ++t) {
    const int64_t at = ids.as<int32_t>()[t] - int64_t{first_row};
    if (at >= 0 && at < table.shape[0]) {
      load_floats(table.data, table.dtype, at * table.stride[0], hidden, row);
    } else {
      std::fill_n(row, hidden, 0.0F);
    }
    store_floats(row, hidden, out.dtype, out.data, t * hidden);
  }
  all_reduce(out, group);
  return out;
}

void CpuOps::note(Status status) {
  if (health_.is_ok()) health_ = std::move(status);
}

void CpuOps::all_reduce(const Tensor& tensor, Comm* group) {
  if (group != nullptr && group->size() > 1) note(group->all_reduce_sum(tensor));
}

}  // namespace fathom
