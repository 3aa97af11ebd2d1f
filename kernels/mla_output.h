// What comes after MLA's decode attention, in one launch: the partial results of sequences that
// were cut are put together, weighted latents become values of heads, and those are stored as their
// consumer wants them.
#pragma once

#include "mla_decode.h"

namespace fathom::kernels {

// The schedule, `rows` and the tokens' arrays are read before earlier kernels end: MlaEntryCall
// says why they may be.
struct MlaOutputCall {
  MlaDecodeRows rows;
  MlaSchedule schedule;
  const int32_t* token_row = nullptr;    // [tokens]
  const uint8_t* token_valid = nullptr;  // [tokens]
  int32_t end_row = 0;                   // tokens of rows from it on are left alone
  int64_t tokens = 0;
  int32_t heads = 0;
  const void* latents = nullptr;  // bf16 [tokens, heads, 512]: of rows that were not cut
  const float* partial = nullptr;
  const float* partial_weights = nullptr;
  const void* up_value = nullptr;  // bf16 [heads, 128, 512]
  Epilogue out;                    // [tokens, heads * 128]; zeros where a token is not valid
};

bool mla_output_fits(const MlaOutputCall& call);
cudaError_t mla_output(cudaStream_t stream, const MlaDecodeConfig& config,
                       const MlaOutputCall& call);

}  // namespace fathom::kernels
