// The routed experts of a layer: for few tokens on kernels that stream each chosen expert once, for
// many on grouped products, otherwise pair after pair.
#include <algorithm>

#include "kernels/dense.h"
#include "kernels/moe_decode.h"
#include "ops/cuda/choose_moe.h"
#include "ops/cuda/cuda_ops.h"

namespace fathom {
namespace {

// Scales of whole blocks of 128 rows, from the first row on: a block more would mean a cut one.
bool scale_rows_aligned(const std::vector<Weight>& weights) {
  return std::all_of(weights.begin(), weights.end(), [](const Weight& w) {
    return w.format != WeightFormat::kFp8Block || w.scales.shape[0] * 128 == w.out();
  });
}

MoeProblem problem_of(const BatchView& batch, const MoeParams& p, int64_t hidden,
                      const ActSpec& input, const ActSpec& inner) {
  MoeProblem problem;
  problem.tokens = batch.shape.tokens;
  problem.experts_per_token = p.experts_per_token;
  problem.experts = p.experts;
  problem.experts_here = static_cast<int32_t>(p.gate_up.size());
  problem.hidden = hidden;
  if (p.gate_up.empty()) return problem;
  problem.width = p.gate_up.front().out() / 2;
  problem.weight = p.gate_up.front().format;
  problem.act = input.format == inner.format ? input.format : ActFormat::kF32;
  problem.scale_rows_aligned = scale_rows_aligned(p.gate_up) && scale_rows_aligned(p.down);
  problem.first_column_in_block =
      p.gate_up.front().first_column_in_block + p.down.front().first_column_in_block;
  return problem;
}

}  // namespace

kernels::RouterShape router_shape(const MoeParams& p) {
  return {p.experts,
          p.experts_per_token,
          p.groups,
          p.groups_per_token,
          p.score == ScoreFunction::kSigmoid,
          p.group_score == GroupScore::kTopTwoSum,
          p.normalize,
          p.scale};
}

// Matrices of a layer's experts in device memory, made on the layer's first step.
const kernels::Matrix* CudaOps::expert_table(const std::vector<Weight>& weights) {
  const kernels::Matrix*& table = expert_tables_[weights.data()];
  if (table != nullptr) return table;
  std::vector<kernels::Matrix> matrices;
  for (const Weight& weight : weights) matrices.push_back(matrix_of(weight));
  const auto bytes = static_cast<int64_t>(matrices.size() * sizeof(kernels::Matrix));
  Result<Tensor> device = upload(Tensor::of(matrices.data(), DType::kU8, {bytes}));
  FATHOM_CHECK(device.is_ok(), "a table of experts: " + device.status().to_string());
  table = device->as<kernels::Matrix>();
  return table;
}

CudaOps::RoutedPairs CudaOps::take_pairs(int64_t pairs, int64_t hidden, DType dtype) {
  return {arena_.take(DType::kI32, {pairs}).as<int32_t>(), floats(pairs),
          rows_of(arena_.take(dtype, {pairs, hidden}))};
}

CudaOps::RoutedPairs CudaOps::run_pairs(const BatchView& batch, const MoeParams& p, float* scores,
                                        const Act& input) {
  const int64_t tokens = batch.shape.tokens;
  const int32_t k = p.experts_per_token;
  const auto here = static_cast<int32_t>(p.gate_up.size());
  const int64_t width = p.gate_up.front().out() / 2;
  const int64_t hidden = p.down.front().out();
  const auto* valid = batch.token_valid.as<uint8_t>();
  RoutedPairs pairs = take_pairs(tokens * k, hidden, DType::kF32);
  ArenaScope scope(arena_);
  kernels::route(stream_, router_shape(p), tokens, scores,
                 p.bias.defined() ? p.bias.as<float>() : nullptr, pairs.ids, pairs.weights);
  float* both = floats(tokens * k * 2 * width);
  kernels::expert_linear(stream_, expert_table(p.gate_up), p.first_expert, here, pairs.ids, valid,
                         tokens, k, rows_of(input), false, 2 * width, both, act_format());
  float* gated = floats(tokens * k * width);
  kernels::gate(stream_, both, tokens * k, width, gated);
  const Act inner = take_act(tokens * k, width, act_spec(p.down.front()));
  finish(gated, tokens * k, width, inner);
  kernels::expert_linear(stream_, expert_table(p.down), p.first_expert, here, pairs.ids, valid,
                         tokens, k, rows_of(inner), true, hidden,
                         static_cast<float*>(pairs.values.data), act_format());
  return pairs;
}

CudaOps::RoutedPairs CudaOps::run_few_tokens(const BatchView& batch, const MoeParams& p,
                                             float* scores, const Act& input) {
  const int64_t tokens = batch.shape.tokens;
  const int32_t k = p.experts_per_token;
  const auto here = static_cast<int32_t>(p.gate_up.size());
  const int64_t width = p.gate_up.front().out() / 2;
  const int64_t hidden = p.down.front().out();
  const kernels::Format format = format_of(p.gate_up.front().values.dtype);
  RoutedPairs pairs = take_pairs(tokens * k, hidden, DType::kF32);
  ArenaScope scope(arena_);
  kernels::MoeSchedule schedule;
  schedule.tiles_max = kernels::moe_tiles_max(static_cast<int32_t>(tokens * k), here);
  schedule.order = arena_.take(DType::kI32, {tokens * k}).as<int32_t>();
  schedule.tiles = reinterpret_cast<kernels::MoeTile*>(
      arena_.take(DType::kI32, {int64_t{schedule.tiles_max} * 3}).as<int32_t>());
  schedule.tile_count = arena_.take(DType::kI32, {1}).as<int32_t>();
  kernels::route_and_schedule(
      stream_, router_shape(p), tokens, scores, p.bias.defined() ? p.bias.as<float>() : nullptr,
      batch.token_valid.as<uint8_t>(), p.first_expert, here, pairs.ids, pairs.weights, schedule);
  const Act inner = take_act(tokens * k, width, act_spec(p.down.front()));
  kernels::expert_gate_up(stream_, expert_table(p.gate_up), format, hidden, width, rows_of(input),
                          k, schedule, epilogue_of(inner));
  kernels::expert_down(stream_, expert_table(p.down), format, width, hidden, rows_of(inner),
                       schedule, static_cast<float*>(pairs.values.data));
  return pairs;
}

bool CudaOps::chooses_grouped(const BatchView& batch, const MoeParams& p) {
  if (p.gate_up.empty()) return false;
  MoeProblem problem = problem_of(batch, p, p.gate_up.front().in(), act_spec(p.gate_up.front()),
                                  act_spec(p.down.front()));
  problem.deterministic = deterministic_;
  problem.hopper = hopper_;
  // A step of few tokens may be all that runs before `seal`.
  if (suits_grouped(problem)) make_grouped_tables(p);
  return choose_moe(problem) == MoeKernel::kGrouped;
}

CudaOps::RoutedPairs CudaOps::run_experts(const BatchView& batch, const MoeParams& p, float* scores,
                                          const Act& input) {
  MoeProblem problem =
      problem_of(batch, p, input.data.shape[1], input.spec, act_spec(p.down.front()));
  problem.deterministic = deterministic_;
  problem.hopper = hopper_;
  return choose_moe(problem) == MoeKernel::kFewTokens ? run_few_tokens(batch, p, scores, input)
                                                      : run_pairs(batch, p, scores, input);
}

}  // namespace fathom
