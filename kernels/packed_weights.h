// Weights of bf16 in 12 bits a number without loss (docs/kernels/packed_gemm.md).
#pragma once

#include "format.h"
#include "packed_plan.h"

namespace fathom::kernels {

// A packed matrix in device memory.
struct PackedMatrix {
  const void* records = nullptr;  // packed_bytes(out, in), a multiple of 128 bytes
  int64_t out = 0;
  int64_t in = 0;
  bool gated = false;  // joined gate and up: rows of both in a unit
  int32_t base = 0;    // PackedNote's
};

// What packing found, in device memory.
struct PackedNote {
  uint32_t counts[256];     // numbers of each exponent
  int32_t base;             // of the matrix
  uint32_t exceptions;      // of all records
  uint32_t exceptions_max;  // of a record
  uint32_t inexact;         // exceptions that have no scaled form
  bool packed() const { return exceptions_max <= kPackedExceptionsMax && inexact == 0; }
};

// Packs `plain`: bf16, packable(), of aligned rows of `stride`. The records are the matrix's only
// where the note says packed().
cudaError_t pack_weights(cudaStream_t stream, const Matrix& plain, bool gated, void* records,
                         PackedNote* note);

// out[o, k] = what the records say: bf16 numbers, bit for bit. For checks.
cudaError_t unpack_weights(cudaStream_t stream, const PackedMatrix& packed, uint16_t* out);

}  // namespace fathom::kernels
