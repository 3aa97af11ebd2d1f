// Tiles and splits of packed products, as measured (docs/kernels/packed_gemm.md).
#include "ops/cuda/choose_packed.h"

namespace fathom {
namespace {

using kernels::kPackedUnit;
using kernels::PackedPlan;

constexpr int32_t kFewRows = 64;
constexpr int64_t kLongWay = 128;  // steps along K
// Clusters of so many blocks that run at once on an H100, a block an SM: as choose_wide.cpp's, and
// of five to eight what eight have.
constexpr int32_t kClustersAtOnce[] = {0, 132, 66, 39, 30, 15, 15, 15, 15};

int64_t parts(int64_t n, int64_t of) { return (n + of - 1) / of; }

int32_t stages_of(const PackedPlan& plan) {
  const int32_t room = kernels::packed_room(plan.token_tile, plan.units);
  int32_t stages = 0;
  while (stages < kernels::kPackedStagesMax &&
         kernels::packed_shared_bytes(plan, stages + 1) <= room) {
    ++stages;
  }
  return stages;
}

int32_t token_tile_of(int64_t rows) {
  for (const int32_t tile : {8, 32, 64}) {
    if (rows <= tile) return tile;
  }
  return kernels::kPackedRowsMax;
}

// Of 65 rows and more the products take as long as the bytes do: tiles of four units, which read x
// least often, are faster than the plain kernels, where they fill the GPU. Of a long way so are
// tiles of two that three blocks share, where these fill it at once.
std::optional<PackedPlan> many_rows(const GemmProblem& p, PackedPlan plan) {
  const int64_t units = kernels::packed_units(p.out);
  plan.overlap_next = false;
  plan.units = 4;
  if (parts(units, plan.units) < p.sms * 3 / 4) {
    plan.units = 2;
    plan.split = 3;
    const int64_t tiles = parts(units, plan.units);
    const bool fills = tiles * plan.split >= p.sms * 2 / 3 && tiles <= kClustersAtOnce[plan.split];
    if (p.gated || !fills || p.in / kPackedUnit < kLongWay) return std::nullopt;
  }
  plan.stages = stages_of(plan);
  return plan;
}

// Two units, and the skinny kernel's splits of as many rows. Where these are few blocks with a long
// way, twice as many tiles of one unit, with as many blocks each as run at once, two an SM.
PackedPlan few_rows(const GemmProblem& p, PackedPlan plan) {
  const kernels::SkinnyPlan skinny = choose_gemm(p).skinny;
  const int64_t units = kernels::packed_units(p.out);
  plan.units = 2;
  plan.split = skinny.split * kernels::kSkinnyTileRows / skinny.tile_rows;
  if (parts(units, plan.units) * plan.split <= p.sms && p.in / kPackedUnit >= kLongWay) {
    plan.units = 1;
    while (plan.split > 2 && units > 2 * int64_t{kClustersAtOnce[plan.split]}) --plan.split;
  }
  plan.stages = stages_of(plan);
  return plan;
}

}  // namespace

bool has_packed_form(const GemmProblem& p) {
  return p.hopper && !p.deterministic && p.weight == WeightFormat::kBF16 && p.aligned &&
         kernels::packable(p.out, p.in, p.gated);
}

std::optional<PackedPlan> choose_packed(const GemmProblem& p) {
  if (!has_packed_form(p) || p.rows < 1 || p.rows > kernels::kPackedRowsMax) return std::nullopt;
  if (p.act != ActFormat::kBF16 || !p.out_in_vectors) return std::nullopt;
  PackedPlan plan;
  plan.token_tile = token_tile_of(p.rows);
  plan.slot_rows = static_cast<int32_t>(parts(p.rows, 8) * 8);
  return p.rows > kFewRows ? many_rows(p, plan) : few_rows(p, plan);
}

}  // namespace fathom
