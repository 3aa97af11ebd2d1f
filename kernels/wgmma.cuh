// Warpgroup matrix products (PTX ISA, wgmma.mma_async): 64 rows of A by kColumns columns of B over
// 32 bytes of K, both operands in shared memory, K contiguous, in tiles of 128 bytes a row under
// the 128-byte swizzle that the copy engine writes.
#pragma once

#include <cstdint>

#include "format.h"

namespace fathom::kernels {

// Descriptor of such a tile: `address` is 1024-byte aligned, or that plus the K offset in bytes.
__device__ inline uint64_t wgmma_tile(uint32_t address) {
  constexpr uint64_t kSwizzle128 = uint64_t{1} << 62;
  constexpr uint64_t kEightRows = uint64_t{1024 >> 4} << 32;
  constexpr uint64_t kIgnored = uint64_t{1} << 16;  // leading offset: unused under this swizzle
  return kSwizzle128 | kEightRows | kIgnored | ((address & 0x3FFFFU) >> 4);
}

__device__ inline void wgmma_fence() { asm volatile("wgmma.fence.sync.aligned;" ::: "memory"); }
__device__ inline void wgmma_commit() {
  asm volatile("wgmma.commit_group.sync.aligned;" ::: "memory");
}
// Waits until at most kPending committed groups are unfinished.
template <int kPending>
__device__ inline void wgmma_wait() {
  asm volatile("wgmma.wait_group.sync.aligned %0;" ::"n"(kPending) : "memory");
}

// The compiler may not move uses of accumulators across this: it follows the wait for them.
template <int kCount>
__device__ inline void wgmma_use(float (&d)[kCount]) {
#pragma unroll
  for (int i = 0; i < kCount; ++i) asm volatile("" : "+f"(d[i])::"memory");
}

// d = a b + (keep ? d : 0). Thread t of the warpgroup holds rows 16 (t / 32) + t % 32 / 4 + {0, 8}
// and, of each eight columns, 2 (t % 4) + {0, 1}: d[4 j + 2 row + column].
template <Format kFormat, int kColumns>
struct Wgmma;

#define FATHOM_D4(d, i) "+f"(d[i]), "+f"(d[(i) + 1]), "+f"(d[(i) + 2]), "+f"(d[(i) + 3])
#define FATHOM_D8(d, i) FATHOM_D4(d, i), FATHOM_D4(d, (i) + 4)
#define FATHOM_D16(d, i) FATHOM_D8(d, i), FATHOM_D8(d, (i) + 8)
#define FATHOM_D24(d, i) FATHOM_D16(d, i), FATHOM_D8(d, (i) + 16)
#define FATHOM_D32(d, i) FATHOM_D16(d, i), FATHOM_D16(d, (i) + 16)
#define FATHOM_D36(d, i) FATHOM_D32(d, i), FATHOM_D4(d, (i) + 32)
#define FATHOM_D40(d, i) FATHOM_D32(d, i), FATHOM_D8(d, (i) + 32)
#define FATHOM_D48(d, i) FATHOM_D32(d, i), FATHOM_D16(d, (i) + 32)
#define FATHOM_D56(d, i) FATHOM_D32(d, i), FATHOM_D24(d, (i) + 32)
#define FATHOM_D64(d, i) FATHOM_D32(d, i), FATHOM_D32(d, (i) + 32)
#define FATHOM_D72(d, i) FATHOM_D64(d, i), FATHOM_D8(d, (i) + 64)
#define FATHOM_D128(d, i) FATHOM_D64(d, i), FATHOM_D64(d, (i) + 64)

#define FATHOM_R4 "%0, %1, %2, %3"
#define FATHOM_R8 FATHOM_R4 ", %4, %5, %6, %7"
#define FATHOM_R16 FATHOM_R8 ", %8, %9, %10, %11, %12, %13, %14, %15"
#define FATHOM_R24 FATHOM_R16 ", %16, %17, %18, %19, %20, %21, %22, %23"
#define FATHOM_R32 \
  FATHOM_R16       \
  ", %16, %17, %18, %19, %20, %21, %22, %23, %24, %25, %26, %27, %28, %29, %30, %31"
#define FATHOM_R36 FATHOM_R32 ", %32, %33, %34, %35"
#define FATHOM_R40 FATHOM_R32 ", %32, %33, %34, %35, %36, %37, %38, %39"
#define FATHOM_R48 FATHOM_R40 ", %40, %41, %42, %43, %44, %45, %46, %47"
#define FATHOM_R56 FATHOM_R48 ", %48, %49, %50, %51, %52, %53, %54, %55"
#define FATHOM_R64 FATHOM_R56 ", %56, %57, %58, %59, %60, %61, %62, %63"
#define FATHOM_R72 FATHOM_R64 ", %64, %65, %66, %67, %68, %69, %70, %71"
#define FATHOM_R128 \
  FATHOM_R64        \
  ", %64, %65, %66, %67, %68, %69, %70, %71, %72, %73, %74, %75, %76, %77, %78, %79" \
  ", %80, %81, %82, %83, %84, %85, %86, %87, %88, %89, %90, %91, %92, %93, %94, %95" \
  ", %96, %97, %98, %99, %100, %101, %102, %103, %104, %105, %106, %107, %108, %109, %110, %111" \
  ", %112, %113, %114, %115, %116, %117, %118, %119, %120, %121, %122, %123, %124, %125, %126, %127"

// The operands after the accumulators (the last arguments) are numbered from columns / 2.
#define FATHOM_WGMMA(format, columns, shape, tail, registers, a_at, b_at, keep_at, ...)        \
  template <>                                                                                  \
  struct Wgmma<format, columns> {                                                              \
    __device__ static void run(float (&d)[(columns) / 2], uint64_t a, uint64_t b, int keep) {  \
      asm volatile("{\n.reg .pred p;\nsetp.ne.b32 p, %" keep_at                                \
                   ", 0;\n"                                                                    \
                   "wgmma.mma_async.sync.aligned." shape " {" registers "}, %" a_at ", %" b_at \
                   ", p, 1, 1" tail ";\n}\n"                                                   \
                   : __VA_ARGS__                                                               \
                   : "l"(a), "l"(b), "r"(keep));                                               \
    }                                                                                          \
  };

#define FATHOM_WGMMA_COLUMNS(columns, name, registers, a_at, b_at, keep_at, ...)                   \
  FATHOM_WGMMA(Format::kFp8, columns, "m64n" name "k32.f32.e4m3.e4m3", "", registers, a_at, b_at,  \
               keep_at, __VA_ARGS__)                                                               \
  FATHOM_WGMMA(Format::kBF16, columns, "m64n" name "k16.f32.bf16.bf16", ", 0, 0", registers, a_at, \
               b_at, keep_at, __VA_ARGS__)

FATHOM_WGMMA_COLUMNS(8, "8", FATHOM_R4, "4", "5", "6", FATHOM_D4(d, 0))
FATHOM_WGMMA_COLUMNS(16, "16", FATHOM_R8, "8", "9", "10", FATHOM_D8(d, 0))
FATHOM_WGMMA_COLUMNS(32, "32", FATHOM_R16, "16", "17", "18", FATHOM_D16(d, 0))
FATHOM_WGMMA_COLUMNS(48, "48", FATHOM_R24, "24", "25", "26", FATHOM_D24(d, 0))
FATHOM_WGMMA_COLUMNS(64, "64", FATHOM_R32, "32", "33", "34", FATHOM_D32(d, 0))
FATHOM_WGMMA_COLUMNS(80, "80", FATHOM_R40, "40", "41", "42", FATHOM_D40(d, 0))
FATHOM_WGMMA_COLUMNS(96, "96", FATHOM_R48, "48", "49", "50", FATHOM_D48(d, 0))
FATHOM_WGMMA_COLUMNS(112, "112", FATHOM_R56, "56", "57", "58", FATHOM_D56(d, 0))
FATHOM_WGMMA_COLUMNS(128, "128", FATHOM_R64, "64", "65", "66", FATHOM_D64(d, 0))
FATHOM_WGMMA(Format::kFp8, 72, "m64n72k32.f32.e4m3.e4m3", "", FATHOM_R36, "36", "37", "38",
             FATHOM_D36(d, 0))
FATHOM_WGMMA(Format::kBF16, 144, "m64n144k16.f32.bf16.bf16", ", 0, 0", FATHOM_R72, "72", "73", "74",
             FATHOM_D72(d, 0))
FATHOM_WGMMA(Format::kBF16, 256, "m64n256k16.f32.bf16.bf16", ", 0, 0", FATHOM_R128, "128", "129",
             "130", FATHOM_D128(d, 0))

#undef FATHOM_WGMMA_COLUMNS
#undef FATHOM_WGMMA
#undef FATHOM_R128
#undef FATHOM_R72
#undef FATHOM_R64
#undef FATHOM_R56
#undef FATHOM_R48
#undef FATHOM_R40
#undef FATHOM_R36
#undef FATHOM_R32
#undef FATHOM_R24
#undef FATHOM_R16
#undef FATHOM_R8
#undef FATHOM_R4
#undef FATHOM_D128
#undef FATHOM_D72
#undef FATHOM_D64
#undef FATHOM_D56
#undef FATHOM_D48
#undef FATHOM_D40
#undef FATHOM_D36
#undef FATHOM_D32
#undef FATHOM_D24
#undef FATHOM_D16
#undef FATHOM_D8
#undef FATHOM_D4

}  // namespace fathom::kernels
