// Bounds of the CUDA backend's step workspace: by hand for one layer of DeepSeek-V2-Lite, and that
// a larger step never needs less. That kernels keep to them is cuda_ops_test's, on a GPU.
#include "ops/cuda/cuda_scratch.h"

#include <gtest/gtest.h>

#include <algorithm>

namespace fathom {
namespace {

constexpr int32_t kSms = 132;
constexpr int64_t kMiB = int64_t{1} << 20;

Weight fp8_weight(int64_t out, int64_t in) {
  Weight w;
  w.format = WeightFormat::kFp8Block;
  w.values = Tensor::of(nullptr, DType::kF8E4M3, {out, in});
  w.scales = Tensor::of(nullptr, DType::kF32, {(out + 127) / 128, (in + 127) / 128});
  return w;
}

MoeParams v2_lite_experts(bool shared) {
  MoeParams p;
  p.experts = 64;
  p.experts_per_token = 6;
  p.gate_up.assign(64, fp8_weight(2816, 2048));
  p.down.assign(64, fp8_weight(2048, 1408));
  if (!shared) return p;
  p.shared_gate_up = fp8_weight(5632, 2048);
  p.shared_down = fp8_weight(2048, 2816);
  return p;
}

MlaParams v2_lite_latents() {
  MlaParams p;
  p.heads = 16;
  p.out = {ActFormat::kFp8Block, false, 0};
  return p;
}

GqaParams llama_heads() {
  GqaParams p;
  p.heads = 32;
  p.kv_heads = 8;
  p.out = {ActFormat::kFp8Block, false, 0};
  return p;
}

KvView cache_of(DType dtype, int64_t columns) {
  return {Tensor::of(nullptr, dtype, {1, 64, columns}), 0, 64};
}

BatchView batch_of(int32_t rows, int32_t tokens, int32_t context) {
  BatchView batch;
  StepShape& shape = batch.shape;
  shape.rows = shape.decode_rows = rows;
  shape.tokens = tokens;
  shape.query_tokens_max = 1;
  shape.context_tokens_max = context;
  return batch;
}

const CudaScratch kNative(Numerics::kNative, kSms);

// 49,152 pairs: what experts give as bf16 [pairs, 2048], their activation as e4m3 [pairs, 1408]
// with 11 scales a row, and x as e4m3; choices, lists and tiles are small.
TEST(CudaScratch, ExpertsOfAPromptByHand) {
  constexpr int64_t kPairs = int64_t{8192} * 6;
  constexpr int64_t kLarge = kPairs * (2048 * 2 + 1408 + 11 * 4) + int64_t{8192} * 2048;
  const ActSpec bf16{ActFormat::kBF16, false, 0};
  const int64_t routed = kNative.moe(8192, 2048, bf16, v2_lite_experts(false));
  EXPECT_GT(routed, kLarge);
  EXPECT_LT(routed, kLarge + 16 * kMiB);
  // The shared expert: its sum, its product before the gate, and both inputs.
  constexpr int64_t kShared = int64_t{8192} * (2048 * 4 + 5632 * 2 + 2816 + 2048);
  const int64_t all = kNative.moe(8192, 2048, bf16, v2_lite_experts(true));
  EXPECT_GT(all, kLarge + kShared);
  EXPECT_LT(all, kLarge + kShared + 20 * kMiB);
}

// What tiles of few tokens take counts in a step that grouped products would run: a step of fewer
// tokens takes more, and so does a deterministic one.
TEST(CudaScratch, AStepBoundsAllSmallerOnesWhateverKernelsRunThem) {
  const ActSpec bf16{ActFormat::kBF16, false, 0};
  for (const bool hopper : {false, true}) {
    const CudaScratch scratch(Numerics::kNative, kSms, {.hopper = hopper});
    int64_t last = 0;
    for (int64_t tokens = 1; tokens <= 300; ++tokens) {
      const int64_t now = scratch.moe(tokens, 2048, bf16, v2_lite_experts(true));
      EXPECT_GE(now, last) << tokens << " tokens";
      last = now;
    }
  }
}

TEST(CudaScratch, ProductsTakeTheScalesOfTheirInput) {
  EXPECT_EQ(kNative.product(8192, fp8_weight(3072, 2048)), 8192 * (16 + 2) * 4);
  EXPECT_EQ(kNative.gated(256, fp8_weight(5632, 2048)), 256 * 5632 * 2 + 256 * (16 + 2) * 4);
  Weight exact = fp8_weight(3072, 2048);
  exact.format = WeightFormat::kBF16;
  EXPECT_EQ(kNative.product(8192, exact), 0);
  EXPECT_EQ(CudaScratch(Numerics::kReference, kSms).gated(4, exact), 4 * 3072 * 4);
}

TEST(CudaScratch, PackedCopiesAreOfBf16MatricesInNativeNumerics) {
  Weight exact;
  exact.values = Tensor::of(nullptr, DType::kBF16, {3072, 2048});
  constexpr int64_t kRecords = 48 * 32 * 6272;
  EXPECT_EQ(kNative.packed(exact, false), kRecords);
  EXPECT_EQ(kNative.packed(exact, true), kRecords);
  EXPECT_EQ(kNative.packed(fp8_weight(3072, 2048), false), 0);
  EXPECT_EQ(CudaScratch(Numerics::kReference, kSms).packed(exact, false), 0);
  EXPECT_EQ(CudaScratch(Numerics::kNative, kSms, {.hopper = false}).packed(exact, false), 0);
  exact.values = Tensor::of(nullptr, DType::kBF16, {3072, 2056});
  EXPECT_EQ(kNative.packed(exact, false), 0);
}

// A prompt's keys and values are made in slices of 132 MiB, whatever its context.
TEST(CudaScratch, LongContextsAreCutIntoSlices) {
  const MlaParams p = v2_lite_latents();
  const KvView cache = cache_of(DType::kBF16, 576);
  const int64_t medium = kNative.mla(batch_of(1, 8192, 65536), cache, p);
  EXPECT_EQ(medium, kNative.mla(batch_of(1, 8192, 163840), cache, p));
  EXPECT_LT(medium, 400 * kMiB);
}

// Bounds of every op at one size.
std::vector<int64_t> bounds(const CudaScratch& scratch, int32_t rows, int32_t tokens,
                            int32_t context) {
  const ActSpec bf16{ActFormat::kBF16, false, 0};
  const BatchView batch = batch_of(rows, tokens, context);
  return {scratch.rows(tokens, 2048),
          scratch.product(tokens, fp8_weight(3072, 2048)),
          scratch.gated(tokens, fp8_weight(5632, 2048)),
          scratch.moe(tokens, 2048, bf16, v2_lite_experts(true)),
          scratch.mla(batch, cache_of(DType::kBF16, 576), v2_lite_latents()),
          scratch.mla(batch, cache_of(DType::kF8E4M3, 656), v2_lite_latents()),
          scratch.gqa(batch, cache_of(DType::kBF16, 2048), llama_heads()),
          scratch.gqa(batch, cache_of(DType::kF8E4M3, 2080), llama_heads()),
          scratch.sample(rows, 102400)};
}

TEST(CudaScratch, GrowsWithRowsTokensAndContext) {
  for (const Numerics numerics : {Numerics::kNative, Numerics::kReference}) {
    const CudaScratch scratch(numerics, kSms);
    std::vector<int64_t> last(9, 0);
    const auto grows = [&](int32_t rows, int32_t tokens, int32_t context) {
      const std::vector<int64_t> now = bounds(scratch, rows, tokens, context);
      for (size_t op = 0; op < now.size(); ++op) {
        EXPECT_GE(now[op], last[op]) << "op " << op << " at " << rows << " rows, " << tokens
                                     << " tokens, context " << context;
      }
      last = now;
    };
    for (int32_t rows = 1; rows <= 1100; rows += rows < 70 ? 1 : 37) grows(rows, rows, 4096);
    for (int32_t tokens = 1152; tokens <= 16384; tokens += 128) grows(1100, tokens, 4096);
    for (int32_t context = 4096; context <= 1 << 22; context *= 2) grows(1100, 16384, context);
  }
}

// Decode rows are cut as the widths of their tables say, not as the contexts of a step.
TEST(CudaScratch, ATableWiderThanTheContextCounts) {
  BatchView batch = batch_of(64, 64, 64);
  const KvView cache = cache_of(DType::kBF16, 2048);
  const int64_t narrow = kNative.gqa(batch, cache, llama_heads());
  batch.block_table = Tensor::of(nullptr, DType::kI32, {65, 1, 2048});
  const int64_t wide = kNative.gqa(batch, cache, llama_heads());
  EXPECT_GT(wide, narrow);
  batch.block_table = {};
  batch.shape.context_tokens_max = 2048 * 64;
  EXPECT_EQ(kNative.gqa(batch, cache, llama_heads()), wide);
}

TEST(CudaScratch, AVerifyStepTakesWhatItsRowsMayCarry) {
  BatchView batch = batch_of(64, 128, 4096);
  const int64_t one = kNative.mla(batch, cache_of(DType::kBF16, 576), v2_lite_latents());
  batch.shape.query_tokens_max = 2;
  EXPECT_GT(kNative.mla(batch, cache_of(DType::kBF16, 576), v2_lite_latents()), one);
}

}  // namespace
}  // namespace fathom
