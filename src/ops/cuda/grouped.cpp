// The routed experts of a step with many tokens: each expert's products over all of its rows.
#include "kernels/grouped_gemm.h"
#include "ops/cuda/cuda_ops.h"

namespace fathom {

// Made on the layer's first step, as expert_table.
const kernels::GroupedMatrix* CudaOps::grouped_table(const std::vector<Weight>& weights) {
  const kernels::GroupedMatrix*& table = grouped_tables_[weights.data()];
  if (table != nullptr) return table;
  std::vector<kernels::GroupedMatrix> matrices(weights.size());
  for (size_t e = 0; e < weights.size(); ++e)
    check(kernels::grouped_matrix(matrix_of(weights[e]), &matrices[e]), "map of an expert");
  const auto bytes = static_cast<int64_t>(matrices.size() * sizeof(kernels::GroupedMatrix));
  Result<Tensor> device = upload(Tensor::of(matrices.data(), DType::kU8, {bytes}));
  FATHOM_CHECK(device.is_ok(), "no memory for a table of experts");
  table = device->as<kernels::GroupedMatrix>();
  return table;
}

CudaOps::RoutedPairs CudaOps::run_grouped(const BatchView& batch, const MoeParams& p, float* scores,
                                          const Act& input) {
  const int64_t tokens = batch.shape.tokens;
  const int32_t k = p.experts_per_token;
  const auto here = static_cast<int32_t>(p.gate_up.size());
  const int64_t width = p.gate_up.front().out() / 2;
  const int64_t hidden = p.down.front().out();
  const kernels::Format format = format_of(p.gate_up.front().values.dtype);
  const RoutedPairs pairs = take_pairs(tokens * k, hidden, DType::kBF16);
  ArenaScope scope(arena_);
  kernels::grouped_route(stream_, router_shape(p), tokens, scores,
                         p.bias.defined() ? p.bias.as<float>() : nullptr, pairs.ids, pairs.weights);
  kernels::GroupedSchedule schedule;
  schedule.order = arena_.take(DType::kI32, {tokens * k}).as<int32_t>();
  schedule.cursors = arena_.take(DType::kI32, {2 * kernels::kMoeExpertsMax}).as<int32_t>();
  const auto tile_bytes = static_cast<int64_t>(sizeof(kernels::GroupedTile));
  schedule.tiles = reinterpret_cast<kernels::GroupedTile*>(
      arena_.take(DType::kU8, {kernels::grouped_tiles_max(tokens * k, here) * tile_bytes}).data);
  schedule.tile_count = arena_.take(DType::kI32, {1}).as<int32_t>();
  kernels::grouped_schedule(stream_, pairs.ids, batch.token_valid.as<uint8_t>(), tokens, k,
                            p.first_expert, here, schedule);
  const Act inner = take_act(tokens * k, width, act_spec(p.down.front()));
  kernels::grouped_gate_up(stream_, grouped_table(p.gate_up), format, hidden, width, rows_of(input),
                           k, schedule, epilogue_of(inner), sms_);
  kernels::grouped_down(stream_, grouped_table(p.down), format, width, 0, hidden, rows_of(inner),
                        schedule, pairs.values, sms_);
  return pairs;
}

}  // namespace fathom
