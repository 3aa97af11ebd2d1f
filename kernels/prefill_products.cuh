// Warpgroup products of prefill attention (PTX ISA, wgmma.mma_async): 64 rows by 128 columns with
// both operands in shared memory, and by 64 or 128 columns with the left one in registers. Tiles
// are 64 columns of bf16 wide, 128 bytes a row under the 128-byte swizzle, 128 rows: 16 KiB.
#pragma once

#include "wgmma.cuh"

namespace fathom::kernels {

inline constexpr uint32_t kPrefillTileBytes = 128 * 128;

// Descriptor of a tile whose rows are K: columns past the first 64 lie kNext bytes further on.
template <uint32_t kNext = kPrefillTileBytes>
__device__ uint64_t prefill_tile_across(uint32_t address) {
  constexpr uint64_t kSwizzle128 = uint64_t{1} << 62;
  constexpr uint64_t kEightRows = uint64_t{1024 >> 4} << 32;
  constexpr uint64_t kNextColumns = uint64_t{kNext >> 4} << 16;
  return kSwizzle128 | kEightRows | kNextColumns | ((address & 0x3FFFFU) >> 4);
}

#define FATHOM_P8(d, i)                                                               \
  "+f"(d[i]), "+f"(d[(i) + 1]), "+f"(d[(i) + 2]), "+f"(d[(i) + 3]), "+f"(d[(i) + 4]), \
      "+f"(d[(i) + 5]), "+f"(d[(i) + 6]), "+f"(d[(i) + 7])
#define FATHOM_P32(d, i) \
  FATHOM_P8(d, i), FATHOM_P8(d, (i) + 8), FATHOM_P8(d, (i) + 16), FATHOM_P8(d, (i) + 24)
#define FATHOM_REGISTERS_32                                                \
  "%0, %1, %2, %3, %4, %5, %6, %7, %8, %9, %10, %11, %12, %13, %14, %15, " \
  "%16, %17, %18, %19, %20, %21, %22, %23, %24, %25, %26, %27, %28, %29, %30, %31"
#define FATHOM_REGISTERS_64                                                            \
  FATHOM_REGISTERS_32                                                                  \
  ", %32, %33, %34, %35, %36, %37, %38, %39, %40, %41, %42, %43, %44, %45, %46, %47, " \
  "%48, %49, %50, %51, %52, %53, %54, %55, %56, %57, %58, %59, %60, %61, %62, %63"

// d = a b + (keep ? d : 0), [64, 128]: both in shared memory, `a` with K along its rows, `b` too
// unless kAcross: then its rows are K.
template <bool kAcross = false>
__device__ void multiply_rows(float (&d)[64], uint64_t a, uint64_t b, int keep) {
  asm volatile(
      "{\n.reg .pred p;\nsetp.ne.b32 p, %66, 0;\n"
      "wgmma.mma_async.sync.aligned.m64n128k16.f32.bf16.bf16 {" FATHOM_REGISTERS_64
      "}, %64, %65, p, 1, 1, 0, %67;\n}\n"
      : FATHOM_P32(d, 0), FATHOM_P32(d, 32)
      : "l"(a), "l"(b), "r"(keep), "n"(kAcross ? 1 : 0));
}

// d += a b: `a` in registers (packed pairs of rows r, r + 8 at columns c, then at c + 8), `b` read
// across its rows.
__device__ inline void multiply_values(float (&d)[64], const uint32_t* a, uint64_t b) {
  asm volatile("wgmma.mma_async.sync.aligned.m64n128k16.f32.bf16.bf16 {" FATHOM_REGISTERS_64
               "}, {%64, %65, %66, %67}, %68, 1, 1, 1, 1;\n"
               : FATHOM_P32(d, 0), FATHOM_P32(d, 32)
               : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "l"(b));
}

__device__ inline void multiply_values(float (&d)[32], const uint32_t* a, uint64_t b) {
  asm volatile("wgmma.mma_async.sync.aligned.m64n64k16.f32.bf16.bf16 {" FATHOM_REGISTERS_32
               "}, {%32, %33, %34, %35}, %36, 1, 1, 1, 1;\n"
               : FATHOM_P32(d, 0)
               : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "l"(b));
}

#undef FATHOM_REGISTERS_64
#undef FATHOM_REGISTERS_32
#undef FATHOM_P32
#undef FATHOM_P8

// Weights that products in flight read may not be written before this: it follows the wait.
template <int kCount>
__device__ inline void wgmma_use(uint32_t (&a)[kCount]) {
#pragma unroll
  for (int i = 0; i < kCount; ++i) asm volatile("" : "+r"(a[i])::"memory");
}

// Lane q of four gets, in order, what each of the four holds at q.
__device__ inline void transpose_four(uint32_t (&w)[4]) {
  const bool odd = (threadIdx.x & 1U) != 0;
  const bool high = (threadIdx.x & 2U) != 0;
#pragma unroll
  for (int i = 0; i < 4; i += 2) {
    const uint32_t got = __shfl_xor_sync(0xFFFFFFFFU, odd ? w[i] : w[i + 1], 1);
    if (odd) {
      w[i] = got;
    } else {
      w[i + 1] = got;
    }
  }
#pragma unroll
  for (int i = 0; i < 2; ++i) {
    const uint32_t got = __shfl_xor_sync(0xFFFFFFFFU, high ? w[i] : w[i + 2], 2);
    if (high) {
      w[i] = got;
    } else {
      w[i + 2] = got;
    }
  }
}

}  // namespace fathom::kernels
