// Experts for few tokens: every chosen expert's weights stream from device memory once a step, for
// all of its tokens (docs/kernels/moe_decode.md). Weights and activations are both e4m3 with scales
// per 128 columns, or both bf16.
#pragma once

#include "moe.h"
#include "moe_limits.h"

namespace fathom::kernels {

struct MoeTile {
  int32_t expert;  // of this rank's
  int32_t first;   // into MoeSchedule::order
  int32_t count;
};

// Which pairs each expert takes, made on the device by `route_and_schedule`.
struct MoeSchedule {
  int32_t* order = nullptr;  // [pairs] pair = token * k + choice, by expert
  MoeTile* tiles = nullptr;  // [moe_tiles_max]
  int32_t* tile_count = nullptr;
  int32_t tiles_max = 0;
};

// Once, before the first launch and any capture.
cudaError_t load_moe_decode();

// `route` for at most kMoeDecodeTokensMax tokens, and the schedule of its choices.
void route_and_schedule(cudaStream_t stream, const RouterShape& shape, int64_t tokens,
                        const float* scores, const float* bias, const uint8_t* token_valid,
                        int32_t first_expert, int32_t expert_count, int32_t* ids, float* weights,
                        const MoeSchedule& schedule);

// inner[pair, :] = silu(gate) * up of x[pair / k, :], rounded to bf16 (gate, up and product) and
// quantized when x is. experts: matrices [2 * width, in], gate rows first. width: of 128 columns.
void expert_gate_up(cudaStream_t stream, const Matrix* experts, Format format, int64_t in,
                    int64_t width, Rows x, int32_t k, const MoeSchedule& schedule,
                    const Epilogue& inner);

// out[pair, :] = inner[pair, :] times the pair's expert, rounded to bf16. out_columns: of 128.
void expert_down(cudaStream_t stream, const Matrix* experts, Format format, int64_t in,
                 int64_t out_columns, Rows inner, const MoeSchedule& schedule, float* out);

}  // namespace fathom::kernels
