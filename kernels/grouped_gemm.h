// Experts for many tokens: a product for each expert over all of its rows, on the tensor cores of
// Hopper (docs/kernels/grouped_gemm.md). Weights and activations are both e4m3 with scales per 128
// columns, or both bf16. Rows are (token, choice) pairs in the order of their experts; lists made
// on the device name them, and the grid does not depend on them.
#pragma once

#include <cuda.h>

#include "format.h"
#include "moe.h"
#include "moe_limits.h"

namespace fathom::kernels {

inline constexpr int32_t kGroupedTileRows = 128;  // pairs of one expert in a tile, at most

// One expert's matrix in device memory. Scales are of 128 rows by 128 columns.
struct GroupedMatrix {
  CUtensorMap map;  // boxes of 128 rows by 128 bytes
  const float* scales = nullptr;
  int64_t scale_stride = 0;
};

// At most kGroupedTileRows pairs of one expert.
struct alignas(16) GroupedTile {
  int32_t expert;  // of this rank's
  int32_t first;   // into GroupedSchedule::order
  int32_t rows;
  int32_t expert_tile;   // the first tile of this expert
  int32_t expert_tiles;  // how many it has
  int32_t unused[3];
};

// Which pairs each expert takes, in device memory; made by `grouped_schedule`.
struct GroupedSchedule {
  int32_t* order = nullptr;    // [pairs] pair = token * k + choice, by expert
  int32_t* cursors = nullptr;  // [2 * kMoeExpertsMax] while the lists are made
  GroupedTile* tiles = nullptr;
  int32_t* tile_count = nullptr;
};

// Room for the tiles of `pairs` over `experts` experts.
inline int64_t grouped_tiles_max(int64_t pairs, int64_t experts) {
  const int64_t all = experts + pairs / kGroupedTileRows;
  return pairs < all ? pairs : all;
}

// Once, before the first launch and any capture.
cudaError_t load_grouped_gemm();

// What the kernels read a matrix by; the caller copies it to device memory.
cudaError_t grouped_matrix(const Matrix& w, GroupedMatrix* out);

// Router scores [tokens, experts] of bf16 rows; whether they can be had so.
bool grouped_scores_fit(const Rows& x, int64_t columns, int32_t experts);
void grouped_scores(cudaStream_t stream, const Rows& x, int64_t tokens, const float* router,
                    int64_t columns, int32_t experts, float* scores);

// As `route`, a warp a token, for at most kMoeExpertsMax experts.
void grouped_route(cudaStream_t stream, const RouterShape& shape, int64_t tokens,
                   const float* scores, const float* bias, int32_t* ids, float* weights);

// Lists of the pairs whose experts are of this rank and whose tokens are valid. ids: [tokens, k].
void grouped_schedule(cudaStream_t stream, const int32_t* ids, const uint8_t* token_valid,
                      int64_t tokens, int32_t k, int32_t first_expert, int32_t expert_count,
                      const GroupedSchedule& schedule);

// inner[i, :] = silu(gate) * up of x[order[i] / k, :], rounded to bf16 (gate, up and product) and
// quantized when x is. experts: matrices [2 * width, in], gate rows first. width: of 128 columns.
void grouped_gate_up(cudaStream_t stream, const GroupedMatrix* experts, Format format, int64_t in,
                     int64_t width, Rows x, int32_t k, const GroupedSchedule& schedule,
                     const Epilogue& inner, int32_t sms);

// out[order[i], 0..columns) = inner[i, :] times rows [first_column, first_column + columns) of the
// expert's matrix, bf16. columns: of 128.
void grouped_down(cudaStream_t stream, const GroupedMatrix* experts, Format format, int64_t in,
                  int64_t first_column, int64_t columns, Rows inner,
                  const GroupedSchedule& schedule, const Rows& out, int32_t sms);

}  // namespace fathom::kernels
