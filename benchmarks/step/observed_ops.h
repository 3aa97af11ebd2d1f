// ObservedOps: passes every call on to another Ops and tells an observer where each op of a step
// begins and ends, and what it works on. One thread.
#pragma once

#include <string>

#include "fathom/ops.h"

namespace fathom::bench {

// Of an op's call, beside what CountOps counts of it.
struct OpNote {
  std::string label;  // the op, with its matrix where it has one
  // Bytes of experts' weights that CountOps counts and random routing is not expected to touch.
  double bytes_spared = 0.0;
};

class StepObserver {
 public:
  virtual ~StepObserver() = default;

  virtual void step_begins() {}
  virtual void step_ends() {}
  virtual void op_begins() {}
  virtual void op_ends(const OpNote& note) { (void)note; }
};

class ObservedOps : public Ops {
 public:
  explicit ObservedOps(Ops& inner) : inner_(inner) {}

  // Null: nobody looks.
  void observe(StepObserver* observer) { observer_ = observer; }
  // Runs the bodies of steps op by op instead of replaying what was captured.
  void run_eagerly(bool eager) { eager_ = eager; }

  std::string_view name() const override { return inner_.name(); }
  Numerics numerics() const override { return inner_.numerics(); }
  Arena& arena() override { return inner_.arena(); }
  Status health() const override { return inner_.health(); }

  Result<Weight> prepare_linear(const std::vector<HostWeight>& parts) override;
  Status pack_linear(const Weight& weight, bool gated) override {
    return inner_.pack_linear(weight, gated);
  }
  Result<MlaUpProjection> prepare_kv_b(const HostWeight& kv_b, int32_t heads, int32_t nope_dims,
                                       int32_t value_dims) override;
  Result<Tensor> place(const HostTensor& tensor, DType as) override;
  Result<Tensor> reserve(DType dtype, std::initializer_list<int64_t> shape) override;
  Result<Tensor> reserve_output(DType dtype, std::initializer_list<int64_t> shape) override;
  Status synchronize() override { return inner_.synchronize(); }
  ActSpec act_spec(const Weight& weight) const override { return inner_.act_spec(weight); }

  void edit_slots(const SlotTable& slots, const StepPlan& plan) override;
  void advance(const SlotTable& slots, const StepPlan& plan, BatchView& batch) override;
  bool replays() const override { return inner_.replays(); }
  Status capture(const StepShape& shape, int32_t frame,
                 const std::function<Status()>& body) override;
  Status seal() override { return inner_.seal(); }
  Status run_step(const StepShape& shape, int32_t frame,
                  const std::function<Status()>& body) override;
  bool asynchronous() const override { return inner_.asynchronous(); }
  uint64_t mark() override { return inner_.mark(); }
  Status wait(uint64_t mark) override;
  // Time spent in wait() so far, and by the observer at steps' begins and ends.
  double apart_us() const { return apart_us_; }

  Tensor embed(const Tensor& ids, const Tensor& table, int32_t first_row, Comm* group) override;
  Act norm(const Tensor& x, const Tensor& weight, float epsilon, ActSpec out) override;
  Act reduce_add_norm(const Partial& partial, const Tensor& residual, const Tensor& weight,
                      float epsilon, ActSpec out, Comm* group) override;
  void reduce_add(const Partial& partial, const Tensor& residual, Comm* group) override;
  Tensor linear(const Act& x, const Weight& weight) override;
  Partial linear_partial(const Act& x, const Weight& weight, const Tensor& out) override;
  Act gated_linear(const Act& x, const Weight& gate_up, ActSpec out) override;
  Act mla_attention(const BatchView& batch, const KvView& cache, const Tensor& q,
                    const Tensor& kv_a, const MlaParams& params, MlaForm form) override;
  Act gqa_attention(const BatchView& batch, const KvView& cache, const Tensor& qkv,
                    const GqaParams& params) override;
  Act project_gqa(const BatchView& batch, const KvView& cache, const Act& x, const Weight& qkv,
                  const GqaParams& params) override;
  Partial moe(const BatchView& batch, const Act& x, const MoeParams& params,
              const Tensor& out) override;
  Partial norm_moe(const BatchView& batch, const NormInput& x, const MoeParams& params,
                   const Tensor& out) override;
  Tensor gather_rows(const Tensor& x, const Tensor& index) override;
  Act concat(const Act& left, const Act& right, ActSpec out) override;
  Tensor logits(const Act& x, const Weight& head, Comm* group) override;

  void sample(const SlotTable& slots, const BatchView& batch, const Tensor& logits,
              const std::vector<TokenId>& eos, SampleOutput& out) override;
  Tensor next_tokens(const SlotTable& slots, const BatchView& batch) override;
  Tensor last_accepted(const BatchView& batch, const SampleOutput& out) override;
  void propose(const SlotTable& slots, const BatchView& batch, const Tensor& logits, int32_t index,
               SampleOutput& out) override;
  void apply_samples(const SlotTable& slots, const BatchView& batch,
                     const SampleOutput& out) override;

 private:
  template <typename Call>
  auto observed(OpNote note, const Call& call);
  template <typename Call>
  auto apart(const Call& call);

  Ops& inner_;
  StepObserver* observer_ = nullptr;
  bool eager_ = false;
  double apart_us_ = 0.0;
};

double now_us();

}  // namespace fathom::bench
