// Ops: the op set every model is written against, as coarse as the best fused kernel. Three
// backends: CpuOps (plain loops, the oracle), CudaOps, and CountOps (no data: workspace, bytes and
// flops). Owned and called by one rank's thread. Shapes are checked invariants: a wrong one ends
// the process. Outputs lie in the rank's Arena and live until the enclosing ArenaScope or the step
// ends.
#pragma once

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <functional>
#include <memory>
#include <string>
#include <string_view>
#include <vector>

#include "fathom/batch.h"
#include "fathom/comm.h"
#include "fathom/status.h"
#include "fathom/tensor.h"
#include "fathom/weight.h"

namespace fathom {

// Rotary tables for one rope configuration: f32 [positions, rope_dims / 2] each, YaRN applied
// (models.md 2.2).
struct RopeTable {
  Tensor cosines;
  Tensor sines;
};

// kv_b of one layer, split per head for the absorbed form (models.md 2.3), dequantized.
struct MlaUpProjection {
  Tensor key;    // [heads, nope_dims, kv_lora] W_UK
  Tensor value;  // [heads, value_dims, kv_lora] W_UV
};

// Multi-head latent attention (DeepSeek-V2, section 2.1), heads of this rank.
struct MlaParams {
  int32_t heads = 0;
  int32_t nope_dims = 128;
  int32_t rope_dims = 64;
  int32_t value_dims = 128;
  int32_t kv_lora = 512;
  float softmax_scale = 0.0F;  // mscale squared included
  float norm_epsilon = 1e-6F;
  Tensor kv_norm;  // f32 [kv_lora]
  MlaUpProjection up;
  RopeTable rope;
  ActSpec out;  // as o_proj wants it
};

// Attention with grouped key and value heads (Ainslie et al., 2023), heads of this rank: query head
// h reads key head h / (heads / kv_heads).
struct GqaParams {
  int32_t heads = 0;
  int32_t kv_heads = 0;
  int32_t head_dims = 128;
  float softmax_scale = 0.0F;
  float norm_epsilon = 1e-6F;
  Tensor bias;     // f32 [(heads + 2 * kv_heads) * head_dims] of queries, keys and values (Qwen2);
                   // undefined: none
  Tensor q_norm;   // f32 [head_dims], of every query head before its rope (Qwen3); undefined: none
  Tensor k_norm;   // f32 [head_dims]
  RopeTable rope;  // of head_dims dimensions, pairs (i, i + head_dims / 2)
  ActSpec out;     // as o_proj wants it
};

enum class MlaForm : uint8_t {
  kChosen,
  kAbsorbed,
  kNaive
};  // kChosen: the backend's chooser decides per row class

enum class ScoreFunction : uint8_t { kSigmoid, kSoftmax };
enum class GroupScore : uint8_t { kTopTwoSum, kMax };

// Router and experts of one layer (DeepSeek-V3, section 2.1.2); whole experts per rank.
struct MoeParams {
  int32_t experts = 0;
  int32_t experts_per_token = 0;
  int32_t groups = 1;
  int32_t groups_per_token = 1;
  ScoreFunction score = ScoreFunction::kSigmoid;
  GroupScore group_score = GroupScore::kTopTwoSum;
  bool normalize = true;
  float scale = 1.0F;
  Tensor router;  // f32 [experts, hidden]
  Tensor bias;    // f32 [experts], or undefined
  int32_t first_expert =
      0;  // this rank's experts are [first_expert, first_expert + gate_up.size())
  std::vector<Weight> gate_up;  // per expert [2 * intermediate, hidden]
  std::vector<Weight> down;     // per expert [hidden, intermediate]
  Weight shared_gate_up;        // undefined values: no shared expert
  Weight shared_down;
};

// What a layer's block reads: norm(residual + all-reduce(partial)) * weight. An op that takes it
// adds the sum to the residual, as reduce_add_norm does, and alone reads the norm.
struct NormInput {
  Partial partial;  // undefined: adds nothing
  Tensor residual;  // act_dtype [T, columns]
  Tensor weight;    // f32 [columns]
  float epsilon = 1e-6F;
  Comm* group = nullptr;
};

// Bump allocator over one fixed region of backend memory; reset each step, scoped within it. One
// rank's thread.
class Arena {
 public:
  Arena() = default;
  Arena(void* base, int64_t capacity) : base_(static_cast<std::byte*>(base)), capacity_(capacity) {}

  // 256-byte aligned. Running out is a broken invariant: the planner sized it.
  Tensor take(DType dtype, std::initializer_list<int64_t> shape) {
    Tensor t = Tensor::of(nullptr, dtype, shape);
    const int64_t at = used_;
    used_ += (t.bytes() + 255) / 256 * 256;
    peak_ = std::max(peak_, used_);
    if (base_ == nullptr) return t;
    FATHOM_CHECK(used_ <= capacity_, overrun(t.bytes()));
    t.data = base_ + at;
    return t;
  }
  int64_t used() const { return used_; }
  int64_t peak() const { return peak_; }
  void rewind(int64_t used) { used_ = used; }
  // Who takes from now on, for the sentence that says that there is no room. A literal.
  void name_op(const char* op) { op_ = op; }

 private:
  std::string overrun(int64_t bytes) const {
    return std::string("step arena is too small: ") + op_ + " takes " + std::to_string(bytes) +
           " bytes, which makes " + std::to_string(used_) + " of " + std::to_string(capacity_) +
           " that were planned";
  }

  const char* op_ = "the model";
  std::byte* base_ = nullptr;  // null: only counts
  int64_t capacity_ = 0;
  int64_t used_ = 0;
  int64_t peak_ = 0;
};

// Gives back what was taken from the arena since its construction.
class ArenaScope {
 public:
  explicit ArenaScope(Arena& arena) : arena_(arena), mark_(arena.used()) {}
  ~ArenaScope() { arena_.rewind(mark_); }
  ArenaScope(const ArenaScope&) = delete;
  ArenaScope& operator=(const ArenaScope&) = delete;

 private:
  Arena& arena_;
  int64_t mark_;
};

class Ops {
 public:
  virtual ~Ops() = default;

  virtual std::string_view name() const = 0;
  virtual Numerics numerics() const = 0;
  virtual Arena& arena() = 0;
  // Not ok once a collective or the device has failed; what was computed since is worthless.
  // Sticky; the worker asks after each step, so that ops need not return errors one by one.
  virtual Status health() const { return Status::ok(); }
  // f32 in reference, bf16 in native: the dtype of the residual, of linear outputs and of caches.
  DType act_dtype() const {
    return numerics() == Numerics::kReference ? DType::kF32 : DType::kBF16;
  }

  // ---- Load time. Weights move into backend memory, in the form its kernels want.

  // Whether prepare_linear and place_table take weights as HostWeight::bytes (map_weight), which
  // the backend then reads with threads of its own.
  virtual bool reads_bytes() const { return false; }
  // Between the two, weights may be on their way still when prepare_linear and place_table return,
  // and nothing may be computed with them; finish_load waits for all and says what went wrong.
  virtual Status begin_load() { return Status::ok(); }
  virtual Status finish_load() { return Status::ok(); }

  // Concatenates `parts` along the output dimension. All parts have the same input slice and
  // format.
  virtual Result<Weight> prepare_linear(const std::vector<HostWeight>& parts) = 0;
  // Beside a matrix that prepare_linear made, a copy of its numbers in fewer bytes, which products
  // of few rows then read. gated: gated_linear is what reads it. Does nothing where the backend has
  // no such form of it. Before seal().
  virtual Status pack_linear(const Weight& weight, bool gated) {
    (void)weight;
    (void)gated;
    return Status::ok();
  }
  // kv_b rows of `heads` heads: [heads * (nope + value), kv_lora].
  virtual Result<MlaUpProjection> prepare_kv_b(const HostWeight& kv_b, int32_t heads,
                                               int32_t nope_dims, int32_t value_dims) = 0;
  // A vector or small matrix as float32 (norm weights, router, bias) or in the stored dtype
  // (embedding).
  virtual Result<Tensor> place(const HostTensor& tensor, DType as) = 0;
  // The same for a large table without scales.
  virtual Result<Tensor> place_table(const HostWeight& table, DType as) {
    return place(table.values, as);
  }
  // Long-lived zeroed memory: caches, slot table, step arrays, outputs.
  virtual Result<Tensor> reserve(DType dtype, std::initializer_list<int64_t> shape) = 0;
  // The same for memory that the host reads after synchronize(): sampling's output.
  virtual Result<Tensor> reserve_output(DType dtype, std::initializer_list<int64_t> shape) {
    return reserve(dtype, shape);
  }
  // Returns when everything launched so far is complete and its outputs are readable by the host.
  virtual Status synchronize() { return Status::ok(); }
  // Refuses caches that this backend's attention does not read: of keys and values of as many
  // dimensions, or (0) of latents.
  virtual Status check_cache(DType dtype, int32_t head_dims) const {
    (void)dtype;
    (void)head_dims;
    return Status::ok();
  }
  // The activation form that `weight` wants from its producer.
  virtual ActSpec act_spec(const Weight& weight) const = 0;

  // ---- The step's frame: slot table and rows.

  // Applies the plan's close, open and append deltas to the slot table.
  virtual void edit_slots(const SlotTable& slots, const StepPlan& plan) = 0;
  // Resolves the plan's rows against the slot table: fills the batch's arrays, which have room for
  // batch.shape (set by the host: the plan's, or larger). Rows past the plan's are padding: slot 0,
  // decode, no query tokens, at the end of the plan's tokens. Tokens past it are not valid and lie
  // in no row; sample rows past it name token 0 and no row (batch.shape.rows). Writes nothing to
  // the table.
  virtual void advance(const SlotTable& slots, const StepPlan& plan, BatchView& batch) = 0;

  // ---- Capture, for backends that replay steps.

  // Whether steps of decode and verify rows are captured before ready and replayed: such steps are
  // then padded to the few shapes that are captured (engine/capture_shapes.h).
  virtual bool replays() const { return false; }
  // Runs `body` (everything of a step that follows advance, with its arrays at the addresses of
  // `frame`) once, so that what it needs is loaded, then captures it. Before seal().
  virtual Status capture(const StepShape& shape, int32_t frame,
                         const std::function<Status()>& body) {
    (void)shape;
    (void)frame;
    return body();
  }
  // Loading is over: from here on the backend allocates nothing and captures nothing.
  virtual Status seal() { return synchronize(); }
  // Replays what was captured for `shape` and `frame`, or runs `body`.
  virtual Status run_step(const StepShape& shape, int32_t frame,
                          const std::function<Status()>& body) {
    (void)shape;
    (void)frame;
    return body();
  }

  // Whether launches return before the work is done: a worker then keeps two steps in flight.
  virtual bool asynchronous() const { return false; }
  // A point in the order of launches, and the wait until all before it is complete and its outputs
  // are readable by the host. Waits come in the order of marks.
  virtual uint64_t mark() { return 0; }
  virtual Status wait(uint64_t mark) {
    (void)mark;
    return synchronize();
  }

  // ---- The layers. T = batch.shape.tokens.

  // table: [vocabulary rows of this rank, hidden]; ids outside [first_row, first_row + rows) give
  // zeros. Returns the residual stream, act_dtype [T, hidden]; a vocabulary-sharded embedding is
  // reduced over `group`.
  virtual Tensor embed(const Tensor& ids, const Tensor& table, int32_t first_row, Comm* group) = 0;
  // y = norm(x) * weight (RMSNorm, float32 inside). x: [T, columns], strided rows allowed.
  virtual Act norm(const Tensor& x, const Tensor& weight, float epsilon, ActSpec out) = 0;
  // residual += all-reduce(partial); returns norm(residual) * weight. An undefined partial adds
  // nothing.
  virtual Act reduce_add_norm(const Partial& partial, const Tensor& residual, const Tensor& weight,
                              float epsilon, ActSpec out, Comm* group) = 0;
  // residual += all-reduce(partial), without the norm.
  virtual void reduce_add(const Partial& partial, const Tensor& residual, Comm* group) = 0;
  // act_dtype [T, out].
  virtual Tensor linear(const Act& x, const Weight& weight) = 0;
  // The same before its reduction over the tensor-parallel group, written to `out`, act_dtype
  // [T, out]: the model takes one such buffer per step, so that a layer's output outlives the
  // layer's ArenaScope.
  virtual Partial linear_partial(const Act& x, const Weight& weight, const Tensor& out) = 0;
  // silu(gate) * up of one matrix [2 * intermediate, in] (gate rows first), as the down projection
  // wants it.
  virtual Act gated_linear(const Act& x, const Weight& gate_up, ActSpec out) = 0;
  // `x` in the form `out`, for whoever else reads it.
  Act normed(const NormInput& x, ActSpec out) {
    return reduce_add_norm(x.partial, x.residual, x.weight, x.epsilon, out, x.group);
  }
  // Norm of the latent, rope of query and key, cache write, attention over the cache, value
  // up-projection. q: [T, heads * (nope + rope)]; kv_a: [T, kv_lora + rope] (strided rows allowed).
  // Interleaved rope. Returns [T, heads * value_dims] in params.out. The cache is in act_dtype, or
  // of e4m3 as fathom/fp8_cache.h says (as for gqa_attention).
  virtual Act mla_attention(const BatchView& batch, const KvView& cache, const Tensor& q,
                            const Tensor& kv_a, const MlaParams& params, MlaForm form) = 0;
  // Bias, norm and rope of queries and keys, cache write, attention over the cache. qkv: [T, (heads
  // + 2 * kv_heads) * head_dims], queries, keys, values. A cache entry is the keys of all kv_heads,
  // roped, then their values: 2 * kv_heads * head_dims. Returns [T, heads * head_dims] in
  // params.out.
  virtual Act gqa_attention(const BatchView& batch, const KvView& cache, const Tensor& qkv,
                            const GqaParams& params) = 0;
  // gqa_attention of a product.
  virtual Act project_gqa(const BatchView& batch, const KvView& cache, const Act& x,
                          const Weight& qkv, const GqaParams& params) {
    return gqa_attention(batch, cache, linear(x, qkv), params);
  }
  // Route, dispatch, experts, weighted sum, shared expert. x: [T, hidden] in act_dtype, not
  // quantized. Written to `out`, act_dtype [T, hidden].
  virtual Partial moe(const BatchView& batch, const Act& x, const MoeParams& params,
                      const Tensor& out) = 0;
  // moe of a norm. `out` may be the memory of x's partial. The sum may come back open: then it is
  // consumed before the next call.
  virtual Partial norm_moe(const BatchView& batch, const NormInput& x, const MoeParams& params,
                           const Tensor& out) {
    const ActFormat plain = act_dtype() == DType::kF32 ? ActFormat::kF32 : ActFormat::kBF16;
    return moe(batch, normed(x, ActSpec{plain, false, 0}), params, out);
  }
  // Rows `index` of x: [n, columns].
  virtual Tensor gather_rows(const Tensor& x, const Tensor& index) = 0;
  // [left | right] along columns as eh_proj wants it: [T, left columns + right columns].
  virtual Act concat(const Act& left, const Act& right, ActSpec out) = 0;
  // float32 logits [n, vocab_padded] of vocabulary-sharded `head`, gathered over `group`.
  virtual Tensor logits(const Act& x, const Weight& head, Comm* group) = 0;

  // ---- Tokens.

  // Applies sampling in its fixed order to every sample row, verifies drafts (a draft is kept while
  // it equals the token sampled at its place), appends to history, advances length and computed,
  // sets finished. Philox(seed, token index): never step or row. logits: [sample_rows,
  // vocab_padded]; consumed.
  virtual void sample(const SlotTable& slots, const BatchView& batch, const Tensor& logits,
                      const std::vector<TokenId>& eos, SampleOutput& out) = 0;
  // The token that follows each of the step's tokens (for the MTP layer): i32 [T]. After `sample`.
  virtual Tensor next_tokens(const SlotTable& slots, const BatchView& batch) = 0;
  // Index of each row's last accepted token in the step's token arrays: i32 [rows].
  virtual Tensor last_accepted(const BatchView& batch, const SampleOutput& out) = 0;
  // Writes argmax of logits [rows, vocab_padded] as draft number `index` of each row's slot (greedy
  // drafter) and of `out`; both draft counts become index + 1. Rows whose slot has finished, or
  // still has prompt to compute, get no draft.
  virtual void propose(const SlotTable& slots, const BatchView& batch, const Tensor& logits,
                       int32_t index, SampleOutput& out) = 0;
  // Pipeline stages that do not sample: does to the slot table what `sample` and `propose` did to
  // the last stage's, from that stage's output (history, length, computed, finished, drafts).
  virtual void apply_samples(const SlotTable& slots, const BatchView& batch,
                             const SampleOutput& out) = 0;
};

}  // namespace fathom
