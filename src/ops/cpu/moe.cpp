// Mixture of experts: route, group tokens by expert, run each expert on its tokens, weighted sum in
// order of expert id, shared expert. The order makes a token's sum independent of its neighbours.
#include <algorithm>

#include "ops/cpu/cpu_ops_impl.h"
#include "ops/cpu/experts.h"
#include "ops/cpu/router.h"

namespace fathom {
namespace {

// Rows of experts that may be at work at a time, if the step has fewer tokens.
constexpr int64_t kExpertRows = 128;

// Tokens by expert of this rank: those of expert e are [first[e], first[e + 1]).
struct Dispatch {
  int32_t* first = nullptr;   // [experts here + 1]
  int32_t* tokens = nullptr;  // ascending within an expert
  float* weights = nullptr;
};

void check_shapes(const BatchView& batch, const Act& x, const MoeParams& params,
                  const Tensor& out) {
  FATHOM_CHECK(x.spec.format != ActFormat::kFp8Block, "the router wants unquantized activations");
  FATHOM_CHECK(x.data.shape[0] == batch.shape.tokens && out.shape[0] == batch.shape.tokens &&
                   out.shape[1] == x.data.shape[1],
               "moe's input and output differ in shape");
  FATHOM_CHECK(
      params.experts_per_token <= params.experts && params.experts % params.groups == 0 &&
          params.groups_per_token <= params.groups &&
          params.experts_per_token <= params.groups_per_token * (params.experts / params.groups),
      "router's parameters contradict each other");
}

// Counting sort of (token, choice) pairs by expert.
void group_by_expert(const int32_t* ids, const float* weights, const uint8_t* valid, int64_t tokens,
                     const MoeParams& params, const Dispatch& to) {
  const auto here = static_cast<int32_t>(params.gate_up.size());
  const int32_t k = params.experts_per_token;
  std::fill_n(to.first, here + 1, 0);
  const auto local = [&](int64_t t, int32_t i) {
    const int32_t e = ids[t * k + i] - params.first_expert;
    return valid[t] != 0 && e >= 0 && e < here ? e : -1;
  };
  for (int64_t t = 0; t < tokens; ++t) {
    for (int32_t i = 0; i < k; ++i) {
      if (const int32_t e = local(t, i); e >= 0) ++to.first[e + 1];
    }
  }
  for (int32_t e = 0; e < here; ++e) to.first[e + 1] += to.first[e];
  // Filling moves first[e] to its end; shifting by one afterwards restores it.
  for (int64_t t = 0; t < tokens; ++t) {
    for (int32_t i = 0; i < k; ++i) {
      const int32_t e = local(t, i);
      if (e < 0) continue;
      const int32_t at = to.first[e]++;
      to.tokens[at] = static_cast<int32_t>(t);
      to.weights[at] = weights[t * k + i];
    }
  }
  for (int32_t e = here; e > 0; --e) to.first[e] = to.first[e - 1];
  to.first[0] = 0;
}

}  // namespace

Partial CpuOps::moe(const BatchView& batch, const Act& x, const MoeParams& params,
                    const Tensor& out) {
  check_shapes(batch, x, params, out);
  ArenaScope scope(arena_);
  const int64_t tokens = batch.shape.tokens;
  const int64_t hidden = x.data.shape[1];
  const int32_t k = params.experts_per_token;
  const Rows rows = read_rows(x, arena_);
  const auto ints = [&](int64_t n) { return arena_.take(DType::kI32, {n}).as<int32_t>(); };

  float* scores = floats(tokens * params.experts);
  const Matrix router{params.router.as<float>(), hidden, params.experts, hidden};
  products_.dot_rows(rows, router, 1.0F, scores, params.experts);
  int32_t* ids = ints(tokens * k);
  float* weights = floats(tokens * k);
  float* scratch = floats(route_scratch_floats(params));
  for (int64_t t = 0; t < tokens; ++t) {
    route(params, scores + t * params.experts, scratch, ids + t * k, weights + t * k);
  }
  const auto here = static_cast<int64_t>(params.gate_up.size());
  const Dispatch dispatch{ints(here + 1), ints(tokens * k), floats(tokens * k)};
  group_by_expert(ids, weights, batch.token_valid.as<uint8_t>(), tokens, params, dispatch);

  const auto input_of = [&](const Weight& weight) {
    const ActSpec spec = act_spec(weight);
    if (spec == x.spec) return rows;
    const Act act = make_act(tokens, hidden, spec, arena_);
    float* row = floats(hidden);
    for (int64_t t = 0; t < tokens; ++t) {
      std::copy_n(rows.row(t), hidden, row);
      write_row(row, act, t);
    }
    return read_rows(act, arena_);
  };
  float* sums = floats(tokens * hidden);
  std::fill_n(sums, tokens * hidden, 0.0F);
  const bool shares = params.shared_gate_up.values.defined();
  Rows input = here > 0 ? input_of(params.gate_up.front()) : Rows{};
  const Rows shared_input = shares ? input_of(params.shared_gate_up) : Rows{};
  Experts experts(products_, pool_, arena_, std::max(tokens, kExpertRows), sums);
  for (int64_t e = 0; e < here; ++e) {
    const int32_t first = dispatch.first[e];
    input.count = dispatch.first[e + 1] - first;
    input.index = dispatch.tokens + first;
    if (input.count == 0) continue;
    experts.add(input, params.gate_up[e], params.down[e], act_spec(params.down[e]), act_dtype(),
                dispatch.weights + first);
  }
  if (shares) {
    experts.add(shared_input, params.shared_gate_up, params.shared_down,
                act_spec(params.shared_down), act_dtype(), nullptr);
  }
  experts.run();
  store_floats(sums, tokens * hidden, out.dtype, out.data, 0);
  return Partial{out};
}

}  // namespace fathom
