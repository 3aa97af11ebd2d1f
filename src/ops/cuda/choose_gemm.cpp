// The shapes of the skinny product: token tile, split of K, stages.
#include "ops/cuda/choose_gemm.h"

namespace fathom {
namespace {

using kernels::kSkinnyBlockBytes;
using kernels::kSkinnySplitMax;
using kernels::kSkinnyTileRows;
using kernels::kSkinnyTokensMax;

// Steps of a block under which a wider split costs more than it saves.
constexpr int64_t kStepsMin = 4;

bool fits_skinny(const GemmProblem& p) {
  const bool bf16 = p.weight == WeightFormat::kBF16 && p.act == ActFormat::kBF16;
  const bool fp8 = p.weight == WeightFormat::kFp8Block && p.act == ActFormat::kFp8Block &&
                   p.first_column_in_block == 0;
  return (bf16 || fp8) && p.aligned && p.rows > 0 && p.out > 0 && p.in > 0;
}

// About one block an SM; two where one leaves over a tenth of the SMs without.
int32_t split_of(int64_t tiles, int64_t k_blocks, int32_t sms) {
  const auto wider = [&](int32_t split, int64_t most) {
    return split < kSkinnySplitMax && tiles * split * 2 <= most &&
           k_blocks >= kStepsMin * split * 2;
  };
  int32_t split = 1;
  while (wider(split, sms + sms / 32)) split *= 2;
  const int64_t blocks = tiles * split;
  if (blocks > sms / 2 && blocks < sms * 9 / 10 && wider(split, 2 * sms)) split *= 2;
  return split;
}

int32_t token_tile_of(int64_t rows) {
  for (const int32_t tile : {8, 16, 32}) {
    if (rows <= tile) return tile;
  }
  return kSkinnyTokensMax;
}

// As many as fit.
int32_t stages_of(const kernels::SkinnyPlan& plan) {
  int32_t stages = 1;
  while (kernels::skinny_shared_bytes(plan.token_tile, plan.split, stages + 1) <=
         kernels::kSkinnySharedMax) {
    ++stages;
  }
  return stages;
}

}  // namespace

GemmChoice choose_gemm(const GemmProblem& p) {
  GemmChoice choice;
  if (!fits_skinny(p)) return choice;
  const int64_t block =
      p.weight == WeightFormat::kFp8Block ? kSkinnyBlockBytes : kSkinnyBlockBytes / 2;
  const int64_t tiles = (p.out + kSkinnyTileRows - 1) / kSkinnyTileRows;
  const int64_t k_blocks = (p.in + block - 1) / block;
  choice.kernel = GemmKernel::kSkinny;
  choice.skinny.token_tile = token_tile_of(p.rows);
  choice.skinny.split = split_of(tiles, k_blocks, p.sms);
  choice.skinny.stages = stages_of(choice.skinny);
  return choice;
}

}  // namespace fathom
