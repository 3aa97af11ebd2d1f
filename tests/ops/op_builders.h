// The cases whose shapes benchmarks choose too. A case makes its inputs when it is first prepared.
#pragma once

#include <cstdint>
#include <vector>

#include "ops/op_cases.h"

namespace fathom::testing {

struct LinearShape {
  int64_t rows = 1;
  int64_t out = 0;
  int64_t in = 0;
  WeightFormat format = WeightFormat::kBF16;
  Numerics numerics = Numerics::kNative;
  int32_t first_column = 0;  // FP8: where the input slice starts in its scale block
  bool ue8m0 = false;        // FP8: activation scales are powers of two
  // bf16: packed, of numbers over 13 binades with one of so many above them; 0: plain.
  int32_t packed_odd_every = 0;
};
OpCase linear_case(const LinearShape& shape);
// `out` columns after the gate; in native numerics quantized for an FP8 consumer when `quantized`.
OpCase gated_linear_case(const LinearShape& shape, bool quantized);
OpCase logits_case(const LinearShape& shape);

struct NormShape {
  int64_t rows = 1;
  int64_t columns = 0;
  Numerics numerics = Numerics::kNative;
  ActFormat out = ActFormat::kBF16;  // native; reference is always float32
  bool ue8m0 = false;
  int32_t first_column = 0;
};
OpCase reduce_add_norm_case(const NormShape& shape);

// One row of an attention batch.
struct AttentionRow {
  int32_t context = 0;  // tokens in the cache before the step
  int32_t query = 1;    // tokens it really computes
  int32_t bound = 1;    // tokens that the plan gave it: the rest is padding
  bool prefill = false;
};

struct AttentionShape {
  const char* name = "";
  int32_t heads = 16;
  std::vector<AttentionRow> rows;
  bool padding_row = false;  // slot 0, at the end of the decode rows
  WeightFormat up_format = WeightFormat::kBF16;
  ActFormat out = ActFormat::kBF16;  // native; as the output projection wants it
  int32_t block_tokens = 64;
  uint32_t seed = 1;            // of 100 streams of numbers
  bool without_golden = false;  // expected values come from loops over the definition
};
OpCase mla_attention_case(const AttentionShape& shape, Numerics numerics, MlaForm form);

struct GqaShape {
  const char* name = "";
  int32_t heads = 32;
  int32_t kv_heads = 8;
  int32_t head_dims = 128;
  std::vector<AttentionRow> rows;
  bool padding_row = false;  // slot 0, at the end of the decode rows
  bool bias = false;
  bool norms = false;                // of every query and key head
  ActFormat out = ActFormat::kBF16;  // native; as the output projection wants it
  int32_t block_tokens = 64;
  uint32_t seed = 1;
  bool fp8_cache = false;
  // project_gqa: qkv is a product in e4m3 of so many columns, in native numerics; 0: it is there.
  int32_t hidden = 0;
};
OpCase gqa_attention_case(const GqaShape& shape, Numerics numerics);

struct MoeShape {
  const char* name = "";
  int64_t tokens = 1;
  std::vector<int64_t> padding;  // tokens that are not valid
  int64_t hidden = 256;
  int64_t intermediate = 128;
  int64_t shared_intermediate = 0;  // 0: no shared expert
  int32_t experts = 16;
  int32_t experts_per_token = 4;
  int32_t groups = 1;
  int32_t groups_per_token = 1;
  ScoreFunction score = ScoreFunction::kSigmoid;
  GroupScore group_score = GroupScore::kTopTwoSum;
  bool bias = true;
  float bias_width = 0.1F;
  bool normalize = true;
  float scale = 2.5F;
  WeightFormat format = WeightFormat::kFp8Block;
  bool ue8m0 = false;
  int32_t first_expert = 0;
  int32_t experts_here = 0;      // 0: all
  int32_t distinct_experts = 0;  // 0: all; else expert e has the numbers of e % distinct
  uint32_t seed = 1;
};
OpCase moe_case(const MoeShape& shape, Numerics numerics);
// The same behind a norm, and what consumes its sum: the addition to a residual, or a norm whose
// output is plain or as the experts' weights want it. Expected values are there for the golden's
// one token, without the last form.
enum class SumGoesTo { kResidual, kNorm, kQuantizedNorm };
OpCase norm_moe_case(const MoeShape& shape, Numerics numerics, SumGoesTo to);

// Rows that sample from random logits over `vocab` tokens, with temperature, top-k and top-p; or
// with penalties and 20 logprobs too.
OpCase sample_bench_case(int32_t rows, int32_t vocab, bool everything);

// Memory of a value that is made when first asked for. One thread.
template <typename T>
class Lazy {
 public:
  explicit Lazy(std::function<T()> make) : state_(std::make_shared<State>()) {
    state_->make = std::move(make);
  }
  const T& get() const {
    if (!state_->value) state_->value = std::make_unique<T>(state_->make());
    return *state_->value;
  }

 private:
  struct State {
    std::function<T()> make;
    std::unique_ptr<T> value;
  };
  std::shared_ptr<State> state_;
};

}  // namespace fathom::testing
