// A mixture of experts for few tokens in four kernels that overlap: route, gate_up, down, combine.
// Every chosen expert's weights stream from device memory once a step, for all of its tokens, and
// the shared expert's with them (docs/kernels/moe_decode.md). Weights are e4m3 with scales per 128
// rows and columns, or bf16.
#pragma once

#include <cuda.h>

#include "moe.h"
#include "moe_limits.h"

namespace fathom::kernels {

// One expert as the copy engine sees it.
struct MoeFewExpert {
  CUtensorMap gate_up;  // [columns, 8 rows, gate or up, groups of 8 rows]
  CUtensorMap down;     // [columns, rows]
  const float* gate_up_scales = nullptr;
  const float* down_scales = nullptr;
  int64_t gate_up_stride = 0;  // of a row of scales
  int64_t down_stride = 0;
  int64_t width = 0;
};

// The norm ahead of the experts or behind them: residual += part, rounded to bf16, and the norm of
// that. Rows lie on 16 bytes.
struct MoeFewNorm {
  Rows part;                      // ahead: bf16 [tokens, hidden]; may be the memory of `out`
  Rows residual;                  // bf16 [tokens, hidden]
  const float* weight = nullptr;  // [hidden], or null: x is given
  float epsilon = 0.0F;
};

// One call; every pointer is to device memory.
struct MoeFew {
  RouterShape router;
  Format format = Format::kFp8;  // of weights: kFp8 or kBF16
  bool ue8m0 = false;
  int32_t tokens = 0;
  int32_t hidden = 0;
  int32_t width = 0;         // of an expert
  int32_t shared_parts = 0;  // the shared expert's width over an expert's
  int32_t first_expert = 0;
  int32_t experts_here = 0;
  int32_t sms = 0;
  Rows x;  // bf16 [tokens, hidden], rows on 16 bytes; of a norm, where weights are bf16, it is made
  MoeFewNorm norm;
  const float* gate = nullptr;  // [router.experts, hidden]
  const float* bias = nullptr;  // [router.experts] or null
  const uint8_t* token_valid = nullptr;
  const MoeFewExpert* experts = nullptr;  // [experts_here], then the shared one
  // Scratch.
  int32_t* arrivals = nullptr;  // [kMoeArrivalWords], zero before the first call and after each
  float* scores = nullptr;      // [tokens, router.experts]
  // [kMoePostWords] or null: up to kMoeRouteTokens tokens' scores as post_score() writes them, for
  // gate_up, which then waits for them and not for the router's end. Zero before the first call;
  // down leaves zero behind. Calls behind each other take two of these by turns: the next gate_up
  // may read before this down has cleared.
  uint32_t* posts = nullptr;
  int32_t* ids = nullptr;        // [tokens, k] of this rank's experts, or -1
  float* weights = nullptr;      // [tokens, k]
  uint8_t* codes = nullptr;      // kFp8: x quantized [tokens, hidden]
  float* code_scales = nullptr;  // kFp8: [tokens, hidden / 128]
  void* inner = nullptr;         // bf16 [moe_few_rows, width]
  float* rows = nullptr;         // [moe_few_rows, hidden]
  Rows out;                      // bf16 [tokens, hidden]
};

// Rows between the kernels: a row a pair, then a row a shared part and token.
inline int64_t moe_few_rows(const MoeFew& m) {
  return int64_t{m.tokens} * (m.router.experts_per_token + m.shared_parts);
}

// Once, before the first launch and any capture.
cudaError_t load_moe_few();

// gate_up: [2 * width, hidden], gate rows first; down: [hidden, width].
cudaError_t moe_few_expert(const Matrix& gate_up, const Matrix& down, MoeFewExpert* out);

// In this order on one stream. Scores (float32), choices; x quantized.
cudaError_t moe_few_route(cudaStream_t stream, const MoeFew& m);
// route of what `norm` says: at most kMoeNormTokensMax tokens of kMoeNormColumnsMax columns.
cudaError_t moe_few_norm_route(cudaStream_t stream, const MoeFew& m);
// inner = silu(gate) * up: each rounded to bf16, and their product. Of a norm, the residual's sum:
// all blocks of the router read both of its parts.
cudaError_t moe_few_gate_up(cudaStream_t stream, const MoeFew& m);
// rows = what each pair's expert gives, quantizing inner where weights are e4m3.
cudaError_t moe_few_down(cudaStream_t stream, const MoeFew& m);
// out = the weighted sum of the rows, rounded to bf16, in order of expert, the shared expert's
// last. A padding token has the shared part alone.
cudaError_t moe_few_combine(cudaStream_t stream, const MoeFew& m);
// The same, added to the residual, and the norm of that; `m.out` is left alone.
bool moe_few_sum_norm_fits(const MoeFew& m, const Epilogue& out);
cudaError_t moe_few_sum_norm(cudaStream_t stream, const MoeFew& m, const MoeFewNorm& norm,
                             const Epilogue& out);

}  // namespace fathom::kernels
