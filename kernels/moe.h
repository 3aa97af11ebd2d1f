// Mixture of experts, plain: route each token, run every (token, choice) pair through its expert,
// weighted sum.
#pragma once

#include "format.h"

namespace fathom::kernels {

struct RouterShape {
  int32_t experts = 0;
  int32_t experts_per_token = 0;  // at most 32
  int32_t groups = 1;             // at most 32
  int32_t groups_per_token = 1;
  bool sigmoid = true;      // else softmax
  bool top_two_sum = true;  // a group's score; else its largest
  bool normalize = true;
  float scale = 1.0F;
};

// Chooses experts_per_token experts a token from scores [tokens, experts] (overwritten): ids
// ascending, with their weights. bias may be null.
void route(cudaStream_t stream, const RouterShape& shape, int64_t tokens, float* scores,
           const float* bias, int32_t* ids, float* weights);

// out[t * k + j, :] = x[t or pair, :] times the matrix of expert ids[t * k + j]; pairs of other
// ranks' experts and of padding tokens are left alone. `by_pair`: x has a row a pair, else a row a
// token.
void expert_linear(cudaStream_t stream, const Matrix* experts, int32_t first_expert,
                   int32_t expert_count, const int32_t* ids, const uint8_t* token_valid,
                   int64_t tokens, int32_t k, Rows x, bool by_pair, int64_t out_columns, float* out,
                   Format round);

// out[t, :] = the sum of weights[t, j] * pairs[t * k + j, :] (f32 or bf16) in order of j, for pairs
// of this rank's experts, and last shared[t, :] (null: no shared expert); rounded to out's format.
// A padding token has the shared part alone.
void combine(cudaStream_t stream, Rows pairs, const int32_t* ids, const float* weights,
             const uint8_t* token_valid, int64_t tokens, int32_t k, int32_t first_expert,
             int32_t expert_count, int64_t columns, const float* shared, Rows out);

}  // namespace fathom::kernels
