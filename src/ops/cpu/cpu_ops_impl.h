// CpuOps: the class whose methods the files of this folder implement, one idea a file. Owned and
// called by one rank's thread.
#pragma once

#include <memory>
#include <string_view>
#include <vector>

#include "ops/cpu/activation.h"
#include "ops/cpu/cpu_ops.h"
#include "ops/cpu/matmul.h"
#include "ops/cpu/thread_pool.h"

namespace fathom {

class CpuOps final : public Ops {
 public:
  explicit CpuOps(const CpuOpsOptions& options);

  std::string_view name() const override { return "cpu"; }
  Numerics numerics() const override { return numerics_; }
  Arena& arena() override { return arena_; }
  Status health() const override { return health_; }

  // prepare.cpp
  Result<Weight> prepare_linear(const std::vector<HostWeight>& parts) override;
  Result<MlaUpProjection> prepare_kv_b(const HostWeight& kv_b, int32_t heads, int32_t nope_dims,
                                       int32_t value_dims) override;
  Result<Tensor> place(const HostTensor& tensor, DType as) override;
  Result<Tensor> reserve(DType dtype, std::initializer_list<int64_t> shape) override;
  ActSpec act_spec(const Weight& weight) const override;

  // slots.cpp, advance.cpp
  void edit_slots(const SlotTable& slots, const StepPlan& plan) override;
  void advance(const SlotTable& slots, const StepPlan& plan, BatchView& batch) override;

  // embed.cpp
  Tensor embed(const Tensor& ids, const Tensor& table, int32_t first_row, Comm* group) override;
  // norm.cpp
  Act norm(const Tensor& x, const Tensor& weight, float epsilon, ActSpec out) override;
  Act reduce_add_norm(const Partial& partial, const Tensor& residual, const Tensor& weight,
                      float epsilon, ActSpec out, Comm* group) override;
  void reduce_add(const Partial& partial, const Tensor& residual, Comm* group) override;
  // linear.cpp
  Tensor linear(const Act& x, const Weight& weight) override;
  Partial linear_partial(const Act& x, const Weight& weight, const Tensor& out) override;
  Act gated_linear(const Act& x, const Weight& gate_up, ActSpec out) override;
  Tensor logits(const Act& x, const Weight& head, Comm* group) override;
  // mla_attention.cpp
  Act mla_attention(const BatchView& batch, const KvView& cache, const Tensor& q,
                    const Tensor& kv_a, const MlaParams& params, MlaForm form) override;
  // gqa_attention.cpp
  Act gqa_attention(const BatchView& batch, const KvView& cache, const Tensor& qkv,
                    const GqaParams& params) override;
  // moe.cpp
  Partial moe(const BatchView& batch, const Act& x, const MoeParams& params,
              const Tensor& out) override;
  // rows.cpp
  Tensor gather_rows(const Tensor& x, const Tensor& index) override;
  Act concat(const Act& left, const Act& right, ActSpec out) override;
  Tensor next_tokens(const SlotTable& slots, const BatchView& batch) override;
  Tensor last_accepted(const BatchView& batch, const SampleOutput& out) override;
  // sample.cpp, propose.cpp
  void sample(const SlotTable& slots, const BatchView& batch, const Tensor& logits,
              const std::vector<TokenId>& eos, SampleOutput& out) override;
  void propose(const SlotTable& slots, const BatchView& batch, const Tensor& logits, int32_t index,
               SampleOutput& out) override;
  void apply_samples(const SlotTable& slots, const BatchView& batch,
                     const SampleOutput& out) override;

 private:
  struct Unmap {
    size_t size = 0;
    void operator()(std::byte* p) const;
  };

  float* floats(int64_t n) { return arena_.take(DType::kF32, {n}).as<float>(); }
  // x times weight, rounded as a linear output, into `out` (float32, rows contiguous).
  void linear_rows(const Rows& x, const Weight& weight, float* out);
  void all_reduce(const Tensor& tensor, Comm* group);
  void note(Status status);

  const Numerics numerics_;
  const Products products_;
  ThreadPool pool_;
  std::vector<std::unique_ptr<std::byte, Unmap>> memory_;
  Arena arena_;
  Status health_;
};

}  // namespace fathom
