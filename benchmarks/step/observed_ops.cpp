// Calls passed on, with the observer told of each.
#include "observed_ops.h"

#include <algorithm>
#include <chrono>
#include <cmath>
#include <type_traits>
#include <utility>

#include "ops/count/count_ops.h"

namespace fathom::bench {
namespace {

std::string with_shape(const char* op, const Weight& w) {
  return std::string(op) + " " + std::to_string(w.in()) + " to " + std::to_string(w.out());
}

// What CountOps takes for read less what uniform routing is expected to choose.
double experts_spared(double tokens, const MoeParams& p) {
  if (p.gate_up.empty() || tokens <= 0.0) return 0.0;
  const auto here = static_cast<double>(p.gate_up.size());
  const double each = 1.0 - double(p.experts_per_token) / p.experts;
  const double expected = here * (1.0 - std::pow(each, tokens));
  const double counted = std::min(here, tokens * p.experts_per_token);
  const auto bytes =
      static_cast<double>(weight_bytes(p.gate_up.front()) + weight_bytes(p.down.front()));
  return std::max(0.0, counted - expected) * bytes;
}

}  // namespace

double now_us() {
  using Micro = std::chrono::duration<double, std::micro>;
  return Micro(std::chrono::steady_clock::now().time_since_epoch()).count();
}

template <typename Call>
auto ObservedOps::observed(OpNote note, const Call& call) {
  if (observer_ != nullptr) observer_->op_begins();
  if constexpr (std::is_void_v<decltype(call())>) {
    call();
    if (observer_ != nullptr) observer_->op_ends(note);
  } else {
    auto made = call();
    if (observer_ != nullptr) observer_->op_ends(note);
    return made;
  }
}

template <typename Call>
auto ObservedOps::apart(const Call& call) {
  const double begin = now_us();
  if constexpr (std::is_void_v<decltype(call())>) {
    call();
    apart_us_ += now_us() - begin;
  } else {
    auto made = call();
    apart_us_ += now_us() - begin;
    return made;
  }
}

Result<Weight> ObservedOps::prepare_linear(const std::vector<HostWeight>& parts) {
  return inner_.prepare_linear(parts);
}

Result<MlaUpProjection> ObservedOps::prepare_kv_b(const HostWeight& kv_b, int32_t heads,
                                                  int32_t nope_dims, int32_t value_dims) {
  return inner_.prepare_kv_b(kv_b, heads, nope_dims, value_dims);
}

Result<Tensor> ObservedOps::place(const HostTensor& tensor, DType as) {
  return inner_.place(tensor, as);
}

Result<Tensor> ObservedOps::reserve(DType dtype, std::initializer_list<int64_t> shape) {
  return inner_.reserve(dtype, shape);
}

Result<Tensor> ObservedOps::reserve_output(DType dtype, std::initializer_list<int64_t> shape) {
  return inner_.reserve_output(dtype, shape);
}

void ObservedOps::edit_slots(const SlotTable& slots, const StepPlan& plan) {
  inner_.edit_slots(slots, plan);
}

void ObservedOps::advance(const SlotTable& slots, const StepPlan& plan, BatchView& batch) {
  inner_.advance(slots, plan, batch);
}

Status ObservedOps::capture(const StepShape& shape, int32_t frame,
                            const std::function<Status()>& body) {
  return inner_.capture(shape, frame, body);
}

Status ObservedOps::run_step(const StepShape& shape, int32_t frame,
                             const std::function<Status()>& body) {
  if (observer_ != nullptr) apart([&] { observer_->step_begins(); });
  const Status status = eager_ ? body() : inner_.run_step(shape, frame, body);
  if (observer_ != nullptr) apart([&] { observer_->step_ends(); });
  return status;
}

Status ObservedOps::wait(uint64_t mark) {
  return apart([&] { return inner_.wait(mark); });
}

Tensor ObservedOps::embed(const Tensor& ids, const Tensor& table, int32_t first_row, Comm* group) {
  return observed({"embed"}, [&] { return inner_.embed(ids, table, first_row, group); });
}

Act ObservedOps::norm(const Tensor& x, const Tensor& weight, float epsilon, ActSpec out) {
  return observed({"norm"}, [&] { return inner_.norm(x, weight, epsilon, out); });
}

Act ObservedOps::reduce_add_norm(const Partial& partial, const Tensor& residual,
                                 const Tensor& weight, float epsilon, ActSpec out, Comm* group) {
  return observed({"reduce_add_norm"}, [&] {
    return inner_.reduce_add_norm(partial, residual, weight, epsilon, out, group);
  });
}

void ObservedOps::reduce_add(const Partial& partial, const Tensor& residual, Comm* group) {
  observed({"reduce_add"}, [&] { inner_.reduce_add(partial, residual, group); });
}

Tensor ObservedOps::linear(const Act& x, const Weight& weight) {
  return observed({with_shape("linear", weight)}, [&] { return inner_.linear(x, weight); });
}

Partial ObservedOps::linear_partial(const Act& x, const Weight& weight, const Tensor& out) {
  return observed({with_shape("linear", weight)},
                  [&] { return inner_.linear_partial(x, weight, out); });
}

Act ObservedOps::gated_linear(const Act& x, const Weight& gate_up, ActSpec out) {
  return observed({with_shape("gated_linear", gate_up)},
                  [&] { return inner_.gated_linear(x, gate_up, out); });
}

Act ObservedOps::mla_attention(const BatchView& batch, const KvView& cache, const Tensor& q,
                               const Tensor& kv_a, const MlaParams& params, MlaForm form) {
  return observed({"mla_attention"},
                  [&] { return inner_.mla_attention(batch, cache, q, kv_a, params, form); });
}

Act ObservedOps::gqa_attention(const BatchView& batch, const KvView& cache, const Tensor& qkv,
                               const GqaParams& params) {
  return observed({"gqa_attention"},
                  [&] { return inner_.gqa_attention(batch, cache, qkv, params); });
}

Act ObservedOps::project_gqa(const BatchView& batch, const KvView& cache, const Act& x,
                             const Weight& qkv, const GqaParams& params) {
  return observed({with_shape("project_gqa", qkv)},
                  [&] { return inner_.project_gqa(batch, cache, x, qkv, params); });
}

Partial ObservedOps::moe(const BatchView& batch, const Act& x, const MoeParams& params,
                         const Tensor& out) {
  return observed({"moe", experts_spared(batch.shape.tokens, params)},
                  [&] { return inner_.moe(batch, x, params, out); });
}

Partial ObservedOps::norm_moe(const BatchView& batch, const NormInput& x, const MoeParams& params,
                              const Tensor& out) {
  return observed({"norm_moe", experts_spared(batch.shape.tokens, params)},
                  [&] { return inner_.norm_moe(batch, x, params, out); });
}

Tensor ObservedOps::gather_rows(const Tensor& x, const Tensor& index) {
  return observed({"gather_rows"}, [&] { return inner_.gather_rows(x, index); });
}

Act ObservedOps::concat(const Act& left, const Act& right, ActSpec out) {
  return observed({"concat"}, [&] { return inner_.concat(left, right, out); });
}

Tensor ObservedOps::logits(const Act& x, const Weight& head, Comm* group) {
  return observed({with_shape("logits", head)}, [&] { return inner_.logits(x, head, group); });
}

void ObservedOps::sample(const SlotTable& slots, const BatchView& batch, const Tensor& logits,
                         const std::vector<TokenId>& eos, SampleOutput& out) {
  observed({"sample"}, [&] { inner_.sample(slots, batch, logits, eos, out); });
}

Tensor ObservedOps::next_tokens(const SlotTable& slots, const BatchView& batch) {
  return observed({"next_tokens"}, [&] { return inner_.next_tokens(slots, batch); });
}

Tensor ObservedOps::last_accepted(const BatchView& batch, const SampleOutput& out) {
  return observed({"last_accepted"}, [&] { return inner_.last_accepted(batch, out); });
}

void ObservedOps::propose(const SlotTable& slots, const BatchView& batch, const Tensor& logits,
                          int32_t index, SampleOutput& out) {
  observed({"propose"}, [&] { inner_.propose(slots, batch, logits, index, out); });
}

void ObservedOps::apply_samples(const SlotTable& slots, const BatchView& batch,
                                const SampleOutput& out) {
  observed({"apply_samples"}, [&] { inner_.apply_samples(slots, batch, out); });
}

}  // namespace fathom::bench
