// Warpgroup products for attention over latents (PTX ISA, wgmma.mma_async): the operands that are
// read across their rows, and the ones whose left side lies in registers. Tiles are 64 columns of
// bf16 wide, 128 bytes a row under the 128-byte swizzle, 64 rows apart 8 KiB.
#pragma once

#include "wgmma.cuh"

namespace fathom::kernels {

inline constexpr uint32_t kTileBytes = 64 * 128;  // 64 tokens or heads by 64 columns

// Descriptor of a tile whose long side is K: rows are K, and columns past the first 64 lie
// kTileBytes further on.
__device__ inline uint64_t wgmma_tile_across(uint32_t address) {
  constexpr uint64_t kSwizzle128 = uint64_t{1} << 62;
  constexpr uint64_t kEightRows = uint64_t{1024 >> 4} << 32;
  constexpr uint64_t kNextColumns = uint64_t{kTileBytes >> 4} << 16;
  return kSwizzle128 | kEightRows | kNextColumns | ((address & 0x3FFFFU) >> 4);
}

// Keeps arithmetic on an accumulator before the products that follow.
__device__ inline void settle(float& x) { asm volatile("" : "+f"(x)::"memory"); }

// d += at b: `a` is read across its rows (64 of its columns are the product's rows).
template <int kColumns>
__device__ void multiply_across(float (&d)[kColumns / 2], uint64_t a, uint64_t b);

template <>
__device__ inline void multiply_across<16>(float (&d)[8], uint64_t a, uint64_t b) {
  asm volatile(
      "wgmma.mma_async.sync.aligned.m64n16k16.f32.bf16.bf16 {%0, %1, %2, %3, %4, %5, %6, %7}, "
      "%8, %9, 1, 1, 1, 1, 0;\n"
      : "+f"(d[0]), "+f"(d[1]), "+f"(d[2]), "+f"(d[3]), "+f"(d[4]), "+f"(d[5]), "+f"(d[6]),
        "+f"(d[7])
      : "l"(a), "l"(b));
}

#define FATHOM_O4(d, i) "+f"(d[i]), "+f"(d[(i) + 1]), "+f"(d[(i) + 2]), "+f"(d[(i) + 3])
#define FATHOM_O16(d, i) \
  FATHOM_O4(d, i), FATHOM_O4(d, (i) + 4), FATHOM_O4(d, (i) + 8), FATHOM_O4(d, (i) + 12)
#define FATHOM_O64(d, i) \
  FATHOM_O16(d, i), FATHOM_O16(d, (i) + 16), FATHOM_O16(d, (i) + 32), FATHOM_O16(d, (i) + 48)
// d += a b, 64 rows by 64 columns: `a` in registers (as below), `b` with K contiguous.
__device__ inline void multiply_scores(float (&d)[32], const uint32_t (&a)[4], uint64_t b) {
  asm volatile(
      "wgmma.mma_async.sync.aligned.m64n64k16.f32.bf16.bf16 {%0, %1, %2, %3, %4, %5, %6, %7, "
      "%8, %9, %10, %11, %12, %13, %14, %15, %16, %17, %18, %19, %20, %21, %22, %23, "
      "%24, %25, %26, %27, %28, %29, %30, %31}, {%32, %33, %34, %35}, %36, 1, 1, 1, 0;\n"
      : FATHOM_O16(d, 0), FATHOM_O16(d, 16)
      : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "l"(b));
}

#define FATHOM_N4(d, i) "=f"(d[i]), "=f"(d[(i) + 1]), "=f"(d[(i) + 2]), "=f"(d[(i) + 3])
#define FATHOM_N16(d, i) \
  FATHOM_N4(d, i), FATHOM_N4(d, (i) + 4), FATHOM_N4(d, (i) + 8), FATHOM_N4(d, (i) + 12)
// d = a b: what `d` held is dead before it.
__device__ inline void multiply_scores_fresh(float (&d)[32], const uint32_t (&a)[4], uint64_t b) {
  asm volatile(
      "wgmma.mma_async.sync.aligned.m64n64k16.f32.bf16.bf16 {%0, %1, %2, %3, %4, %5, %6, %7, "
      "%8, %9, %10, %11, %12, %13, %14, %15, %16, %17, %18, %19, %20, %21, %22, %23, "
      "%24, %25, %26, %27, %28, %29, %30, %31}, {%32, %33, %34, %35}, %36, 0, 1, 1, 0;\n"
      : FATHOM_N16(d, 0), FATHOM_N16(d, 16)
      : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "l"(b));
}
#undef FATHOM_N16
#undef FATHOM_N4

#define FATHOM_REGISTERS_128                                                                     \
  "%0, %1, %2, %3, %4, %5, %6, %7, %8, %9, %10, %11, %12, %13, %14, %15, "                       \
  "%16, %17, %18, %19, %20, %21, %22, %23, %24, %25, %26, %27, %28, %29, %30, %31, "             \
  "%32, %33, %34, %35, %36, %37, %38, %39, %40, %41, %42, %43, %44, %45, %46, %47, "             \
  "%48, %49, %50, %51, %52, %53, %54, %55, %56, %57, %58, %59, %60, %61, %62, %63, "             \
  "%64, %65, %66, %67, %68, %69, %70, %71, %72, %73, %74, %75, %76, %77, %78, %79, "             \
  "%80, %81, %82, %83, %84, %85, %86, %87, %88, %89, %90, %91, %92, %93, %94, %95, "             \
  "%96, %97, %98, %99, %100, %101, %102, %103, %104, %105, %106, %107, %108, %109, %110, %111, " \
  "%112, %113, %114, %115, %116, %117, %118, %119, %120, %121, %122, %123, %124, %125, %126, %127"

// d += a b, 64 rows by 256 columns: `b` is read across its rows; `a` lies in shared memory.
__device__ inline void multiply_wide(float (&d)[128], uint64_t a, uint64_t b) {
  asm volatile("wgmma.mma_async.sync.aligned.m64n256k16.f32.bf16.bf16 {" FATHOM_REGISTERS_128
               "}, %128, %129, 1, 1, 1, 0, 1;\n"
               : FATHOM_O64(d, 0), FATHOM_O64(d, 64)
               : "l"(a), "l"(b));
}

#undef FATHOM_REGISTERS_128
#undef FATHOM_O64
#undef FATHOM_O16
#undef FATHOM_O4

}  // namespace fathom::kernels
