// Experts for many tokens: a product for each expert over all of its rows, on the tensor cores of
// Hopper (docs/kernels/grouped_gemm.md). Weights and activations are both e4m3 with scales per 128
// columns, or both bf16. Rows are (token, choice) pairs in the order of their experts, and all
// tokens for the shared expert; lists made on the device name them, and the grid does not depend on
// them.
#pragma once

#include <cuda.h>

#include "format.h"
#include "grouped_limits.h"
#include "moe.h"
#include "moe_limits.h"

namespace fathom::kernels {

// One expert's matrix in device memory. Scales are of 128 rows by 128 columns.
struct GroupedMatrix {
  CUtensorMap map;  // boxes of 128 rows by 128 bytes
  const float* scales = nullptr;
  int64_t scale_stride = 0;
};

// Pairs of one expert, or tokens of the shared one.
struct alignas(16) GroupedTile {
  int32_t expert;  // of this rank's; the shared expert comes after them
  int32_t first;   // into GroupedSchedule::order, or a token
  int32_t rows;
  int32_t expert_tile;   // the first tile of this expert
  int32_t expert_tiles;  // how many it has
  int32_t unused[3];
};

// What the blocks of a launch count in.
struct GroupedCounters {
  int32_t tiles;       // of the routed experts
  int32_t handed_out;  // items that blocks took after their first
  int32_t arrived;     // blocks, while the lists are made
  int32_t unused;
  int32_t pairs[kMoeExpertsMax];    // of each expert
  int32_t cursors[kMoeExpertsMax];  // the next place of each expert's in the order
};

// Which pairs each expert takes, in device memory; made by `grouped_route` or `grouped_lists`.
struct GroupedSchedule {
  int32_t* order = nullptr;      // [pairs] pair = token * k + choice, by expert
  GroupedTile* tiles = nullptr;  // the shared expert's, then the routed experts'
  int32_t* done = nullptr;       // [tiles] items of a tile whose inner rows are written
  GroupedCounters* counters = nullptr;
  int32_t shared_tiles = 0;  // grouped_shared_tiles, or 0 without a shared expert
  bool paired = false;       // tiles come in twos, for blocks that work in twos
};

// Once, before the first launch and any capture.
cudaError_t load_grouped_gemm();

// What the kernels read a matrix by; the caller copies it to device memory.
cudaError_t grouped_matrix(const Matrix& w, GroupedMatrix* out);

// A step's router and lists.
struct GroupedRouting {
  RouterShape shape;
  int64_t tokens = 0;
  int64_t columns = 0;            // of x, of 128
  Rows x;                         // bf16
  const float* router = nullptr;  // [experts, columns]
  const float* bias = nullptr;    // [experts], or null
  const uint8_t* token_valid = nullptr;
  int32_t first_expert = 0;  // of this rank's
  int32_t expert_count = 0;
  Epilogue quantized;        // x in e4m3, where `data` is not null
  float* scores = nullptr;   // [grouped_score_parts, tokens, experts]
  int32_t* ids = nullptr;    // [tokens, k], ascending
  float* weights = nullptr;  // [tokens, k]
};

// Whether the router's product can be had so.
bool grouped_route_fits(const Rows& x, int64_t columns, int32_t experts);
int32_t grouped_score_parts(int64_t tokens, int64_t columns, int32_t experts);

// Scores, each token's choices (ids and weights), and the lists.
cudaError_t grouped_route(cudaStream_t stream, const GroupedRouting& r,
                          const GroupedSchedule& schedule);

// The lists alone, from `ids`: of the pairs whose experts are of this rank and whose tokens are
// valid.
cudaError_t grouped_lists(cudaStream_t stream, const GroupedRouting& r,
                          const GroupedSchedule& schedule);

// Both products of a layer.
struct GroupedLayer {
  Format format = Format::kFp8;  // of weights, x and inner rows
  const GroupedMatrix* gate_up =
      nullptr;                          // [experts (+ 1)] of [2 * width, hidden], gate rows first
  const GroupedMatrix* down = nullptr;  // [experts (+ 1)] of [hidden, width]
  int64_t hidden = 0;
  int64_t width = 0;
  int64_t shared_width = 0;  // of the shared expert; 0: none, and its rows are not read
  int32_t k = 0;
  Rows x;
  Epilogue inner;         // [pairs, width], in the order of the schedule
  Epilogue shared_inner;  // [tokens, shared_width]
  Rows pairs;             // bf16 [tokens * k, hidden], by pair
  Rows shared;            // bf16 [tokens, hidden]
};

enum class GroupedPart : int32_t { kBoth, kGateUp, kDown };

// inner = silu(gate) * up of each pair's x, rounded to bf16 (gate, up and product) and quantized
// when x is; pairs = inner times the expert's down matrix. `part`: of benchmarks; kDown takes inner
// rows as they are. Needs a schedule that no product has used, and blocks that all run at a time
// or are handed out in order.
cudaError_t grouped_experts(cudaStream_t stream, const GroupedLayer& layer,
                            const GroupedSchedule& schedule, int32_t sms,
                            GroupedPart part = GroupedPart::kBoth);

// out[t, :] = the sum of weights[t, j] * pairs[t * k + j, :] in order of j, for pairs of this
// rank's experts, and last shared[t, :] (bf16; null: none); rounded to bf16. columns: of 8.
cudaError_t grouped_combine(cudaStream_t stream, const GroupedRouting& r, const Rows& pairs,
                            const Rows& shared, const Rows& out);

}  // namespace fathom::kernels
