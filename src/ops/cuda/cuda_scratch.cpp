// Sums of what the ops' files take, each part rounded as the arena rounds.
#include "ops/cuda/cuda_scratch.h"

#include <algorithm>

#include "kernels/gqa_decode_plan.h"
#include "kernels/mla_decode_config.h"
#include "kernels/moe_limits.h"
#include "kernels/prefill_config.h"
#include "ops/cuda/choose_gqa.h"
#include "ops/cuda/choose_mla_prefill.h"
#include "ops/cuda/choose_moe.h"
#include "ops/cuda/choose_packed.h"

namespace fathom {
namespace {

// Of a tile of a grouped schedule (kernels/grouped_gemm.h) with its counter, and of what a launch
// counts in; at most.
constexpr int64_t kGroupedTileBytes = 64;
constexpr int64_t kGroupedCounterBytes = 16 * int64_t{kernels::kMoeExpertsMax};
// Up to so many scores a router's product is in parts of 128 columns, else in four at most
// (kernels/grouped_route.cu).
constexpr int64_t kPartScoresMax = 1024 * 64;
constexpr int64_t kScorePartsMax = 4;

int64_t rounded(int64_t bytes) { return (bytes + 255) / 256 * 256; }
int64_t words(int64_t n) { return rounded(n * 4); }

// Float32 rows between plain kernels, where rows or groups do not lie in vectors of eight columns.
int64_t plain_rows(int64_t rows, int64_t columns, const ActSpec& spec) {
  const bool vectors = columns % 8 == 0 && spec.first_column_in_block == 0;
  return vectors ? 0 : words(rows * columns);
}

// As experts.cpp asks.
bool scale_rows_aligned(const std::vector<Weight>& weights) {
  return std::all_of(weights.begin(), weights.end(), [](const Weight& w) {
    return w.format != WeightFormat::kFp8Block || w.scales.shape[0] * 128 == w.out();
  });
}

MoeProblem problem_of(const ActSpec& input, const ActSpec& inner, const MoeParams& p) {
  MoeProblem problem;
  problem.experts_per_token = p.experts_per_token;
  problem.experts = p.experts;
  problem.experts_here = static_cast<int32_t>(p.gate_up.size());
  problem.hidden = p.gate_up.front().in();
  problem.width = p.gate_up.front().out() / 2;
  problem.weight = p.gate_up.front().format;
  problem.act = input.format == inner.format ? input.format : ActFormat::kF32;
  problem.scale_rows_aligned = scale_rows_aligned(p.gate_up) && scale_rows_aligned(p.down);
  problem.first_column_in_block =
      p.gate_up.front().first_column_in_block + p.down.front().first_column_in_block;
  return problem;
}

// That a row's table may hold; of a batch without one, as its context needs.
int32_t blocks_of(const BatchView& batch, const KvView& cache) {
  const int32_t needed =
      (batch.shape.context_tokens_max + cache.block_tokens - 1) / cache.block_tokens;
  const Tensor& table = batch.block_table;
  return table.defined() ? std::max(needed, static_cast<int32_t>(table.shape[2])) : needed;
}

bool tensor_core_cache(const KvView& cache) {
  return cache.cache.dtype == DType::kBF16 || cache.cache.dtype == DType::kF8E4M3;
}

// A slice of cached tokens made for `heads` heads at a time with the running softmax of rows that
// it cuts (kernels/prefill_config.h), of any step up to this one: the smaller the step, the larger
// the group of heads, which is halved, from `most` to `least` in this one, until the softmax fits.
// query_heads: of one head. head_bytes, token_bytes: of a cached token, for each head and beside.
// splits: blocks that may share a tile's keys, each with a softmax of its own.
int64_t slices_max(const StepShape& shape, int32_t most, int32_t least, int32_t query_heads,
                   int64_t head_bytes, int64_t token_bytes, int32_t splits) {
  constexpr int64_t kTile = kernels::kPrefillKeyTile;
  const int32_t rows = std::max(shape.rows, 1);
  const int64_t tiles = kernels::prefill_key_tiles_max(rows, shape.context_tokens_max);
  const int64_t state = int64_t{kernels::prefill_tiles_max(rows, shape.tokens)} * query_heads *
                        kernels::kPrefillCarryFloats * 4;
  int64_t bytes = 0;
  for (int32_t heads = most;; heads /= 2) {
    const int64_t tile_bytes = kTile * heads * head_bytes;
    const int64_t slice = std::clamp<int64_t>(kernels::kPrefillSliceBytes / tile_bytes, 1, tiles);
    int64_t carry = slice < tiles ? state * heads : 0;
    if (heads > least) carry = std::min(carry, kernels::kPrefillCarryBytes);
    if (splits > 1)
      carry = std::max(carry, std::min(splits * state * heads, kernels::kPrefillSplitBytes));
    bytes = std::max(
        bytes, rounded(slice * tile_bytes) + rounded(slice * kTile * token_bytes) + rounded(carry));
    if (heads <= least) return bytes;
  }
}

}  // namespace

// A norm of rows that no fast kernel takes holds them as float32.
int64_t CudaScratch::rows(int64_t rows, int64_t columns) const { return words(rows * columns); }

// cuBLASLt wants scales by group, which are made here or by the gate ahead; it rounds through bf16
// what is stored as float32.
int64_t CudaScratch::product(int64_t rows, const Weight& weight) const {
  if (numerics_ == Numerics::kReference) return 0;
  const int64_t groups = weight.in() / 128 + 2;
  const bool fp8 = weight.format == WeightFormat::kFp8Block;
  return fp8 ? words(rows * groups) : 0;
}

int64_t CudaScratch::gated(int64_t rows, const Weight& gate_up) const {
  return rounded(rows * gate_up.out() * act_size()) + product(rows, gate_up);
}

int64_t CudaScratch::converted(int64_t rows, int64_t columns, const ActSpec& spec) const {
  return act_bytes_max(rows, columns, spec) + plain_rows(rows, columns, spec);
}

// Its sum, then its activation while the second product runs.
int64_t CudaScratch::shared_expert(int64_t tokens, const MoeParams& p) const {
  const Weight& gate_up = p.shared_gate_up;
  const ActSpec inner = spec_of(p.shared_down);
  const int64_t down = product(tokens, p.shared_down) + rounded(tokens * p.shared_down.out() * 2);
  return converted(tokens, gate_up.in(), spec_of(gate_up)) + words(tokens * p.shared_down.out()) +
         converted(tokens, gate_up.out() / 2, inner) + std::max(gated(tokens, gate_up), down);
}

// Choices with what their experts gave, and what the kernels take that run them.
int64_t CudaScratch::experts_on(MoeKernel kernel, int64_t tokens, const MoeParams& p) const {
  const int64_t pairs = tokens * p.experts_per_token;
  const auto here = static_cast<int64_t>(p.gate_up.size());
  const int64_t hidden = p.down.front().out();
  const int64_t width = p.gate_up.front().out() / 2;
  const int64_t chosen = 2 * words(pairs) + converted(pairs, width, spec_of(p.down.front()));
  const int64_t scores = tokens * p.experts;
  switch (kernel) {
    case MoeKernel::kPlain:
      return words(scores) + chosen + words(pairs * hidden) + words(pairs * 2 * width) +
             words(pairs * width);
    case MoeKernel::kFewTokens:
      return words(scores) + chosen + words(pairs * hidden) + words(pairs) +
             words((here + pairs) * 3) + words(1);
    case MoeKernel::kGrouped: break;
  }
  const int64_t score_parts =
      words(std::max(scores * kScorePartsMax, std::min(scores, kPartScoresMax) * (hidden / 128)));
  const int64_t lists = words(pairs) + rounded(kGroupedCounterBytes) +
                        2 * rounded((here + pairs / 32 + tokens / 32 + 1) * kGroupedTileBytes);
  return score_parts + chosen + rounded(pairs * hidden * 2) + lists;
}

// Of any step of so many tokens at most, deterministic or not: up to some tokens the kernels change
// with every one, from there on they stay.
int64_t CudaScratch::routed_experts(int64_t tokens, const ActSpec& x, const MoeParams& p) const {
  MoeProblem problem = problem_of(spec_of(p.gate_up.front()), spec_of(p.down.front()), p);
  problem.hopper = hopper_;
  // What the grouped router takes; without it pairs run one by one.
  const bool routes_grouped = x.format == ActFormat::kBF16 && p.experts % 4 == 0;
  int64_t bytes = 0;
  const auto add = [&](int64_t t, bool deterministic) {
    problem.tokens = t;
    problem.deterministic = deterministic;
    MoeKernel kernel = choose_moe(problem);
    if (kernel == MoeKernel::kGrouped && !routes_grouped) kernel = MoeKernel::kPlain;
    bytes = std::max(bytes, experts_on(kernel, t, p));
  };
  const int64_t changing = std::min<int64_t>(tokens, kernels::kMoeDecodeTokensMax);
  for (const bool deterministic : {false, true}) {
    for (int64_t t = 1; t <= changing; ++t) add(t, deterministic);
    add(tokens, deterministic);
  }
  return bytes;
}

// The kernels that do a whole layer of few tokens: routes, codes of x, and a row a pair and a row a
// part of the shared expert, between the products and after them.
int64_t CudaScratch::few_tokens(int64_t tokens, const MoeParams& p) const {
  if (!hopper_ || p.gate_up.empty()) return 0;
  const int64_t few = std::min<int64_t>(tokens, kernels::kMoeFewTokensMax);
  const int64_t hidden = p.gate_up.front().in();
  const int64_t width = p.gate_up.front().out() / 2;
  const int64_t pairs = few * p.experts_per_token;
  const bool shared = p.shared_gate_up.values.defined();
  const int64_t rows = pairs + (shared ? few * (p.shared_down.in() / width) : 0);
  const ActSpec codes{ActFormat::kFp8Block, false, 0};
  return words(few * p.experts) + 2 * words(pairs) + act_bytes_max(few, hidden, codes) +
         rounded(rows * width * 2) + words(rows * hidden);
}

int64_t CudaScratch::moe(int64_t tokens, int64_t hidden, const ActSpec& x,
                         const MoeParams& p) const {
  int64_t bytes = 0;
  if (!p.gate_up.empty()) {
    const ActSpec input = spec_of(p.gate_up.front());
    if (!(x == input)) bytes += converted(tokens, hidden, input);
    bytes += routed_experts(tokens, x, p);
  }
  if (p.shared_gate_up.values.defined()) bytes += shared_expert(tokens, p);
  return std::max(bytes, few_tokens(tokens, p));
}

// Partial results of sequences that are cut, of up to so many tokens a row.
int64_t CudaScratch::mla_partial(const StepShape& shape, int32_t query_tokens_max,
                                 const KvView& cache, const MlaParams& p) const {
  int64_t partial = 0;
  for (int32_t query = 1; query <= std::max(query_tokens_max, 1); ++query) {
    kernels::MlaDecodeDesc desc;
    desc.rows = std::min(shape.rows, kernels::kMlaRowsMax);
    desc.query_tokens_max = query;
    desc.heads = p.heads;
    desc.kv_lora = p.kv_lora;
    desc.rope_dims = p.rope_dims;
    desc.block_tokens = cache.block_tokens;
    desc.bf16 = numerics_ == Numerics::kNative;
    desc.multiprocessors = sms_;
    for (const bool fp8 : {false, true}) {
      desc.fp8_cache = fp8;
      const int64_t pairs = kernels::choose_mla_decode(desc).partial_pairs();
      partial = std::max(partial, words(pairs * p.kv_lora) + words(2 * pairs));
    }
  }
  return partial;
}

// Latents of the tokens of decode rows.
int64_t CudaScratch::mla_decode(const StepShape& shape, int64_t tokens, const KvView& cache,
                                const MlaParams& p) const {
  return rounded(tokens * p.heads * p.kv_lora * act_size()) +
         mla_partial(shape, shape.query_tokens_max, cache, p);
}

// Queries and latents of every token where prefill rows are absorbed.
int64_t CudaScratch::mla_absorbed(const StepShape& shape, const KvView& cache,
                                  const MlaParams& p) const {
  const int64_t tokens = std::min<int64_t>(shape.tokens, kMlaAbsorbedPairsMax / p.heads);
  return rounded(tokens * p.heads * (p.kv_lora + p.rope_dims) * act_size()) +
         rounded(tokens * p.heads * p.kv_lora * act_size()) +
         mla_partial(shape, std::min(static_cast<int32_t>(tokens), kMlaAbsorbedTokensMax), cache,
                     p);
}

// The naive form's slices where its kernels fit, or the absorbed form; else that over all tokens.
int64_t CudaScratch::mla_prefill(const StepShape& shape, const KvView& cache,
                                 const MlaParams& p) const {
  const int64_t tokens = shape.tokens;
  kernels::MlaPrefillDesc desc;
  desc.rows = std::max(shape.rows, 1);
  desc.tokens = tokens;
  desc.context_tokens_max = shape.context_tokens_max;
  desc.heads = p.heads;
  desc.nope_dims = p.nope_dims;
  desc.rope_dims = p.rope_dims;
  desc.value_dims = p.value_dims;
  desc.kv_lora = p.kv_lora;
  desc.block_tokens = cache.block_tokens;
  desc.fp8_cache = cache.cache.dtype == DType::kF8E4M3;
  desc.bf16 = hopper_ && numerics_ == Numerics::kNative && tensor_core_cache(cache);
  const kernels::MlaPrefillPlan plan = kernels::plan_mla_prefill(desc);
  if (!plan.fits) {
    return rounded(tokens * p.heads * (p.kv_lora + p.rope_dims) * act_size()) +
           rounded(tokens * p.heads * p.kv_lora * act_size());
  }
  int32_t most = p.heads;
  while (most % 2 == 0 && most > kernels::kPrefillGroupHeads) most /= 2;
  const int64_t head_bytes = 256 * 2;
  const int64_t spread_bytes = desc.fp8_cache ? 576 * 2 : 0;
  const int64_t naive =
      rounded(tokens * p.heads * p.rope_dims * 2) +
      slices_max(shape, most, plan.heads, 1, head_bytes, spread_bytes, kernels::kPrefillSplitsMax);
  return std::max(naive, mla_absorbed(shape, cache, p));
}

// Prompts over e4m3 keys and values: made bf16 in slices.
int64_t CudaScratch::gqa_prefill(const StepShape& shape, const KvView& cache,
                                 const GqaParams& p) const {
  const kernels::GqaPrefillDesc desc{p.heads, p.kv_heads, p.head_dims, cache.block_tokens,
                                     true,    true};
  if (!hopper_ || numerics_ != Numerics::kNative || cache.cache.dtype != DType::kF8E4M3 ||
      !kernels::gqa_prefill_fits(desc)) {
    return 0;
  }
  const kernels::GqaSpreadPlan plan = kernels::plan_gqa_spread(
      desc, std::max(shape.rows, 1), shape.tokens, shape.context_tokens_max);
  return slices_max(shape, p.kv_heads, plan.kv_heads, p.heads / p.kv_heads,
                    2 * int64_t{p.head_dims} * 2, 0, 1);
}

int64_t CudaScratch::mla(const BatchView& batch, const KvView& cache, const MlaParams& p) const {
  const StepShape& shape = batch.shape;
  const int64_t tokens = shape.tokens;
  const int64_t columns = int64_t{p.heads} * p.value_dims;
  const int64_t decode_tokens =
      std::min<int64_t>(tokens, int64_t{shape.rows} * std::max(shape.query_tokens_max, 1));
  const bool quantizes = p.out.format == ActFormat::kFp8Block;
  return (quantizes ? words(tokens * columns) : 0) + plain_rows(tokens, columns, p.out) +
         rounded(decode_tokens * p.heads * (p.kv_lora + p.rope_dims) * act_size()) +
         std::max(mla_decode(shape, decode_tokens, cache, p), mla_prefill(shape, cache, p));
}

// Values and queries of every token, and partial results of as many blocks as a GPU runs at once;
// prompts attend beside them.
int64_t CudaScratch::gqa(const BatchView& batch, const KvView& cache, const GqaParams& p) const {
  const StepShape& shape = batch.shape;
  const int64_t values = int64_t{shape.tokens} * p.heads * p.head_dims;
  int64_t decode = words(1);
  for (int32_t query = 1; query <= std::max(shape.query_tokens_max, 1); ++query) {
    GqaProblem problem;
    problem.rows = 1;  // whether it fits depends on rows; how many blocks there are, up to the SMs'
    problem.query_tokens_max = query;
    problem.heads = p.heads;
    problem.kv_heads = p.kv_heads;
    problem.head_dims = p.head_dims;
    problem.block_tokens = cache.block_tokens;
    problem.blocks_max = blocks_of(batch, cache);
    problem.bf16 = numerics_ == Numerics::kNative;
    problem.sms = sms_;
    const kernels::GqaDecodePlan one = choose_gqa_decode(problem);
    problem.rows = std::clamp(shape.rows, 1, kernels::kGqaRowsMax);
    const kernels::GqaDecodePlan all = choose_gqa_decode(problem);
    kernels::GqaDecodePlan plan = all.pair_tile > 0 ? all : one;
    if (all.pair_tile == 0) plan.blocks = 2 * sms_;
    // Fewer rows may have more blocks, where contexts are short.
    const int32_t few = std::min(problem.rows * p.kv_heads * kernels::kGqaFewBlocksMax, sms_);
    if (query == 1) plan.blocks = std::max(plan.blocks, few);
    const int64_t pairs = plan.pair_tile > 0 ? plan.slots() * plan.pairs : 0;
    decode = std::max(decode, words(pairs * p.head_dims) + words(pairs * 2) +
                                  words(2 * int64_t{plan.blocks} + 1));
  }
  const int64_t prefill = words(4 * int64_t{sms_} + 1) + gqa_prefill(shape, cache, p);
  return words(values) + rounded(values * act_size()) +
         plain_rows(shape.tokens, int64_t{p.heads} * p.head_dims, p.out) + decode + prefill;
}

int64_t CudaScratch::packed(const Weight& weight, bool gated) const {
  GemmProblem problem;
  problem.out = weight.out();
  problem.in = weight.in();
  problem.weight = weight.format;
  problem.gated = gated;
  problem.sms = sms_;
  problem.hopper = hopper_ && numerics_ == Numerics::kNative;
  if (!has_packed_form(problem)) return 0;
  return rounded(kernels::packed_bytes(problem.out, problem.in));
}

// Of each block of the sampler.
int64_t CudaScratch::sample(int64_t rows, int64_t vocab) const {
  return 3 * words(std::min<int64_t>(rows, sms_) * vocab);
}

}  // namespace fathom
