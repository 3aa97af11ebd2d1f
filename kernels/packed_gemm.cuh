// The packed product's kernel. Rows of W are the tensor core's rows, 64 a warpgroup, rows of x its
// columns. A thread copies records of W and tiles of x; each warp makes bf16 numbers of its rows'
// codes, in registers, in the order in which the tensor core reads its left side. The blocks of a
// cluster share the K of one tile and send each other sums: each adds those of some rows of x in
// the order of K.
#pragma once

#include "async_copy.cuh"
#include "cluster.cuh"
#include "move_registers.cuh"
#include "packed_parts.cuh"
#include "packed_record.cuh"
#include "packed_store.cuh"
#include "wgmma_left.cuh"

namespace fathom::kernels {

// Copies records to shared memory; read once, so first to leave the cache.
template <int kBytes>
__device__ void copy_records(void* to, const void* from, uint64_t* barrier) {
  constexpr uint64_t kEvictFirst = 0x12F0000000000000;
  asm volatile(
      "cp.async.bulk.shared::cluster.global.mbarrier::complete_tx::bytes.L2::cache_hint "
      "[%0], [%1], %2, [%3], %4;" ::"r"(shared_address(to)),
      "l"(from), "n"(kBytes), "r"(shared_address(barrier)), "l"(kEvictFirst)
      : "memory");
}

// What one thread copies: records, of pairs of units or of one.
template <int kTokens, int kUnits>
struct PackedWCopy {
  static constexpr int kPairs = (kUnits + 1) / 2;
  static constexpr int kPairBytes = kUnits == 1 ? kPackedRecordBytes : 2 * kPackedRecordBytes;
  const PackedRing<kTokens, kUnits>& ring;
  const uint8_t* from[kPairs];  // the next step's

  __device__ PackedWCopy(const PackedArgs& a, const PackedRing<kTokens, kUnits>& to,
                         const PackedShare& share)
      : ring(to) {
#pragma unroll
    for (int p = 0; p < kPairs; ++p) {
      // Past the end nothing is stored.
      const int32_t unit = min(share.unit + 2 * p, a.units - (kUnits > 1 ? 2 : 1));
      from[p] = a.records + packed_record_at(unit, share.begin, a.steps);
    }
  }
  __device__ void load(int s) {
    barrier_expect(ring.full(s), PackedShape<kTokens, kUnits>::kWBytes);
#pragma unroll
    for (int p = 0; p < kPairs; ++p) {
      copy_records<kPairBytes>(ring.w(s) + p * kPairBytes, from[p], ring.full(s));
      from[p] += 2 * kPackedRecordBytes;
    }
  }
};

// What another copies: x.
template <int kTokens, int kUnits>
struct PackedXCopy {
  const CUtensorMap* map;
  const PackedRing<kTokens, kUnits>& ring;
  uint32_t bytes;
  int32_t column;  // the next step's

  __device__ void load(int s) {
    barrier_expect(ring.full(s), bytes);
    copy_tile(ring.x(s), map, ring.full(s), column, 0);
    column += kPackedUnit;
  }
};

// The ring's first turn.
template <typename Copy>
__device__ void packed_load_ahead(Copy& copy, int32_t steps) {
  const int32_t ahead = min(copy.ring.stages, steps);
  for (int32_t s = 0; s < ahead; ++s) copy.load(s);
}

// The others, as stages come free.
template <typename Copy>
__device__ void packed_load_rest(Copy& copy, int32_t steps) {
  RingAt at;
  for (int32_t step = copy.ring.stages; step < steps; ++step) {
    barrier_wait(copy.ring.empty(at.stage), at.parity);
    copy.load(at.stage);
    at.next(copy.ring.stages);
  }
}

// Registers that a product reads are written before this, and stay as they are up to it.
__device__ inline void hold_until_here(uint32_t (&pairs)[kPackedPairs]) {
#pragma unroll
  for (uint32_t& pair : pairs) asm volatile("" : "+r"(pair)::"memory");
}

// Where a multiplying thread reads the next step: addresses in shared memory, moved on behind a
// product's start, so that none is worked out while a step is waited for.
template <int kTokens, int kUnits>
struct PackedCursor {
  int32_t stages;
  uint32_t slot;      // bytes of x
  uint32_t first[3];  // barrier, numbers and x of the ring's first stage
  uint32_t full;      // the stage's
  uint32_t numbers;   // this lane's
  uint32_t x;
  int32_t stage = 0;
  uint32_t parity = 0;

  __device__ PackedCursor(const PackedRing<kTokens, kUnits>& ring, int unit, int part)
      : stages(ring.stages), slot(static_cast<uint32_t>(ring.slot_bytes)) {
    first[0] = shared_address(ring.full(0));
    first[1] = shared_address(ring.w(0) + unit * kPackedRecordBytes + part * kPackedPartBytes) +
               threadIdx.x % 32 * 16;
    first[2] = shared_address(ring.x(0));
    rewind();
  }
  __device__ uint32_t empty() const { return full + static_cast<uint32_t>(stages) * 8; }
  __device__ void rewind() {
    full = first[0];
    numbers = first[1];
    x = first[2];
  }
  __device__ void next() {
    full += 8;
    numbers += PackedShape<kTokens, kUnits>::kWBytes;
    x += slot;
    if (++stage == stages) {
      stage = 0;
      parity ^= 1;
      rewind();
    }
  }
};

// A warpgroup's way through its block's steps: a unit's 64 rows of W by all tokens.
template <int kTokens, int kUnits>
struct PackedMultiply {
  PackedCursor<kTokens, kUnits> at;
  int part;                 // this warp's
  uint32_t to_exception;    // from a lane's numbers
  uint32_t last_empty = 0;  // barrier of the step before

  __device__ PackedMultiply(const PackedRing<kTokens, kUnits>& ring, int unit, int warp_part)
      : at(ring, unit, warp_part),
        part(warp_part),
        to_exception(kPackedNumberBytes - static_cast<uint32_t>(warp_part) * kPackedPartBytes -
                     threadIdx.x % 32 * 12) {}

  __device__ void run(float (&total)[kTokens / 2], int32_t steps) {
    if constexpr (PackedShape<kTokens, kUnits>::kTwoSteps) {
      run_two(total, steps);
    } else {
      run_one(total, steps);
    }
    wgmma_wait<0>();
    wgmma_use(total);
  }

 private:
  // The numbers of the step at hand.
  __device__ void decode(uint32_t (&pairs)[kPackedPairs]) const {
    barrier_wait_at(at.full, at.parity);
    PackedLane lane;
    const uint32_t exception = load_shared(at.numbers + to_exception);
    load_shared(at.numbers, lane.numbers);
    load_shared(at.numbers + 512, lane.numbers + 4);
    load_shared(at.numbers + 1024, lane.codes);
    decode_lane(lane, pairs);
    place_exceptions(exception, part, pairs);
  }
  // Their product, four instructions of 16 columns.
  __device__ void issue(float (&d)[kTokens / 2], uint32_t (&pairs)[kPackedPairs], bool keep) const {
    const uint64_t x = wgmma_tile(at.x);
    hold_until_here(pairs);
    wgmma_fence();
#pragma unroll
    for (int k = 0; k < 4; ++k) {
      WgmmaLeft<kTokens>::run(d, pairs + 4 * k, x + 2 * k, keep || k > 0 ? 1 : 0);
    }
    wgmma_commit();
  }
  // Goes on; `done`: the step before is multiplied, its stage is given back.
  __device__ void next(bool done) {
    if (done) barrier_arrive_at(last_empty);
    last_empty = at.empty();
    at.next();
  }
  // One step is multiplied while the next is decoded.
  __device__ void run_two(float (&total)[kTokens / 2], int32_t steps) {
    uint32_t even[kPackedPairs];
    uint32_t odd[kPackedPairs];
    for (int32_t step = 0; step < steps; step += 2) {
      decode(even);
      issue(total, even, step > 0);
      if (step > 0) {
        wgmma_wait<1>();
        hold_until_here(odd);
      }
      next(step > 0);
      if (step + 1 == steps) break;
      decode(odd);
      issue(total, odd, true);
      wgmma_wait<1>();
      hold_until_here(even);
      next(true);
    }
  }
  // One step after the other, where sums leave no registers for two.
  __device__ void run_one(float (&total)[kTokens / 2], int32_t steps) {
    uint32_t pairs[kPackedPairs];
    for (int32_t step = 0; step < steps; ++step) {
      decode(pairs);
      issue(total, pairs, step > 0);
      wgmma_wait<0>();
      hold_until_here(pairs);
      barrier_arrive_at(at.empty());
      at.next();
    }
  }
};

template <int kTokens, int kUnits>
__device__ void packed_multiply_tile(const PackedArgs& a, const PackedRing<kTokens, kUnits>& ring,
                                     const PackedShare& share) {
  const int warp = static_cast<int>(threadIdx.x / 32);
  const int lane = static_cast<int>(threadIdx.x % 32);
  PackedMultiply<kTokens, kUnits> m(ring, warp / 4, warp % 4);
  float total[kTokens / 2];
  m.run(total, share.end - share.begin);
  const PackedOutput output(a, share.unit + warp / 4, warp, lane);
  if (a.split > 1) {
    packed_join(total, a, ring, share, output);
    return;
  }
#pragma unroll
  for (int j = 0; j < kTokens / 8; ++j) {
    if (j < share.groups) output.store(j, sums_of_group(total, j));
  }
}

template <int kTokens, int kUnits>
__device__ void packed_init_barriers(const PackedArgs& a, const PackedRing<kTokens, kUnits>& ring,
                                     const PackedShare& share) {
  using Shape = PackedShape<kTokens, kUnits>;
  for (int s = 0; s < a.stages; ++s) {
    barrier_init(ring.full(s), 2);
    barrier_init(ring.empty(s), Shape::kMathThreads);
  }
  barrier_init(ring.joined(), 1);
  barrier_init_done();
  const int32_t mine = max(0, min(share.each, share.groups - share.part * share.each));
  barrier_expect(ring.joined(),
                 static_cast<uint32_t>((a.split - 1) * Shape::kMathWarps * mine * 512));
}

template <int kUnits>
__device__ PackedShare packed_share(const PackedArgs& a) {
  PackedShare share;
  share.part = static_cast<int32_t>(cluster_rank());
  share.unit = static_cast<int32_t>(blockIdx.x) / a.split * kUnits;
  share.begin = a.steps * share.part / a.split;
  share.end = a.steps * (share.part + 1) / a.split;
  share.groups = (a.tokens + 7) / 8;
  share.each = (share.groups + a.split - 1) / a.split;
  return share;
}

template <int kTokens, int kUnits>
__global__ void __launch_bounds__(PackedShape<kTokens, kUnits>::kThreads,
                                  PackedShape<kTokens, kUnits>::kBlocks)
    packed_kernel(const __grid_constant__ CUtensorMap x_map, const __grid_constant__ PackedArgs a) {
  using Shape = PackedShape<kTokens, kUnits>;
  extern __shared__ __align__(1024) uint8_t shared[];
  const PackedShare share = packed_share<kUnits>(a);
  const PackedRing<kTokens, kUnits> ring{
      shared, a.stages, a.slot_rows * 128,
      (a.split - 1) * Shape::kMathWarps * packed_groups_each(a.slot_rows, a.split) * 512};
  const int32_t steps = share.end - share.begin;
  const int copier = static_cast<int>(threadIdx.x) - Shape::kMathThreads;
  PackedWCopy<kTokens, kUnits> records(a, ring, share);
  if (copier == 0) {
    packed_init_barriers(a, ring, share);
    packed_load_ahead(records, steps);
  } else if (copier == 32) {
    prefetch_map(&x_map);
  }
  if (a.overlap_next) let_next_kernel_start();
  __syncthreads();
  if (a.split > 1) cluster_arrive_relaxed();
  if (copier < 0) {
    if constexpr (Shape::kMoveRegisters) take_registers<112>();
    wait_for_earlier_kernels();
    packed_multiply_tile(a, ring, share);
  } else {
    if constexpr (Shape::kMoveRegisters) give_registers<32>();
    if (copier == 0) {
      packed_load_rest(records, steps);
      if (!a.overlap_next) let_next_kernel_start();
    } else if (copier == 32) {
      wait_for_earlier_kernels();
      PackedXCopy<kTokens, kUnits> x{&x_map, ring, static_cast<uint32_t>(a.tokens * 128),
                                     share.begin * kPackedUnit};
      packed_load_ahead(x, steps);
      packed_load_rest(x, steps);
    }
  }
}

}  // namespace fathom::kernels
