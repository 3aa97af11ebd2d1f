// Where the kernel for many rows is faster than cuBLASLt with what stands around it, and than the
// tall kernel (docs/kernels/dense_gemm.md, docs/kernels/tall_gemm.md).
#include "ops/cuda/choose_many.h"

#include <algorithm>

#include "kernels/many_plan.h"
#include "ops/cuda/choose_tall.h"

namespace fathom {
namespace {

using kernels::kManyTileColumns;
using kernels::kManyTileRows;

// Fewer are other kernels' (choose_gemm.h).
constexpr int64_t kRowsMin = 129;
// From so many rows on cuBLASLt alone stands beside it.
constexpr int64_t kPromptRows = 513;
// Rows of W from which a product in bf16 is a vocabulary's.
constexpr int64_t kVocabulary = 32768;
// Smaller weights are other kernels' where there are few rows: 4096 x 14336 takes 56 us of 512 rows
// here and 49 there.
constexpr int64_t kWeightMin = 100'000'000;
// Of what the GPU could do in the time: cuBLASLt's tiles are a quarter as large, so that fewer of
// its multiprocessors wait for the last ones; behind it the gate has a kernel of its own.
constexpr double kUsedMinGated = 0.75;
constexpr double kUsedMin = 0.85;
constexpr double kGainMin = 0.97;  // of the others' time: less is as good
// Microseconds on an H100, fitted to measurements: a turn of the ring where all SMs work, the end
// of an item, and what a launch has before and after.
constexpr double kTurnUs = 2.99;
constexpr double kEndUs = 1.6;
constexpr double kLaunchUs = 6.3;

int64_t parts(int64_t n, int64_t of) { return (n + of - 1) / of; }

struct Rounds {
  double turns;  // of the ring, on the way of the two of blocks that has most
  double ends;   // of its items
};

Rounds rounds_of(const ManyProblem& p) {
  const auto twos = p.sms / 2;
  const auto items =
      static_cast<int32_t>(parts(p.rows, 2 * kManyTileRows) * parts(p.out, kManyTileColumns));
  const auto turns = static_cast<int32_t>(p.in / (128 * kernels::kManyStages));
  const kernels::ManySplit split = kernels::many_split(items, twos, turns);
  const auto whole = static_cast<double>(parts(split.whole, twos));
  if (!p.shares || split.tail == 0) {
    const auto rounds = static_cast<double>(parts(items, twos));
    return {rounds * turns, rounds};
  }
  const int32_t last = std::max(split.turns * split.helped, turns - split.turns);
  return {whole * turns + last + kernels::kManyJoinTurns, whole + 1.0};
}

// What of all rounds of blocks, which work in twos, goes into the result.
double used(const ManyProblem& p) {
  const double rounds =
      rounds_of(p).turns * (128 * kernels::kManyStages) / static_cast<double>(p.in);
  const double places = rounds * (p.sms / 2) * 2 * kManyTileRows * kManyTileColumns;
  return static_cast<double>(p.rows * p.out) / places;
}

double microseconds(const ManyProblem& p) {
  const Rounds rounds = rounds_of(p);
  const double bytes = static_cast<double>(p.out * p.in);
  return std::max(rounds.turns * kTurnUs + rounds.ends * kEndUs, bytes / 3.0e6) + kLaunchUs;
}

double others_us(const ManyProblem& p) {
  TallProblem other;
  other.rows = p.rows;
  other.out = p.out;
  other.in = p.in;
  other.gated = p.gated;
  other.whole_blocks = p.whole_blocks;
  other.sms = p.sms;
  return tall_or_library_us(other);
}

// In bf16 only what stores float32, and of whole tiles: of 384 rows a quarter would be nobody's.
bool choose_exact(const ManyProblem& p) {
  const bool fits = p.hopper && !p.deterministic && p.act == ActFormat::kBF16 && p.float_out &&
                    !p.gated && p.aligned && kernels::many_exact_fits(p.out, p.in);
  const bool whole = p.rows % (2 * kManyTileRows) == 0;
  return fits && whole && p.rows < kPromptRows && p.out >= kVocabulary;
}

}  // namespace

bool choose_many(const ManyProblem& p) {
  if (p.weight == WeightFormat::kBF16) return choose_exact(p);
  const bool fits = p.hopper && !p.deterministic && p.weight == WeightFormat::kFp8Block &&
                    p.act == ActFormat::kFp8Block && p.whole_blocks && p.aligned &&
                    kernels::many_gemm_fits(p.out, p.in, p.gated);
  if (!fits || p.float_out || p.rows < kRowsMin) return false;
  if (p.rows < kPromptRows)
    return p.out * p.in >= kWeightMin && microseconds(p) < kGainMin * others_us(p);
  return used(p) >= (p.gated ? kUsedMinGated : kUsedMin);
}

}  // namespace fathom
