// A mixture of experts for few tokens: memory and launches of the kernels that do all of it.
#include "kernels/moe_few.h"

#include <algorithm>

#include "ops/cuda/choose_moe.h"
#include "ops/cuda/choose_rows.h"
#include "ops/cuda/cuda_ops.h"

namespace fathom {
namespace {

bool whole_scales(const Weight& w) {
  return w.format != WeightFormat::kFp8Block || w.scales.shape[0] * 128 == w.out();
}

bool on_16_bytes(const Act& x) {
  const int64_t row_bytes = x.data.stride[0] * dtype_bytes(x.data.dtype);
  return (reinterpret_cast<uintptr_t>(x.data.data) | static_cast<uintptr_t>(row_bytes)) % 16 == 0;
}

// Whether the shared expert can run as one more expert: as the others but for its width.
bool shared_is_alike(const MoeParams& p) {
  const Weight& gate_up = p.gate_up.front();
  const Weight& down = p.down.front();
  return p.shared_gate_up.format == gate_up.format && p.shared_down.format == down.format &&
         p.shared_gate_up.ue8m0_activations == gate_up.ue8m0_activations &&
         p.shared_down.ue8m0_activations == down.ue8m0_activations &&
         p.shared_gate_up.first_column_in_block == 0 && p.shared_down.first_column_in_block == 0 &&
         p.shared_down.in() % down.in() == 0 && whole_scales(p.shared_gate_up) &&
         whole_scales(p.shared_down);
}

}  // namespace

// Whether the kernels that overlap fit the layer, whatever the step's tokens.
bool CudaOps::suits_few(const Act& x, const MoeParams& p) const {
  if (!hopper_ || p.gate_up.empty() || numerics_ == Numerics::kReference) return false;
  const Weight& gate_up = p.gate_up.front();
  const Weight& down = p.down.front();
  const bool known =
      gate_up.format == WeightFormat::kFp8Block || gate_up.format == WeightFormat::kBF16;
  const bool alike = gate_up.format == down.format && gate_up.first_column_in_block == 0 &&
                     down.first_column_in_block == 0 &&
                     gate_up.ue8m0_activations == down.ue8m0_activations;
  const bool whole = std::all_of(p.gate_up.begin(), p.gate_up.end(), whole_scales) &&
                     std::all_of(p.down.begin(), p.down.end(), whole_scales);
  return known && alike && whole && x.data.dtype == DType::kBF16 && on_16_bytes(x) &&
         gate_up.in() % 128 == 0 && down.in() % 128 == 0 && p.experts <= kernels::kMoeExpertsMax &&
         (!p.shared_gate_up.values.defined() || shared_is_alike(p));
}

// Made on the layer's first step, as expert_table.
const kernels::MoeFewExpert* CudaOps::few_table(const MoeParams& p) {
  const kernels::MoeFewExpert*& table = few_tables_[p.gate_up.data()];
  if (table != nullptr) return table;
  std::vector<kernels::MoeFewExpert> experts(p.gate_up.size() + 1);
  for (size_t e = 0; e < p.gate_up.size(); ++e) {
    check(kernels::moe_few_expert(matrix_of(p.gate_up[e]), matrix_of(p.down[e]), &experts[e]),
          "map of an expert");
  }
  if (p.shared_gate_up.values.defined()) {
    check(kernels::moe_few_expert(matrix_of(p.shared_gate_up), matrix_of(p.shared_down),
                                  &experts.back()),
          "map of the shared expert");
  }
  const auto bytes = static_cast<int64_t>(experts.size() * sizeof(kernels::MoeFewExpert));
  Result<Tensor> device = upload(Tensor::of(experts.data(), DType::kU8, {bytes}));
  FATHOM_CHECK(device.is_ok(), "a table of experts: " + device.status().to_string());
  table = device->as<kernels::MoeFewExpert>();
  return table;
}

// The router's kernel norms rows that its threads hold.
Partial CudaOps::norm_moe(const BatchView& batch, const NormInput& x, const MoeParams& params,
                          const Tensor& out) {
  if (deterministic_ || batch.shape.tokens == 0 || act_dtype() != DType::kBF16)
    return Ops::norm_moe(batch, x, params, out);
  check_single(x.group);
  arena_.name_op("moe");
  chooses_grouped(batch, params);  // makes its tables, before any return
  const Tensor& part = x.partial.data;
  const int64_t columns = x.residual.shape[1];
  const bool fits = batch.shape.tokens <= kernels::kMoeNormTokensMax &&
                    columns <= kernels::kMoeNormColumnsMax && part.defined() && !x.partial.open &&
                    part.dtype == DType::kBF16 && rows_in_vectors({&part, &x.residual});
  const ActSpec plain{ActFormat::kBF16, false, 0};
  Partial sum{out};
  ArenaScope scope(arena_);
  if (fits) {
    const Act rows = take_act(batch.shape.tokens, columns, plain);
    const kernels::MoeFewNorm norm{rows_of(part), rows_of(x.residual), x.weight.as<float>(),
                                   x.epsilon};
    if (run_few(batch, rows, params, out, norm, &sum.open)) return sum;
  }
  const Act rows = normed(x, plain);
  return run_few(batch, rows, params, out, {}, &sum.open) ? sum : moe(batch, rows, params, out);
}

// x is made where there is a norm. `open` (may be null) says whether the sum was left open.
bool CudaOps::run_few(const BatchView& batch, const Act& x, const MoeParams& p, const Tensor& out,
                      const kernels::MoeFewNorm& norm, bool* open) {
  if (!suits_few(x, p)) return false;
  // All tables at once: a step of few tokens may be all that runs before `seal`, or none of them.
  const kernels::MoeFewExpert* experts = few_table(p);
  expert_table(p.gate_up);
  expert_table(p.down);
  const Weight& gate_up = p.gate_up.front();
  MoeFewProblem problem;
  problem.tokens = batch.shape.tokens;
  problem.experts = p.experts;
  problem.experts_here = static_cast<int32_t>(p.gate_up.size());
  problem.hidden = gate_up.in();
  problem.width = gate_up.out() / 2;
  problem.fp8 = gate_up.format == WeightFormat::kFp8Block;
  if (!few_tokens_fit(problem)) return false;
  kernels::MoeFew m;
  m.router = router_shape(p);
  m.format = format_of(gate_up.values.dtype);
  m.ue8m0 = act_spec(gate_up).ue8m0;
  m.tokens = batch.shape.tokens;
  m.hidden = static_cast<int32_t>(problem.hidden);
  m.width = static_cast<int32_t>(problem.width);
  if (p.shared_gate_up.values.defined())
    m.shared_parts = static_cast<int32_t>(p.shared_down.in() / problem.width);
  m.first_expert = p.first_expert;
  m.experts_here = problem.experts_here;
  m.sms = sms_;
  m.x = rows_of(x);
  m.norm = norm;
  m.gate = p.router.as<float>();
  m.bias = p.bias.defined() ? p.bias.as<float>() : nullptr;
  m.token_valid = batch.token_valid.as<uint8_t>();
  m.experts = experts;
  m.out = rows_of(out);
  ArenaScope scope(arena_);
  const int64_t pairs = int64_t{m.tokens} * p.experts_per_token;
  m.arrivals = moe_arrivals_;
  moe_turn_ ^= 1;
  if (kernels::moe_choose_everywhere(m.tokens))
    m.posts = moe_posts_ + moe_turn_ * kernels::kMoePostWords;
  m.scores = floats(m.tokens * int64_t{p.experts});
  const bool stays_open = open != nullptr && keeps_open(m);
  if (open != nullptr) *open = stays_open;
  float* chosen = open_rows_ + kernels::kMoeOpenRowWords;
  m.ids = stays_open ? reinterpret_cast<int32_t*>(chosen)
                     : arena_.take(DType::kI32, {pairs}).as<int32_t>();
  m.weights = stays_open ? chosen + kernels::kMoeOpenPairsMax : floats(pairs);
  if (problem.fp8) {
    m.codes = arena_.take(DType::kF8E4M3, {m.tokens, problem.hidden}).as<uint8_t>();
    m.code_scales = floats(m.tokens * problem.hidden / 128);
  }
  m.inner = arena_.take(DType::kBF16, {kernels::moe_few_rows(m), problem.width}).data;
  m.rows = stays_open ? open_rows_ : floats(kernels::moe_few_rows(m) * problem.hidden);
  check(norm.weight != nullptr ? kernels::moe_few_norm_route(stream_, m)
                               : kernels::moe_few_route(stream_, m),
        "moe_few_route");
  check(kernels::moe_few_gate_up(stream_, m), "moe_few_gate_up");
  check(kernels::moe_few_down(stream_, m), "moe_few_down");
  if (stays_open) {
    open_sum_ = m;
  } else {
    check(kernels::moe_few_combine(stream_, m), "moe_few_combine");
  }
  check(cudaGetLastError(), "moe");
  return true;
}

}  // namespace fathom
