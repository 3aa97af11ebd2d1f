// Which kernel runs a linear layer, and how: a pure function of the problem, tested without a GPU.
#pragma once

#include <cstdint>
#include <vector>

#include "fathom/weight.h"
#include "kernels/skinny_plan.h"
#include "kernels/wide_plan.h"

namespace fathom {

struct GemmProblem {
  int64_t rows = 0;  // of x
  int64_t out = 0;   // rows of W
  int64_t in = 0;
  WeightFormat weight = WeightFormat::kBF16;
  ActFormat act = ActFormat::kBF16;
  int32_t first_column_in_block = 0;
  bool aligned = true;         // data and row strides of x and W are multiples of 16 bytes
  bool out_in_vectors = true;  // the same of the output
  bool gated = false;          // silu(gate) * up of the two halves of W, stored in bf16
  bool deterministic = false;  // a row's sums may not depend on `rows`
  bool library = false;  // cuBLASLt was given algorithms for W, and the output is aligned likewise
  int32_t sms = 132;
  bool hopper = true;
};

enum class GemmKernel : uint8_t { kPlain, kSkinny, kWide, kLibrary };

struct GemmChoice {
  GemmKernel kernel = GemmKernel::kPlain;
  kernels::SkinnyPlan skinny;  // of the first pass, which has token_tile rows at most
  kernels::WidePlan wide;
  int64_t library_rows = 0;  // kLibrary: how many of the first rows; the skinny kernel has the rest
};

// On Hopper kSkinny wherever the formats and the alignment allow it, in passes of a token tile;
// kLibrary where fewer passes take longer. Elsewhere kLibrary for bf16, with all rows, else kPlain.
// The skinny kernel's order of sums over K depends on `out`, `in`, the format and `sms`, never on
// `rows`.
GemmChoice choose_gemm(const GemmProblem& problem);

// cuBLASLt's algorithms are chosen at load for these counts of rows; a product has that of the
// least count that holds it, or of the last.
inline constexpr int64_t kLibraryRows[] = {128, 256, 512, 1024, 2048, 4096, 8192};
inline constexpr int kLibraryBuckets = 7;
int library_bucket(int64_t rows);

// cuBLASLt wants one scale per 128 rows of W from the first on. Joined weights whose parts end
// inside a block, and shards that start there, run as several products.
struct ScaleSegment {
  int64_t first_row = 0;
  int64_t rows = 0;
  int64_t scale_row = 0;  // of first_row; the next 128 rows' is one more
};
std::vector<ScaleSegment> scale_segments(const int32_t* scale_rows, int64_t rows);

}  // namespace fathom
