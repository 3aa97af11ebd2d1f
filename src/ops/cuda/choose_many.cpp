// Where the kernel for many rows is faster than cuBLASLt with what stands around it
// (docs/kernels/dense_gemm.md).
#include "ops/cuda/choose_many.h"

#include "kernels/many_plan.h"

namespace fathom {
namespace {

using kernels::kManyTileColumns;
using kernels::kManyTileRows;

// Fewer are other kernels' (choose_gemm.h).
constexpr int64_t kRowsMin = 513;
// Of what the GPU could do in the time: cuBLASLt's tiles are a quarter as large, so that fewer of
// its multiprocessors wait for the last ones; behind it the gate has a kernel of its own.
constexpr double kUsedMinGated = 0.75;
constexpr double kUsedMin = 0.85;

int64_t parts(int64_t n, int64_t of) { return (n + of - 1) / of; }

// What of all rounds of blocks, which work in twos, goes into the result.
double used(const ManyProblem& p) {
  const int64_t twos = p.sms / 2;
  const int64_t items = parts(p.rows, 2 * kManyTileRows) * parts(p.out, kManyTileColumns);
  const int64_t places = parts(items, twos) * twos * 2 * kManyTileRows * kManyTileColumns;
  return static_cast<double>(p.rows * p.out) / static_cast<double>(places);
}

}  // namespace

bool choose_many(const ManyProblem& p) {
  const bool fits = p.hopper && !p.deterministic && p.weight == WeightFormat::kFp8Block &&
                    p.act == ActFormat::kFp8Block && p.whole_blocks && p.aligned &&
                    kernels::many_gemm_fits(p.out, p.in, p.gated);
  return fits && p.rows >= kRowsMin && used(p) >= (p.gated ? kUsedMinGated : kUsedMin);
}

}  // namespace fathom
