// CudaOps: the op set on one GPU. Choosers name a kernel made for a call's shape, or cuBLASLt;
// otherwise it runs on a plain one, against which those are measured. One object per rank, called
// by that rank's thread; it owns the device's memory and one stream. Numbers agree with CpuOps, the
// oracle, as docs/numerics.md says.
#pragma once

#include <cstdint>
#include <functional>
#include <memory>
#include <string>
#include <unordered_map>
#include <utility>
#include <vector>

#include "fathom/ops.h"
#include "kernels/gqa_decode_plan.h"
#include "kernels/mla_decode.h"
#include "kernels/moe.h"
#include "kernels/moe_few.h"
#include "kernels/packed_gemm.h"
#include "kernels/steps.h"
#include "kernels/turn.h"
#include "ops/cuda/device.h"
#include "ops/cuda/lane.h"
#include "ops/cuda/large_gemm.h"

namespace fathom {

struct GqaSource;
struct GqaStep;
struct ManyProblem;
struct MlaCall;
class WeightUpload;
namespace kernels {
struct GroupedMatrix;
struct GroupedRouting;
struct ManyCall;
struct MoeFewExpert;
}  // namespace kernels

kernels::RouterShape router_shape(const MoeParams& p);

struct CudaOpsOptions {
  Numerics numerics = Numerics::kNative;
  int64_t arena_bytes = 0;
  bool host_readable = false;  // managed memory, for tests that look at what ops wrote
  int64_t weight_bytes = 0;    // of the model, to share one piece; 0: each tensor has its own
  bool deterministic = false;  // a row's results do not depend on what else is in its step
  bool library = true;         // cuBLASLt for many rows; off where only our kernels are of interest
  bool neutral_kernels = false;  // those of every architecture alone, for tests on an H100
};

class CudaOps final : public Ops {
 public:
  static Result<std::unique_ptr<CudaOps>> make(const CudaOpsOptions& options);
  ~CudaOps() override;

  std::string_view name() const override { return "cuda"; }
  Numerics numerics() const override { return numerics_; }
  Arena& arena() override { return arena_; }
  Status health() const override { return health_; }

  // prepare.cpp
  Result<Weight> prepare_linear(const std::vector<HostWeight>& parts) override;
  Status pack_linear(const Weight& weight, bool gated) override;  // packed_gemm.cpp
  Result<MlaUpProjection> prepare_kv_b(const HostWeight& kv_b, int32_t heads, int32_t nope_dims,
                                       int32_t value_dims) override;
  Result<Tensor> place(const HostTensor& tensor, DType as) override;
  Result<Tensor> place_table(const HostWeight& table, DType as) override;
  ActSpec act_spec(const Weight& weight) const override;
  Status check_cache(DType dtype, int32_t head_dims) const override;  // gqa.cpp
  Status synchronize() override;

  // memory.cpp
  bool reads_bytes() const override { return true; }
  Status begin_load() override;
  Status finish_load() override;
  Result<Tensor> reserve(DType dtype, std::initializer_list<int64_t> shape) override;
  Result<Tensor> reserve_output(DType dtype, std::initializer_list<int64_t> shape) override;

  // frame.cpp
  void edit_slots(const SlotTable& slots, const StepPlan& plan) override;
  void advance(const SlotTable& slots, const StepPlan& plan, BatchView& batch) override;
  bool replays() const override { return true; }
  Status capture(const StepShape& shape, int32_t frame,
                 const std::function<Status()>& body) override;
  Status seal() override;
  Status run_step(const StepShape& shape, int32_t frame,
                  const std::function<Status()>& body) override;
  bool asynchronous() const override { return true; }
  uint64_t mark() override;
  Status wait(uint64_t ticket) override;

  // rows.cpp
  Tensor embed(const Tensor& ids, const Tensor& table, int32_t first_row, Comm* group) override;
  Act norm(const Tensor& x, const Tensor& weight, float epsilon, ActSpec out) override;
  Act reduce_add_norm(const Partial& partial, const Tensor& residual, const Tensor& weight,
                      float epsilon, ActSpec out, Comm* group) override;
  void reduce_add(const Partial& partial, const Tensor& residual, Comm* group) override;
  Tensor gather_rows(const Tensor& x, const Tensor& index) override;
  Act concat(const Act& left, const Act& right, ActSpec out) override;
  // layers.cpp
  Tensor linear(const Act& x, const Weight& weight) override;
  Partial linear_partial(const Act& x, const Weight& weight, const Tensor& out) override;
  // gemm.cpp
  Act gated_linear(const Act& x, const Weight& gate_up, ActSpec out) override;
  // moe.cpp
  Partial moe(const BatchView& batch, const Act& x, const MoeParams& params,
              const Tensor& out) override;
  Partial norm_moe(const BatchView& batch, const NormInput& x, const MoeParams& params,
                   const Tensor& out) override;
  // gqa.cpp
  Act gqa_attention(const BatchView& batch, const KvView& cache, const Tensor& qkv,
                    const GqaParams& params) override;
  // gqa_project.cpp
  Act project_gqa(const BatchView& batch, const KvView& cache, const Act& x, const Weight& qkv,
                  const GqaParams& params) override;
  // layers.cpp
  Tensor logits(const Act& x, const Weight& head, Comm* group) override;

  // mla.cpp
  Act mla_attention(const BatchView& batch, const KvView& cache, const Tensor& q,
                    const Tensor& kv_a, const MlaParams& params, MlaForm form) override;

  // tokens.cpp
  void sample(const SlotTable& slots, const BatchView& batch, const Tensor& logits,
              const std::vector<TokenId>& eos, SampleOutput& out) override;
  Tensor next_tokens(const SlotTable& slots, const BatchView& batch) override;
  Tensor last_accepted(const BatchView& batch, const SampleOutput& out) override;
  void propose(const SlotTable& slots, const BatchView& batch, const Tensor& logits, int32_t index,
               SampleOutput& out) override;
  void apply_samples(const SlotTable& slots, const BatchView& batch,
                     const SampleOutput& out) override;

  // large_layers.cpp. At load: gives cuBLASLt a weight that lies on the device. prepare_linear does
  // it; benchmarks that make weights in place do it themselves.
  Status add_large(const Weight& weight);

  // For benchmarks, which time what runs on it.
  cudaStream_t stream() const { return stream_; }
  // Steps that ran as a replay of a captured graph; tests read it.
  int64_t replay_count() const { return replays_; }
  int64_t packed_count() const { return static_cast<int64_t>(packed_.size()); }
  int64_t graph_count() const { return static_cast<int64_t>(graphs_.size()); }

 private:
  // A pinned buffer with its copy on the device; reused when the step that read it is done.
  struct Staging {
    std::byte* host = nullptr;
    std::byte* device = nullptr;
    size_t capacity = 0;
    uint64_t read_by = 0;  // the mark that follows what reads it; 0: nobody did
  };

  // What a schedule of latent attention was made from.
  struct MlaScheduleKey {
    const int32_t* context = nullptr;
    int32_t rows = 0;
    int32_t parts = 0;
    int32_t slots = 0;
    unsigned long long capture = 0;  // of the graph that holds it, or 0
    bool operator==(const MlaScheduleKey&) const = default;
  };
  // Of a step's rows of one class, shared by its layers.
  struct MlaStepSchedule {
    kernels::MlaSchedule arrays;
    MlaScheduleKey made;
  };

  // Device memory that tensors share.
  struct Slab {
    std::byte* next = nullptr;
    int64_t left = 0;
  };

  static constexpr uint32_t kTurns = 1024;
  static constexpr int64_t kLogitPeakRows = 512;

  explicit CudaOps(const CudaOpsOptions& options);

  kernels::Format act_format() const;
  float* floats(int64_t n) { return arena_.take(DType::kF32, {n}).as<float>(); }
  Act take_act(int64_t rows, int64_t columns, const ActSpec& spec);
  // rows.cpp
  void finish(const float* x, int64_t rows, int64_t stride, const Act& act);
  Act add_norm(const Partial& partial, const Tensor& x, const Tensor& weight, float epsilon,
               ActSpec out);
  // For the stream's next kernel of `blocks` that fetches ahead (kernels/turn.h); 0: it takes no
  // part, and the next one does not wait. gemm.cpp
  kernels::Turn take_turn(int64_t blocks);
  // out = x Wt, rounded through `round`. gemm.cpp
  void multiply(const Act& x, const Weight& weight, const Tensor& out, kernels::Format round);
  void multiply_in_passes(const kernels::Rows& x, GemmProblem problem,
                          const kernels::Matrix& weight, const kernels::Rows& out,
                          kernels::Format round);
  bool multiply_gated(const Act& x, const Weight& gate_up, const Act& act);
  // False where the chooser does not name it: nothing was written. tall_gemm.cpp
  bool multiply_tall(const Act& x, const Weight& weight, bool gated, const kernels::Epilogue& out);
  Status make_many_gemm();  // after make_large_gemm
  // Products of many rows in e4m3; gated: with silu(gate) * up behind it. False where it is not
  // chosen: nothing was written. many_gemm.cpp
  // scales_by_group: of what is gated, taken where a product of cuBLASLt may read them.
  bool multiply_many(const Act& x, const Weight& weight, bool gated, const kernels::Epilogue& out,
                     Tensor* scales_by_group = nullptr);
  // The same in bf16, with float32 results; of logits of up to kLogitPeakRows rows also the peaks.
  bool multiply_exact(const Act& x, const Weight& weight, const kernels::Rows& out);
  bool run_many(ManyProblem problem, kernels::ManyCall call, Tensor* scales_by_group = nullptr);
  // packed_gemm.cpp. Of W's packed copy; false where it has none, or another kernel is faster.
  bool multiply_packed(const Act& x, const Weight& weight, bool gated, const kernels::Rows& out,
                       kernels::Format round);
  GemmProblem packed_problem(const Weight& weight, bool gated) const;
  Status make_packed(const Weight& weight, bool gated);
  Status pack_waiting();
  // False where cuBLASLt refused: nothing was written.
  bool multiply_large(const Act& x, int64_t rows, const kernels::Matrix& weight,
                      const kernels::Rows& out, kernels::Format round);
  const float* scales_by_group(const Act& x, int64_t rows);
  // large_layers.cpp
  Status make_large_gemm();
  Result<const float*> large_scales(const Weight& weight, const ScaleSegment& segment);
  template <typename T>
  Result<std::vector<T>> download(const Tensor& from);
  void check(cudaError_t error, const char* what);
  void check_single(const Comm* group) const;
  Status add_slab(int64_t bytes);
  Result<void*> allocate_own(int64_t bytes);
  Result<void*> allocate(int64_t bytes);
  Result<Tensor> upload(const Tensor& host);
  Result<Tensor> upload_across(const Tensor& key);
  Status copy_rows(const HostWeight& weight, std::byte* to);
  Staging& stage(size_t bytes);
  Status make_schedule();  // prepare.cpp

  // mla.cpp: decode and verify rows, the absorbed form for all rows that no faster kernel takes.
  void mla_decode_rows(const MlaCall& call, int64_t tokens);
  bool mla_attend_decode(const MlaCall& call, const Tensor& queries, const Tensor& latents);
  kernels::MlaDecodeDesc mla_decode_desc(const MlaCall& call) const;
  kernels::MlaDecodeCall mla_decode_call(const MlaCall& call,
                                         const kernels::MlaDecodeConfig& config,
                                         const Tensor& queries, const Tensor& latents);
  void mla_make_schedule(const kernels::MlaDecodeDesc& desc, const kernels::MlaDecodeConfig& config,
                         const kernels::MlaDecodeRows& rows, MlaStepSchedule& schedule);
  // mla_fused.cpp
  void mla_write_entries(const MlaCall& call);
  bool mla_decode_fused(const MlaCall& call, int64_t decode_tokens, const kernels::Epilogue& out);
  bool schedule_is_made(MlaStepSchedule& schedule, const MlaScheduleKey& wanted);
  bool mla_products(const MlaCall& call) const;
  void mla_absorb(const MlaCall& call, const Tensor& queries);
  void mla_values(const MlaCall& call, const Tensor& latents, int32_t first_row, int32_t end_row);
  // prefill_mla.cpp
  void mla_prefill_rows(const MlaCall& call, MlaForm form);
  void mla_prefill_plain(const MlaCall& call);
  // Rows from first_row on in the naive form; false when its kernels do not fit them.
  bool mla_prefill_naive(const MlaCall& call, int32_t first_row);
  // prefill_mla_absorbed.cpp. On the kernels of decode rows; false when none fits.
  bool mla_prefill_absorbed(const MlaCall& call);

  // gqa.cpp
  Act attend_gqa(const BatchView& batch, const KvView& cache, const GqaSource& from,
                 const GqaParams& p);
  void gqa_prepare_step(const GqaStep& step, const GqaSource& from, int32_t* arrivals,
                        int32_t arrival_count);
  void gqa_decode_rows(const GqaStep& step, const kernels::GqaDecodePlan& plan,
                       const GqaSource& from, int32_t* arrivals);
  // prefill_gqa.cpp
  void gqa_prefill_rows(const GqaStep& step, cudaStream_t stream);

  // experts.cpp. Of each token its choices (ids, weights: [tokens, k]) and what their experts gave.
  struct RoutedPairs {
    int32_t* ids = nullptr;
    float* weights = nullptr;
    kernels::Rows values;  // [tokens * k, hidden] f32 or bf16
  };
  RoutedPairs take_pairs(int64_t pairs, int64_t hidden, DType dtype);
  const kernels::Matrix* expert_table(const std::vector<Weight>& weights);
  RoutedPairs run_pairs(const BatchView& batch, const MoeParams& p, float* scores,
                        const Act& input);
  RoutedPairs run_few_tokens(const BatchView& batch, const MoeParams& p, float* scores,
                             const Act& input);
  // grouped.cpp
  const kernels::GroupedMatrix* grouped_table(const std::vector<Weight>& weights,
                                              const Weight* shared);
  void make_grouped_tables(const MoeParams& p);
  kernels::GroupedRouting grouped_routing(const BatchView& batch, const MoeParams& p, const Act& x,
                                          const Act& input);
  // The whole layer; false where its kernels do not fit, and nothing was written.
  bool moe_grouped(const BatchView& batch, const Act& x, const MoeParams& p, const Tensor& out);
  // Also makes what grouped products need before `seal`, where they may be chosen. experts.cpp
  bool chooses_grouped(const BatchView& batch, const MoeParams& p);
  // What the routed experts give, where not the whole layer is grouped. scores: the router's, f32
  // [tokens, experts], overwritten.
  RoutedPairs run_experts(const BatchView& batch, const MoeParams& p, float* scores,
                          const Act& input);
  // moe_few.cpp. run_few does the whole layer, or nothing and returns false.
  bool suits_few(const Act& x, const MoeParams& p) const;
  const kernels::MoeFewExpert* few_table(const MoeParams& p);
  bool run_few(const BatchView& batch, const Act& x, const MoeParams& p, const Tensor& out,
               const kernels::MoeFewNorm& norm, bool* open);
  // moe_open.cpp
  Status make_open_sum();
  bool keeps_open(const kernels::MoeFew& m) const;
  void close_sum(const Partial& partial);
  // False where the kernel does not fit, and nothing was written.
  bool close_sum_in_norm(const Partial& partial, const Tensor& residual, const Tensor& weight,
                         float epsilon, const Act& out);
  // moe.cpp
  Act convert(const Act& x, const ActSpec& spec);
  float* router_scores(const Act& x, const MoeParams& p);
  float* shared_expert(const Act& input, const MoeParams& p);  // f32 [tokens, hidden]

  const Numerics numerics_;
  const bool host_readable_;
  const bool deterministic_;
  const bool with_library_;
  cudaStream_t stream_ = nullptr;
  Lane lane_;        // beside it
  int32_t sms_ = 0;  // of the device
  bool hopper_ = true;  // its own kernels may run
  Tensor large_workspace_;
  std::unique_ptr<LargeGemm> large_;  // null where cuBLASLt is not found
  std::unordered_map<const void*, kernels::PackedMatrix> packed_;  // by the plain values
  std::vector<std::pair<Weight, bool>> to_pack_;  // with "gated", until they have arrived
  kernels::PackedNote* packed_note_ = nullptr;    // of the matrix that is packed
  std::vector<void*> device_memory_;
  std::vector<Slab> slabs_;
  std::vector<void*> pinned_memory_;
  Arena arena_;
  Status health_;
  std::vector<Staging> staging_;
  size_t next_staging_ = 0;
  std::vector<uint8_t> prompt_logprobs_;  // by slot, as opened
  std::unordered_map<const Weight*, const kernels::Matrix*> expert_tables_;
  std::unordered_map<const Weight*, const kernels::GroupedMatrix*> grouped_tables_;
  std::unordered_map<const Weight*, const kernels::MoeFewExpert*> few_tables_;
  int32_t* moe_arrivals_ = nullptr;  // zero between calls
  uint32_t* moe_posts_ = nullptr;    // two of them, likewise
  int32_t moe_turn_ = 0;             // which of them the last call took
  float* open_rows_ = nullptr;       // [kMoeOpenRowWords], then ids and weights of pairs
  kernels::MoeFew open_sum_;         // whose rows they are
  uint32_t* gqa_exchange_ = nullptr;  // zero between calls
  MlaStepSchedule decode_schedule_;
  MlaStepSchedule prefill_schedule_;
  // [kernels::kSampleMeasuredRowsMax, kSampleMeasuredWords] of `sample`.
  float* sample_measured_ = nullptr;
  float* logit_peaks_ = nullptr;         // [kLogitPeakRows, kernels::kSamplePeaks], or null
  const void* peaked_logits_ = nullptr;  // whose they are, until `sample` has read them
  uint32_t* many_words_ = nullptr;  // zero between calls; null: rounds are not shared
  uint32_t* turns_ = nullptr;        // [kTurns], the stream's kernels take them round and round
  uint32_t next_turn_ = 0;
  uint32_t turn_blocks_ = 0;  // of the kernel before; 0: it took no part
  const int32_t* eos_ = nullptr;  // device copy of the first call's ids
  std::unordered_map<uint64_t, cudaGraphExec_t> graphs_;
  bool sealed_ = false;
  int64_t replays_ = 0;
  std::vector<cudaEvent_t> marks_;
  uint64_t next_mark_ = 1;
  uint64_t reached_mark_ = 0;  // the newest that was waited for
  std::unique_ptr<WeightUpload> uploading_;  // between begin_load and finish_load
};

}  // namespace fathom
