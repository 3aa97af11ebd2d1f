// A layer's mixture of experts for many tokens: router, both products of all experts with the
// shared one, weighted sum.
#include "kernels/grouped_gemm.h"

#include "ops/cuda/cuda_ops.h"

namespace fathom {
namespace {

using kernels::Format;

bool same_form(const Weight& a, const Weight& b) {
  return a.format == b.format && a.ue8m0_activations == b.ue8m0_activations &&
         b.first_column_in_block == 0 && b.out() % 128 == 0 && b.in() % 128 == 0 &&
         (b.format != WeightFormat::kFp8Block || b.scales.shape[0] * 128 == b.out());
}

// Whether the shared expert runs among the routed ones.
bool shared_joins(const MoeParams& p) {
  return p.shared_gate_up.values.defined() && same_form(p.gate_up.front(), p.shared_gate_up) &&
         same_form(p.down.front(), p.shared_down) && p.shared_gate_up.out() % 256 == 0;
}

kernels::GroupedSchedule take_schedule(Arena& arena, int64_t pairs, int32_t experts,
                                       int64_t shared_tokens, bool paired) {
  const auto ints = [&](int64_t bytes) {
    return arena.take(DType::kI32, {(bytes + 3) / 4}).as<int32_t>();
  };
  kernels::GroupedSchedule schedule;
  schedule.paired = paired;
  if (shared_tokens > 0)
    schedule.shared_tiles = kernels::grouped_shared_tiles(shared_tokens, paired);
  const int64_t tiles = kernels::grouped_tiles_max(pairs, experts, paired) + schedule.shared_tiles;
  schedule.order = ints(pairs * 4);
  schedule.done = ints(tiles * 4);
  schedule.tiles = reinterpret_cast<kernels::GroupedTile*>(
      ints(tiles * static_cast<int64_t>(sizeof(kernels::GroupedTile))));
  schedule.counters =
      reinterpret_cast<kernels::GroupedCounters*>(ints(sizeof(kernels::GroupedCounters)));
  return schedule;
}

}  // namespace

// Made on the layer's first step, as expert_table. The shared expert's matrix comes last.
const kernels::GroupedMatrix* CudaOps::grouped_table(const std::vector<Weight>& weights,
                                                     const Weight* shared) {
  const kernels::GroupedMatrix*& table = grouped_tables_[weights.data()];
  if (table != nullptr) return table;
  std::vector<kernels::GroupedMatrix> matrices(weights.size() + (shared != nullptr ? 1 : 0));
  for (size_t e = 0; e < matrices.size(); ++e) {
    const Weight& weight = e < weights.size() ? weights[e] : *shared;
    check(kernels::grouped_matrix(matrix_of(weight), &matrices[e]), "map of an expert");
  }
  const auto bytes = static_cast<int64_t>(matrices.size() * sizeof(kernels::GroupedMatrix));
  Result<Tensor> device = upload(Tensor::of(matrices.data(), DType::kU8, {bytes}));
  FATHOM_CHECK(device.is_ok(), "a table of experts: " + device.status().to_string());
  table = device->as<kernels::GroupedMatrix>();
  return table;
}

void CudaOps::make_grouped_tables(const MoeParams& p) {
  const bool joins = shared_joins(p);
  grouped_table(p.gate_up, joins ? &p.shared_gate_up : nullptr);
  grouped_table(p.down, joins ? &p.shared_down : nullptr);
}

kernels::GroupedRouting CudaOps::grouped_routing(const BatchView& batch, const MoeParams& p,
                                                 const Act& x, const Act& input) {
  const int64_t tokens = batch.shape.tokens;
  kernels::GroupedRouting r;
  r.shape = router_shape(p);
  r.tokens = tokens;
  r.columns = x.data.shape[1];
  r.x = rows_of(x);
  r.router = p.router.as<float>();
  r.bias = p.bias.defined() ? p.bias.as<float>() : nullptr;
  r.token_valid = batch.token_valid.as<uint8_t>();
  r.first_expert = p.first_expert;
  r.expert_count = static_cast<int32_t>(p.gate_up.size());
  if (input.spec.format == ActFormat::kFp8Block) r.quantized = epilogue_of(input);
  r.scores =
      floats(kernels::grouped_score_parts(tokens, r.columns, p.experts) * tokens * p.experts);
  r.ids = arena_.take(DType::kI32, {tokens * p.experts_per_token}).as<int32_t>();
  r.weights = floats(tokens * p.experts_per_token);
  return r;
}

bool CudaOps::moe_grouped(const BatchView& batch, const Act& x, const MoeParams& p,
                          const Tensor& out) {
  const int64_t tokens = batch.shape.tokens;
  const int64_t hidden = x.data.shape[1];
  if (x.spec.format != ActFormat::kBF16 ||
      !kernels::grouped_route_fits(rows_of(x), hidden, p.experts) || out.dtype != DType::kBF16) {
    return false;
  }
  const bool joins = shared_joins(p);
  kernels::GroupedLayer layer;
  layer.format = format_of(p.gate_up.front().values.dtype);
  const ActSpec spec = act_spec(p.gate_up.front());
  const Act input = layer.format == Format::kFp8 ? take_act(tokens, hidden, spec) : x;
  const kernels::GroupedRouting routing = grouped_routing(batch, p, x, input);
  const int64_t pairs = tokens * p.experts_per_token;
  const kernels::GroupedSchedule schedule =
      take_schedule(arena_, pairs, routing.expert_count, joins ? tokens : 0,
                    kernels::grouped_pairs_blocks(layer.format == Format::kFp8, pairs, p.experts));
  check(kernels::grouped_route(stream_, routing, schedule), "grouped_route");
  layer.gate_up = grouped_tables_.at(p.gate_up.data());
  layer.down = grouped_tables_.at(p.down.data());
  layer.hidden = hidden;
  layer.width = p.down.front().in();
  layer.k = p.experts_per_token;
  layer.x = rows_of(input);
  const ActSpec inner = act_spec(p.down.front());
  layer.inner = epilogue_of(take_act(tokens * layer.k, layer.width, inner));
  layer.pairs = rows_of(arena_.take(DType::kBF16, {tokens * layer.k, hidden}));
  if (joins) {
    layer.shared_width = p.shared_down.in();
    layer.shared_inner = epilogue_of(take_act(tokens, layer.shared_width, inner));
    layer.shared = rows_of(arena_.take(DType::kBF16, {tokens, hidden}));
  } else if (p.shared_gate_up.values.defined()) {
    const ActSpec wanted = act_spec(p.shared_gate_up);
    layer.shared = {shared_expert(input.spec == wanted ? input : convert(x, wanted), p),
                    Format::kF32, hidden, nullptr, 0};
  }
  check(kernels::grouped_experts(stream_, layer, schedule, sms_), "grouped_experts");
  if (layer.shared.format == Format::kF32 && layer.shared.data != nullptr) {
    kernels::combine(stream_, layer.pairs, routing.ids, routing.weights, routing.token_valid,
                     tokens, layer.k, routing.first_expert, routing.expert_count, hidden,
                     static_cast<const float*>(layer.shared.data), rows_of(out));
    return true;
  }
  check(kernels::grouped_combine(stream_, routing, layer.pairs, layer.shared, rows_of(out)),
        "grouped_combine");
  return true;
}

}  // namespace fathom
