// CountOps: the backend without data. The same model text that serves runs on it with null pointers
// and leaves behind what a step of that shape needs: workspace, bytes moved and floating-point
// operations; and what the load needs: bytes of weights and of reserved memory. The memory planner
// and the floors of benchmarks are derived from it.
//
// What is counted, for T tokens (upper bounds: only what the host knows of a step goes in):
//   linear         2 T in out flops; reads activations and weight (scales too), writes the output
//   norm           4 T columns flops
//   gated_linear   as linear, plus 5 T intermediate for silu(gate) * up
//   moe            router 2 T hidden experts; each of T k choices 6 hidden intermediate, of which
//                  this rank's share is experts here / experts; shared expert the same for every
//                  token. Reads min(experts here, T k) experts' weights.
//   mla_attention  absorbed (decode and verify rows, unless told otherwise): per token and head
//                  2 (nope + value) kv_lora + 2 pairs (2 kv_lora + rope); naive (prefill rows):
//                  per row 2 context kv_lora (nope + value) heads, per pair and head
//                  2 (nope + rope + value). Pairs are causal, with every row at the longest
//                  context. A row reads its context's cache once.
//   gqa_attention  4 pairs heads head_dims; a row reads its context's cache once
//   logits         2 n hidden vocabulary
// Copies, tables and sampling count bytes only, 1 flop per logit in `sample`.
//
// Scratch is what the backend that will run takes at most, as its ScratchBounds says.
#pragma once

#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

#include "fathom/ops.h"
#include "ops/count/cpu_scratch.h"

namespace fathom {

struct CountOptions {
  Numerics numerics = Numerics::kNative;
  int32_t threads = 1;  // of the backend that will run: each has scratch of its own
  const ScratchBounds* scratch = nullptr;  // of that backend, outlives this; none: the CPU's
};

// One line of the report: all calls of one op since the last reset.
struct OpCount {
  std::string_view op;
  int64_t calls = 0;
  int64_t flops = 0;
  int64_t bytes_read = 0;
  int64_t bytes_written = 0;
  int64_t comm_bytes = 0;  // handed to collectives
};

struct CountReport {
  int64_t weight_bytes = 0;    // prepare_linear, prepare_kv_b, place
  int64_t packed_bytes = 0;    // pack_linear
  int64_t reserved_bytes = 0;  // reserve: caches, slot table, step arrays, outputs
  int64_t arena_peak_bytes = 0;
  int64_t flops = 0;
  int64_t bytes = 0;  // read and written
  std::vector<OpCount> ops;
};

// Called by one thread, as every Ops.
class CountOps final : public Ops {
 public:
  explicit CountOps(const CountOptions& options);

  CountReport report() const;
  // Forgets the steps, keeps weights and reserved memory.
  void reset_steps();

  std::string_view name() const override { return "count"; }
  Numerics numerics() const override { return options_.numerics; }
  Arena& arena() override { return arena_; }

  bool reads_bytes() const override { return true; }  // none of them
  Result<Weight> prepare_linear(const std::vector<HostWeight>& parts) override;
  Status pack_linear(const Weight& weight, bool gated) override;
  Result<MlaUpProjection> prepare_kv_b(const HostWeight& kv_b, int32_t heads, int32_t nope_dims,
                                       int32_t value_dims) override;
  Result<Tensor> place(const HostTensor& tensor, DType as) override;
  Result<Tensor> reserve(DType dtype, std::initializer_list<int64_t> shape) override;
  ActSpec act_spec(const Weight& weight) const override;

  void edit_slots(const SlotTable& slots, const StepPlan& plan) override;
  void advance(const SlotTable& slots, const StepPlan& plan, BatchView& batch) override;

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
  Partial moe(const BatchView& batch, const Act& x, const MoeParams& params,
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
  // The report's line of `op`, with one more call.
  OpCount& called(std::string_view op);
  Act make_act(int64_t rows, int64_t columns, const ActSpec& spec);
  // Beside an op's output, while it runs.
  void take_scratch(int64_t bytes);
  void count_product(OpCount& line, int64_t rows, const Weight& weight) const;
  int64_t reduce_bytes(const Tensor& tensor, Comm* group) const;

  const CountOptions options_;
  const CpuScratch cpu_scratch_;
  const ScratchBounds& scratch_;
  Arena arena_;
  int64_t weight_bytes_ = 0;
  int64_t packed_bytes_ = 0;
  int64_t reserved_bytes_ = 0;
  std::vector<OpCount> lines_;
};

// Bytes of values and scales.
int64_t weight_bytes(const Weight& weight);
int64_t act_bytes(const Act& act);

}  // namespace fathom
