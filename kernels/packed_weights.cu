// Packing: how often each exponent occurs, the base of it, then the records, a block each.
#include "packed_weights.h"

#include "packed_record.cuh"

namespace fathom::kernels {
namespace {

constexpr int kThreads = 128;  // a record's four parts

__global__ void count_kernel(const uint16_t* numbers, int64_t rows, int64_t columns, int64_t stride,
                             PackedNote* note) {
  __shared__ uint32_t counts[256];
  counts[threadIdx.x] = 0;
  __syncthreads();
  for (int64_t row = blockIdx.x; row < rows; row += gridDim.x) {
    for (int64_t k = threadIdx.x; k < columns; k += blockDim.x) {
      atomicAdd(counts + exponent_of(numbers[row * stride + k]), 1U);
    }
  }
  __syncthreads();
  atomicAdd(note->counts + threadIdx.x, counts[threadIdx.x]);
}

__global__ void base_kernel(PackedNote* note) { note->base = packed_base(note->counts); }

// Where a unit's rows lie in W.
struct UnitRows {
  int64_t out;
  bool gated;
  // Row `row` of part `part` of a unit; -1 past the end.
  __device__ int64_t of(int64_t unit, int part, int row) const {
    const int64_t at = unit * kPackedUnit + part * 16 + row;
    if (!gated) return at < out ? at : -1;
    const int64_t column = unit * (kPackedUnit / 2) + part * 8 + row % 8;
    if (column >= out / 2) return -1;
    return row < 8 ? column : out / 2 + column;
  }
};

// A lane's pair of columns of a row of its part.
__device__ inline int pair_row(int pair) {
  return static_cast<int>(threadIdx.x % 32) / 4 + pair % 2 * 8;
}
__device__ inline int pair_column(int pair) {
  return pair / 4 * 16 + pair / 2 % 2 * 8 + static_cast<int>(threadIdx.x % 4) * 2;
}

__global__ void __launch_bounds__(kThreads)
    pack_kernel(const uint16_t* plain, int64_t stride, UnitRows rows, int64_t steps, void* records,
                PackedNote* note) {
  __shared__ uint32_t exceptions[kPackedExceptionsMax];
  __shared__ uint32_t count;
  __shared__ uint32_t inexact;
  const int part = static_cast<int>(threadIdx.x) / 32;
  const int lane = static_cast<int>(threadIdx.x) % 32;
  const int64_t unit = blockIdx.x / steps;
  const int64_t step = blockIdx.x % steps;
  const int32_t base = note->base;
  if (threadIdx.x < kPackedExceptionsMax) exceptions[threadIdx.x] = kNoException;
  if (threadIdx.x == 0) count = inexact = 0;
  __syncthreads();
  uint32_t pairs[kPackedPairs];
  for (int i = 0; i < kPackedPairs; ++i) {
    pairs[i] = 0;
    const int64_t row = rows.of(unit, part, pair_row(i));
    if (row < 0) continue;
    for (int half = 0; half < 2; ++half) {
      const uint16_t bits = plain[row * stride + step * kPackedUnit + pair_column(i) + half];
      uint32_t packed = 0;
      if (has_packed_code(bits, base)) {
        packed = with_exponent(bits, exponent_of(bits) - base, mantissa_of(bits));
      } else {
        const uint16_t scaled = scaled_for_packing(bits, base);
        if (unscaled(scaled, base) != bits) atomicAdd(&inexact, 1U);
        const uint32_t at = atomicAdd(&count, 1U);
        if (at < kPackedExceptionsMax) exceptions[at] = exception_of(scaled, part, lane, i, half);
      }
      pairs[i] |= packed << (16 * half);
    }
  }
  PackedLane packed;
  encode_lane(pairs, packed);
  uint8_t* const record = static_cast<uint8_t*>(records) + packed_record_at(unit, step, steps);
  auto* to = reinterpret_cast<uint4*>(record + part * kPackedPartBytes) + lane;
  const uint32_t* n = packed.numbers;
  to[0] = make_uint4(n[0], n[1], n[2], n[3]);
  to[32] = make_uint4(n[4], n[5], n[6], n[7]);
  to[64] = make_uint4(packed.codes[0], packed.codes[1], packed.codes[2], packed.codes[3]);
  __syncthreads();
  if (threadIdx.x < kPackedExceptionsMax) {
    reinterpret_cast<uint32_t*>(record + kPackedNumberBytes)[threadIdx.x] = exceptions[threadIdx.x];
  }
  if (threadIdx.x == 0 && count > 0) {
    atomicAdd(&note->exceptions, count);
    atomicMax(&note->exceptions_max, count);
    atomicAdd(&note->inexact, inexact);
  }
}

__global__ void __launch_bounds__(kThreads)
    unpack_kernel(const void* records, UnitRows rows, int64_t steps, int32_t base, uint16_t* out) {
  const int part = static_cast<int>(threadIdx.x) / 32;
  const int64_t unit = blockIdx.x / steps;
  const int64_t step = blockIdx.x % steps;
  const uint8_t* const record =
      static_cast<const uint8_t*>(records) + packed_record_at(unit, step, steps);
  const auto* from =
      reinterpret_cast<const uint4*>(record + part * kPackedPartBytes) + threadIdx.x % 32;
  PackedLane lane;
  for (int i = 0; i < 2; ++i) {
    lane.numbers[4 * i] = from[32 * i].x;
    lane.numbers[4 * i + 1] = from[32 * i].y;
    lane.numbers[4 * i + 2] = from[32 * i].z;
    lane.numbers[4 * i + 3] = from[32 * i].w;
  }
  lane.codes[0] = from[64].x;
  lane.codes[1] = from[64].y;
  lane.codes[2] = from[64].z;
  lane.codes[3] = from[64].w;
  const uint32_t mine =
      reinterpret_cast<const uint32_t*>(record + kPackedNumberBytes)[threadIdx.x % 32];
  uint32_t pairs[kPackedPairs];
  decode_lane(lane, pairs);
  place_exceptions(mine, part, pairs);
  for (int i = 0; i < kPackedPairs; ++i) {
    const int64_t row = rows.of(unit, part, pair_row(i));
    if (row < 0) continue;
    uint16_t* const to = out + row * steps * kPackedUnit + step * kPackedUnit + pair_column(i);
    to[0] = unscaled(static_cast<uint16_t>(pairs[i]), base);
    to[1] = unscaled(static_cast<uint16_t>(pairs[i] >> 16), base);
  }
}

}  // namespace

cudaError_t pack_weights(cudaStream_t stream, const Matrix& plain, bool gated, void* records,
                         PackedNote* note) {
  if (plain.format != Format::kBF16 || !packable(plain.out, plain.in, gated)) {
    return cudaErrorInvalidValue;
  }
  const auto* numbers = static_cast<const uint16_t*>(plain.data);
  const int64_t steps = plain.in / kPackedUnit;
  const int64_t blocks = packed_units(plain.out) * steps;
  const cudaError_t error = cudaMemsetAsync(note, 0, sizeof *note, stream);
  if (error != cudaSuccess) return error;
  constexpr unsigned kCountingBlocks = 1024;
  count_kernel<<<kCountingBlocks, 256, 0, stream>>>(numbers, plain.out, plain.in, plain.stride,
                                                    note);
  base_kernel<<<1, 1, 0, stream>>>(note);
  pack_kernel<<<static_cast<unsigned>(blocks), kThreads, 0, stream>>>(
      numbers, plain.stride, UnitRows{plain.out, gated}, steps, records, note);
  return cudaGetLastError();
}

cudaError_t unpack_weights(cudaStream_t stream, const PackedMatrix& packed, uint16_t* out) {
  const int64_t steps = packed.in / kPackedUnit;
  const int64_t blocks = packed_units(packed.out) * steps;
  unpack_kernel<<<static_cast<unsigned>(blocks), kThreads, 0, stream>>>(
      packed.records, UnitRows{packed.out, packed.gated}, steps, packed.base, out);
  return cudaGetLastError();
}

}  // namespace fathom::kernels
