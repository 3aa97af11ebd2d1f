// The layers but attention.
#include <algorithm>

#include "ops/count/count_ops.h"

namespace fathom {
namespace {

int64_t scale_groups(int64_t columns, const ActSpec& spec) {
  return (spec.first_column_in_block + columns + 127) / 128;
}

}  // namespace

Act CountOps::make_act(int64_t rows, int64_t columns, const ActSpec& spec) {
  Act act;
  act.spec = spec;
  switch (spec.format) {
    case ActFormat::kF32: act.data = arena_.take(DType::kF32, {rows, columns}); break;
    case ActFormat::kBF16: act.data = arena_.take(DType::kBF16, {rows, columns}); break;
    case ActFormat::kFp8Block:
      act.data = arena_.take(DType::kF8E4M3, {rows, columns});
      act.scales = arena_.take(DType::kF32, {rows, scale_groups(columns, spec)});
      break;
  }
  return act;
}

int64_t CountOps::reduce_bytes(const Tensor& tensor, Comm* group) const {
  return group != nullptr && group->size() > 1 ? tensor.bytes() : 0;
}

void CountOps::count_product(OpCount& line, int64_t rows, const Weight& weight) const {
  line.flops += 2 * rows * weight.in() * weight.out();
  line.bytes_read += fathom::weight_bytes(weight);
}

Tensor CountOps::embed(const Tensor& ids, const Tensor& table, int32_t, Comm* group) {
  const Tensor out = arena_.take(act_dtype(), {ids.shape[0], table.shape[1]});
  take_scratch(scratch_.rows(ids.shape[0], table.shape[1]));
  OpCount& line = called("embed");
  line.bytes_read += ids.bytes() + ids.shape[0] * table.shape[1] * dtype_bytes(table.dtype);
  line.bytes_written += out.bytes();
  line.comm_bytes += reduce_bytes(out, group);
  return out;
}

Act CountOps::norm(const Tensor& x, const Tensor& weight, float, ActSpec out) {
  const Act act = make_act(x.shape[0], x.shape[1], out);
  take_scratch(scratch_.rows(x.shape[0], x.shape[1]));
  OpCount& line = called("norm");
  line.flops += 4 * x.elements();
  line.bytes_read += x.bytes() + weight.bytes();
  line.bytes_written += act_bytes(act);
  return act;
}

Act CountOps::reduce_add_norm(const Partial& partial, const Tensor& residual, const Tensor& weight,
                              float, ActSpec out, Comm* group) {
  const Act act = make_act(residual.shape[0], residual.shape[1], out);
  take_scratch(scratch_.rows(residual.shape[0], residual.shape[1]));
  OpCount& line = called("reduce_add_norm");
  line.flops += 4 * residual.elements();
  line.bytes_read += residual.bytes() + weight.bytes();
  line.bytes_written += act_bytes(act);
  if (!partial.data.defined()) return act;
  line.flops += residual.elements();
  line.bytes_read += partial.data.bytes();
  line.bytes_written += residual.bytes();
  line.comm_bytes += reduce_bytes(partial.data, group);
  return act;
}

void CountOps::reduce_add(const Partial& partial, const Tensor& residual, Comm* group) {
  OpCount& line = called("reduce_add");
  if (!partial.data.defined()) return;
  take_scratch(scratch_.rows(residual.shape[0], residual.shape[1]));
  line.flops += residual.elements();
  line.bytes_read += residual.bytes() + partial.data.bytes();
  line.bytes_written += residual.bytes();
  line.comm_bytes += reduce_bytes(partial.data, group);
}

Tensor CountOps::linear(const Act& x, const Weight& weight) {
  const Tensor out = arena_.take(act_dtype(), {x.data.shape[0], weight.out()});
  linear_partial(x, weight, out);
  return out;
}

Partial CountOps::linear_partial(const Act& x, const Weight& weight, const Tensor& out) {
  FATHOM_CHECK(x.data.shape[1] == weight.in(), "activation and weight differ in columns");
  FATHOM_CHECK(out.shape[0] == x.data.shape[0] && out.shape[1] == weight.out(),
               "linear output has another shape");
  take_scratch(scratch_.product(x.data.shape[0], weight));
  OpCount& line = called("linear");
  count_product(line, x.data.shape[0], weight);
  line.bytes_read += act_bytes(x);
  line.bytes_written += out.bytes();
  return Partial{out};
}

Act CountOps::gated_linear(const Act& x, const Weight& gate_up, ActSpec out) {
  FATHOM_CHECK(x.data.shape[1] == gate_up.in(), "activation and weight differ in columns");
  const int64_t rows = x.data.shape[0];
  const int64_t width = gate_up.out() / 2;
  const Act act = make_act(rows, width, out);
  take_scratch(scratch_.gated(rows, gate_up));
  OpCount& line = called("gated_linear");
  count_product(line, rows, gate_up);
  line.flops += 5 * rows * width;
  line.bytes_read += act_bytes(x);
  line.bytes_written += act_bytes(act);
  return act;
}

Partial CountOps::moe(const BatchView& batch, const Act& x, const MoeParams& params,
                      const Tensor& out) {
  const int64_t tokens = batch.shape.tokens;
  const int64_t hidden = x.data.shape[1];
  const int64_t choices = tokens * params.experts_per_token;
  const auto here = static_cast<int64_t>(params.gate_up.size());
  take_scratch(scratch_.moe(tokens, hidden, x.spec, params));
  OpCount& line = called("moe");
  line.flops += 2 * tokens * hidden * params.experts;
  line.bytes_read += act_bytes(x) + params.router.bytes();
  line.bytes_written += out.bytes();
  if (here > 0) {
    const Weight& gate_up = params.gate_up.front();
    const Weight& down = params.down.front();
    const int64_t expert_flops = 2 * gate_up.in() * gate_up.out() + 2 * down.in() * down.out();
    line.flops += choices * expert_flops * here / params.experts;
    line.bytes_read +=
        std::min(here, choices) * (fathom::weight_bytes(gate_up) + fathom::weight_bytes(down));
  }
  if (params.shared_gate_up.values.defined()) {
    count_product(line, tokens, params.shared_gate_up);
    count_product(line, tokens, params.shared_down);
  }
  return Partial{out};
}

Tensor CountOps::gather_rows(const Tensor& x, const Tensor& index) {
  const Tensor out = arena_.take(x.dtype, {index.shape[0], x.shape[1]});
  OpCount& line = called("gather_rows");
  line.bytes_read += index.bytes() + out.bytes();
  line.bytes_written += out.bytes();
  return out;
}

Act CountOps::concat(const Act& left, const Act& right, ActSpec out) {
  const Act act = make_act(left.data.shape[0], left.data.shape[1] + right.data.shape[1], out);
  take_scratch(scratch_.rows(act.data.shape[0], act.data.shape[1]));
  OpCount& line = called("concat");
  line.bytes_read += act_bytes(left) + act_bytes(right);
  line.bytes_written += act_bytes(act);
  return act;
}

Tensor CountOps::logits(const Act& x, const Weight& head, Comm* group) {
  const int64_t rows = x.data.shape[0];
  const int64_t ranks = group == nullptr ? 1 : group->size();
  const Tensor out = arena_.take(DType::kF32, {rows, ranks * head.out()});
  // Shards of all ranks beside the product's own, where there are several.
  const int64_t shards = ranks > 1 ? ranks * rows * head.out() * 4 : 0;
  take_scratch(scratch_.product(rows, head) + shards);
  OpCount& line = called("logits");
  count_product(line, rows, head);
  line.bytes_read += act_bytes(x);
  line.bytes_written += out.bytes();
  if (ranks > 1) line.comm_bytes += out.bytes();
  return out;
}

}  // namespace fathom
