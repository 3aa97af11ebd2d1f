// ForwardOps passes every call on to another Ops: what tests derive from to look at some of them.
// Owned and called by the test's thread. Steps run op by op: nothing is captured.
#pragma once

#include <vector>

#include "fathom/ops.h"

namespace fathom::testing {

class ForwardOps : public Ops {
 public:
  explicit ForwardOps(Ops& inner) : inner_(inner) {}

  std::string_view name() const override { return inner_.name(); }
  Numerics numerics() const override { return inner_.numerics(); }
  Arena& arena() override { return inner_.arena(); }
  Status health() const override { return inner_.health(); }
  Result<Weight> prepare_linear(const std::vector<HostWeight>& parts) override {
    return inner_.prepare_linear(parts);
  }
  Status pack_linear(const Weight& weight, bool gated) override {
    return inner_.pack_linear(weight, gated);
  }
  Result<MlaUpProjection> prepare_kv_b(const HostWeight& kv_b, int32_t heads, int32_t nope_dims,
                                       int32_t value_dims) override {
    return inner_.prepare_kv_b(kv_b, heads, nope_dims, value_dims);
  }
  Result<Tensor> place(const HostTensor& tensor, DType as) override {
    return inner_.place(tensor, as);
  }
  Result<Tensor> reserve(DType dtype, std::initializer_list<int64_t> shape) override {
    return inner_.reserve(dtype, shape);
  }
  Result<Tensor> reserve_output(DType dtype, std::initializer_list<int64_t> shape) override {
    return inner_.reserve_output(dtype, shape);
  }
  Status synchronize() override { return inner_.synchronize(); }
  Status check_cache(DType dtype, int32_t head_dims) const override {
    return inner_.check_cache(dtype, head_dims);
  }
  ActSpec act_spec(const Weight& weight) const override { return inner_.act_spec(weight); }
  void edit_slots(const SlotTable& slots, const StepPlan& plan) override {
    inner_.edit_slots(slots, plan);
  }
  void advance(const SlotTable& slots, const StepPlan& plan, BatchView& batch) override {
    inner_.advance(slots, plan, batch);
  }
  Tensor embed(const Tensor& ids, const Tensor& table, int32_t first_row, Comm* group) override {
    return inner_.embed(ids, table, first_row, group);
  }
  Act norm(const Tensor& x, const Tensor& weight, float epsilon, ActSpec out) override {
    return inner_.norm(x, weight, epsilon, out);
  }
  Act reduce_add_norm(const Partial& partial, const Tensor& residual, const Tensor& weight,
                      float epsilon, ActSpec out, Comm* group) override {
    return inner_.reduce_add_norm(partial, residual, weight, epsilon, out, group);
  }
  void reduce_add(const Partial& partial, const Tensor& residual, Comm* group) override {
    inner_.reduce_add(partial, residual, group);
  }
  Tensor linear(const Act& x, const Weight& weight) override { return inner_.linear(x, weight); }
  Partial linear_partial(const Act& x, const Weight& weight, const Tensor& out) override {
    return inner_.linear_partial(x, weight, out);
  }
  Act gated_linear(const Act& x, const Weight& gate_up, ActSpec out) override {
    return inner_.gated_linear(x, gate_up, out);
  }
  Act mla_attention(const BatchView& batch, const KvView& cache, const Tensor& q,
                    const Tensor& kv_a, const MlaParams& params, MlaForm form) override {
    return inner_.mla_attention(batch, cache, q, kv_a, params, form);
  }
  Act gqa_attention(const BatchView& batch, const KvView& cache, const Tensor& qkv,
                    const GqaParams& params) override {
    return inner_.gqa_attention(batch, cache, qkv, params);
  }
  Partial moe(const BatchView& batch, const Act& x, const MoeParams& params,
              const Tensor& out) override {
    return inner_.moe(batch, x, params, out);
  }
  Tensor gather_rows(const Tensor& x, const Tensor& index) override {
    return inner_.gather_rows(x, index);
  }
  Act concat(const Act& left, const Act& right, ActSpec out) override {
    return inner_.concat(left, right, out);
  }
  Tensor logits(const Act& x, const Weight& head, Comm* group) override {
    return inner_.logits(x, head, group);
  }
  void sample(const SlotTable& slots, const BatchView& batch, const Tensor& logits,
              const std::vector<TokenId>& eos, SampleOutput& out) override {
    inner_.sample(slots, batch, logits, eos, out);
  }
  Tensor next_tokens(const SlotTable& slots, const BatchView& batch) override {
    return inner_.next_tokens(slots, batch);
  }
  Tensor last_accepted(const BatchView& batch, const SampleOutput& out) override {
    return inner_.last_accepted(batch, out);
  }
  void propose(const SlotTable& slots, const BatchView& batch, const Tensor& logits, int32_t index,
               SampleOutput& out) override {
    inner_.propose(slots, batch, logits, index, out);
  }
  void apply_samples(const SlotTable& slots, const BatchView& batch,
                     const SampleOutput& out) override {
    inner_.apply_samples(slots, batch, out);
  }

 protected:
  Ops& inner_;
};

}  // namespace fathom::testing
