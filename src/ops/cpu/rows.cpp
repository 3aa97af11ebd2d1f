// Rows of tokens moved about: gather, concatenation, the token after each token, the last accepted.
#include <algorithm>
#include <cstring>

#include "ops/cpu/cpu_ops_impl.h"

namespace fathom {

Tensor CpuOps::gather_rows(const Tensor& x, const Tensor& index) {
  const int64_t count = index.shape[0];
  const int64_t columns = x.shape[1];
  const Tensor out = arena_.take(x.dtype, {count, columns});
  const int64_t size = dtype_bytes(x.dtype);
  for (int64_t i = 0; i < count; ++i) {
    const int64_t from = index.as<int32_t>()[i];
    FATHOM_CHECK(from >= 0 && from < x.shape[0], "gathered row does not exist");
    std::memcpy(out.as<std::byte>() + i * columns * size,
                x.as<std::byte>() + from * x.stride[0] * size, static_cast<size_t>(columns * size));
  }
  return out;
}

Act CpuOps::concat(const Act& left, const Act& right, ActSpec out) {
  FATHOM_CHECK(
      left.spec.format != ActFormat::kFp8Block && right.spec.format != ActFormat::kFp8Block,
      "parts of a concatenation must not be quantized yet");
  const int64_t count = left.data.shape[0];
  const int64_t split = left.data.shape[1];
  const int64_t columns = split + right.data.shape[1];
  const Act act = make_act(count, columns, out, arena_);
  ArenaScope scope(arena_);
  float* row = floats(columns);
  for (int64_t i = 0; i < count; ++i) {
    load_floats(left.data.data, left.data.dtype, i * left.data.stride[0], split, row);
    load_floats(right.data.data, right.data.dtype, i * right.data.stride[0], columns - split,
                row + split);
    write_row(row, act, i);
  }
  return act;
}

Tensor CpuOps::next_tokens(const SlotTable& slots, const BatchView& batch) {
  const int64_t tokens = batch.shape.tokens;
  const Tensor out = arena_.take(DType::kI32, {tokens});
  for (int64_t t = 0; t < tokens; ++t) {
    const int32_t slot = batch.row_slot.as<int32_t>()[batch.token_row.as<int32_t>()[t]];
    const int32_t next = batch.positions.as<int32_t>()[t] + 1;
    const bool known =
        batch.token_valid.as<uint8_t>()[t] != 0 && next < slots.length.as<int32_t>()[slot];
    out.as<int32_t>()[t] =
        known ? slots.history.as<int32_t>()[slot * slots.history.stride[0] + next] : 0;
  }
  return out;
}

Tensor CpuOps::last_accepted(const BatchView& batch, const SampleOutput& out) {
  const int64_t rows = batch.shape.rows;
  const Tensor index = arena_.take(DType::kI32, {rows});
  for (int64_t r = 0; r < rows; ++r) {
    const int32_t accepted = out.accepted.as<int32_t>()[r];
    index.as<int32_t>()[r] = batch.row_first.as<int32_t>()[r] + std::max(accepted - 1, 0);
  }
  return index;
}

}  // namespace fathom
