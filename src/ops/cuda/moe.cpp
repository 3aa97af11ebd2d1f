// A layer's mixture of experts, from the router's scores to the weighted sum. The routed experts
// run as experts.cpp chooses.
#include "kernels/dense.h"
#include "kernels/rows.h"
#include "ops/cuda/choose_rows.h"
#include "ops/cuda/cuda_ops.h"

namespace fathom {

Act CudaOps::convert(const Act& x, const ActSpec& spec) {
  if (x.spec == spec) return x;
  const int64_t rows = x.data.shape[0];
  const int64_t columns = x.data.shape[1];
  const Act act = take_act(rows, columns, spec);
  if (rows_in_vectors({&x.data, &act.data}) && groups_in_vectors(spec)) {
    check(kernels::join_rows(stream_, rows_of(x), columns, {}, 0, rows, epilogue_of(act)),
          "convert");
    return act;
  }
  ArenaScope scope(arena_);
  float* plain = floats(rows * columns);
  kernels::concat(stream_, rows_of(x.data), columns, rows_of(x.data), 0, rows, plain);
  finish(plain, rows, columns, act);
  return act;
}

float* CudaOps::router_scores(const Act& x, const MoeParams& p) {
  const int64_t tokens = x.data.shape[0];
  kernels::Matrix router;
  router.data = p.router.data;
  router.out = p.experts;
  router.in = x.data.shape[1];
  router.stride = router.in;
  const Tensor scores = arena_.take(DType::kF32, {tokens, p.experts});
  kernels::linear(stream_, rows_of(x), tokens, router, rows_of(scores), kernels::Format::kF32);
  return scores.as<float>();
}

float* CudaOps::shared_expert(const Act& input, const MoeParams& p) {
  const Tensor shared = arena_.take(DType::kF32, {input.data.shape[0], p.shared_down.out()});
  const Act inner = gated_linear(input, p.shared_gate_up, act_spec(p.shared_down));
  multiply(inner, p.shared_down, shared, act_format());
  return shared.as<float>();
}

Partial CudaOps::moe(const BatchView& batch, const Act& x, const MoeParams& p, const Tensor& out) {
  if (batch.shape.tokens == 0) return Partial{out};
  arena_.name_op("moe");
  const bool grouped = chooses_grouped(batch, p);  // and makes its tables, before any return
  if (!deterministic_ && run_few(batch, x, p, out, {}, nullptr)) {
    check(cudaGetLastError(), "moe");
    return Partial{out};
  }
  ArenaScope scope(arena_);
  if (grouped && moe_grouped(batch, x, p, out)) return Partial{out};
  const auto here = static_cast<int32_t>(p.gate_up.size());
  Act input = x;
  RoutedPairs pairs;
  if (here > 0) {
    input = convert(x, act_spec(p.gate_up.front()));
    pairs = run_experts(batch, p, router_scores(x, p), input);
  }
  const float* shared = nullptr;
  if (p.shared_gate_up.values.defined()) {
    const ActSpec spec = act_spec(p.shared_gate_up);
    arena_.name_op("moe's shared expert");
    shared = shared_expert(input.spec == spec ? input : convert(x, spec), p);
  }
  kernels::combine(stream_, pairs.values, pairs.ids, pairs.weights, batch.token_valid.as<uint8_t>(),
                   batch.shape.tokens, here > 0 ? p.experts_per_token : 0, p.first_expert, here,
                   x.data.shape[1], shared, rows_of(out));
  check(cudaGetLastError(), "moe");
  return Partial{out};
}

}  // namespace fathom
