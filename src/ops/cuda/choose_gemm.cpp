// The shapes of the skinny product (token tile, split of K, stages), and where cuBLASLt is faster.
#include "ops/cuda/choose_gemm.h"

#include <algorithm>
#include <optional>

#include "ops/cuda/choose_wide.h"

namespace fathom {
namespace {

using kernels::kSkinnyBlockBytes;
using kernels::kSkinnySplitMax;
using kernels::kSkinnyTileRows;
using kernels::kSkinnyTokenBlocksMax;
using kernels::kSkinnyTokensMax;
using kernels::kSkinnyTokensWide;

// Steps of a block under which a wider split costs more than it saves.
constexpr int64_t kStepsMin = 4;
// Steps of a block of 128 rows up to which its start and end weigh more than its way.
constexpr int64_t kShortWay = 16;
constexpr int64_t kWideRowsMax = 256;
// Columns from which cuBLASLt is faster than the wide kernel: a vocabulary's, of 128 rows, took 411
// us for 425 (128,256 x 4096) and 172 for 189 (102,400 x 2048).
constexpr int64_t kLibraryOutputs = 65536;

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
  while (kernels::skinny_shared_bytes(plan, stages + 1) <= kernels::kSkinnySharedMax) {
    ++stages;
  }
  return stages;
}

double weight_bytes(const GemmProblem& p) {
  const int size = p.weight == WeightFormat::kFp8Block ? 1 : 2;
  return static_cast<double>(p.out) * static_cast<double>(p.in) * size;
}

int64_t parts(int64_t n, int64_t of) { return (n + of - 1) / of; }

// Tiles of 128 rows of x that one launch takes: as many as start at once; 0 where they are not
// worth it: x travels twice as far as W, so of large weights they are slow.
int32_t tiles_beside(const GemmProblem& p, int32_t split) {
  constexpr int32_t kRows = kSkinnyTileRows / 2;
  const int64_t blocks = parts(p.out, kRows) * split;
  const bool wide = p.weight == WeightFormat::kFp8Block && split <= kRows / 16 &&
                    blocks <= 2 * p.sms && weight_bytes(p) <= 32e6;
  if (!wide) return 0;
  return static_cast<int32_t>(std::min<int64_t>(2 * p.sms / blocks, kSkinnyTokenBlocksMax));
}

// Microseconds on an H100, fitted to measurements at 64 to 512 rows (docs/kernels/dense_gemm.md). A
// pass reads all weights; it starts and ends outside the memory's time.
double skinny_us(const GemmProblem& p, int64_t rows, int32_t beside) {
  const double bytes = weight_bytes(p);
  double us = 0.0;
  while (rows > 0) {
    const int64_t tiles = std::min<int64_t>(beside, parts(rows, kSkinnyTokensWide));
    if (tiles == 0 || rows <= kSkinnyTokensMax) {
      us += bytes / 2.8e6 + 5.5;
      rows -= kSkinnyTokensMax;
      continue;
    }
    us += std::max(6.3,
                   tiles == 1 ? bytes / 1.5e6 : static_cast<double>(tiles) * bytes / 2.1e6 + 2.0);
    rows -= tiles * kSkinnyTokensWide;
  }
  return us;
}

// Waves of tiles of 128 x 128, each a walk along K; no faster than the weights come.
double library_us(const GemmProblem& p, int64_t rows) {
  const int64_t tiles = (p.out + 127) / 128 * ((rows + 127) / 128);
  const int64_t waves = (tiles + p.sms - 1) / p.sms;
  const double walk = static_cast<double>(waves) * static_cast<double>(p.in) / 128.0 * 0.29;
  const double scales = p.weight == WeightFormat::kFp8Block ? 2.0 : 0.0;  // x's, transposed
  return std::max(walk, weight_bytes(p) / 2.3e6) + 6.0 + scales;
}

// cuBLASLt reads FP8 scales of x in fours of rows.
int64_t library_rows(const GemmProblem& p, int32_t beside) {
  if (p.deterministic || !p.library || p.rows <= kSkinnyTokensMax) return 0;
  const int64_t rows = p.weight == WeightFormat::kFp8Block ? p.rows / 4 * 4 : p.rows;
  const double us = library_us(p, rows) + skinny_us(p, p.rows - rows, beside);
  return us < skinny_us(p, p.rows, beside) ? rows : 0;
}

// The wide kernel, where it is faster than what was chosen.
void take_wide(const GemmProblem& p, int32_t beside, GemmChoice& choice) {
  if (p.deterministic || p.rows <= kSkinnyTokensMax || p.rows > kWideRowsMax) return;
  const std::optional<WideChoice> other = choose_wide(p);
  if (!other) return;
  const int64_t done = choice.library_rows;
  if (done == p.rows && p.out >= kLibraryOutputs) return;
  const double us = (done > 0 ? library_us(p, done) : 0.0) + skinny_us(p, p.rows - done, beside);
  const double gate_us = p.gated ? 3.0 : 0.0;  // a kernel of its own there
  if (other->us >= us + gate_us) return;
  choice.kernel = GemmKernel::kWide;
  choice.wide = other->plan;
}

}  // namespace

int library_bucket(int64_t rows) {
  const auto* found = std::lower_bound(std::begin(kLibraryRows), std::end(kLibraryRows), rows);
  return static_cast<int>(std::min<int64_t>(found - kLibraryRows, kLibraryBuckets - 1));
}

std::vector<ScaleSegment> scale_segments(const int32_t* scale_rows, int64_t rows) {
  std::vector<ScaleSegment> segments;
  for (int64_t row = 0; row < rows; ++row) {
    if (!segments.empty()) {
      const ScaleSegment& last = segments.back();
      if (scale_rows[row] == last.scale_row + (row - last.first_row) / 128) {
        ++segments.back().rows;
        continue;
      }
    }
    segments.push_back({row, 1, scale_rows[row]});
  }
  return segments;
}

GemmChoice choose_gemm(const GemmProblem& p) {
  GemmChoice choice;
  if (!fits_skinny(p)) return choice;
  if (!p.hopper) {
    if (!p.library || p.weight != WeightFormat::kBF16) return choice;
    choice.kernel = GemmKernel::kLibrary;
    choice.library_rows = p.rows;
    return choice;
  }
  const int64_t block =
      p.weight == WeightFormat::kFp8Block ? kSkinnyBlockBytes : kSkinnyBlockBytes / 2;
  const int64_t tiles = (p.out + kSkinnyTileRows - 1) / kSkinnyTileRows;
  const int64_t k_blocks = (p.in + block - 1) / block;
  choice.kernel = GemmKernel::kSkinny;
  choice.skinny.token_tile = token_tile_of(p.rows);
  choice.skinny.split = split_of(tiles, k_blocks, p.sms);
  // Half of the rows and twice their steps: a third of the sums is sent across the cluster.
  constexpr int32_t kHalf = kSkinnyTileRows / 2;
  if (choice.skinny.split == 4 && k_blocks <= kShortWay * 4 && p.out % kHalf == 0) {
    choice.skinny.tile_rows = kHalf;
    choice.skinny.split = 2;
  }
  const int32_t beside = tiles_beside(p, choice.skinny.split);
  if (beside > 0 && p.rows > kSkinnyTokensMax) {
    choice.skinny.token_tile = kSkinnyTokensWide;
    choice.skinny.tile_rows = kHalf;
    choice.skinny.token_blocks =
        static_cast<int32_t>(std::min<int64_t>(beside, parts(p.rows, kSkinnyTokensWide)));
  }
  const bool exact = p.weight == WeightFormat::kBF16;
  choice.skinny.overlap_next = choice.skinny.token_tile < kSkinnyTokensMax ||
                               (exact && choice.skinny.tile_rows < kSkinnyTileRows);
  choice.skinny.stages = stages_of(choice.skinny);
  choice.library_rows = library_rows(p, beside);
  if (choice.library_rows > 0) choice.kernel = GemmKernel::kLibrary;
  take_wide(p, beside, choice);
  return choice;
}

}  // namespace fathom
