// What CudaOps takes from the step arena beside the outputs that it returns, op by op: pure host
// arithmetic with the choosers' own answers, tested without a GPU. cuda_ops_test holds every case
// of the op table to it.
#pragma once

#include "fathom/scratch.h"
#include "ops/cuda/choose_moe.h"
#include "ops/cuda/device_traits.h"

namespace fathom {

// What the process takes of the device beside the plan, once it serves: code of kernels, captured
// graphs, staging buffers. Measured (tests/gpu/test_faults.py prints it).
inline constexpr int64_t kCudaBesidePlanBytes = int64_t{256} << 20;
// Of the step arena. Tests hold each op to its bound; this is for what they do not show, as an
// engine without room in a step ends.
inline constexpr int64_t kCudaSpareBytes = int64_t{256} << 20;

class CudaScratch final : public ScratchBounds {
 public:
  // sms: multiprocessors of the device.
  CudaScratch(Numerics numerics, int32_t sms, const DeviceTraits& traits = {})
      : numerics_(numerics), sms_(sms), hopper_(traits.hopper) {}

  int64_t rows(int64_t rows, int64_t columns) const override;
  int64_t product(int64_t rows, const Weight& weight) const override;
  int64_t gated(int64_t rows, const Weight& gate_up) const override;
  int64_t moe(int64_t tokens, int64_t hidden, const ActSpec& x,
              const MoeParams& params) const override;
  int64_t mla(const BatchView& batch, const KvView& cache, const MlaParams& params) const override;
  int64_t gqa(const BatchView& batch, const KvView& cache, const GqaParams& params) const override;
  int64_t sample(int64_t rows, int64_t vocab) const override;
  int64_t packed(const Weight& weight, bool gated) const override;

 private:
  int64_t act_size() const { return numerics_ == Numerics::kReference ? 4 : 2; }
  ActSpec spec_of(const Weight& weight) const { return act_spec_of(weight, numerics_); }
  int64_t converted(int64_t rows, int64_t columns, const ActSpec& spec) const;
  int64_t shared_expert(int64_t tokens, const MoeParams& p) const;
  int64_t few_tokens(int64_t tokens, const MoeParams& p) const;
  int64_t experts_on(MoeKernel kernel, int64_t tokens, const MoeParams& p) const;
  int64_t routed_experts(int64_t tokens, const ActSpec& x, const MoeParams& p) const;
  int64_t mla_decode(const StepShape& shape, int64_t tokens, const KvView& cache,
                     const MlaParams& p) const;
  int64_t mla_partial(const StepShape& shape, int32_t query_tokens_max, const KvView& cache,
                      const MlaParams& p) const;
  int64_t mla_absorbed(const StepShape& shape, const KvView& cache, const MlaParams& p) const;
  int64_t mla_prefill(const StepShape& shape, const KvView& cache, const MlaParams& p) const;
  int64_t gqa_prefill(const StepShape& shape, const KvView& cache, const GqaParams& p) const;

  const Numerics numerics_;
  const int32_t sms_;
  const bool hopper_;
};

}  // namespace fathom
