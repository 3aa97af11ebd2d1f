// The warpgroup product of bf16 (wgmma.cuh) whose left side lies in registers.
#pragma once

#include "wgmma.cuh"

namespace fathom::kernels {

// d = a b + (keep ? d : 0) over 16 columns of K. Thread t of the warpgroup holds of row
// 16 (t / 32) + t % 32 / 4 the columns 2 (t % 4) + {0, 1} in a[0], of the row eight further in
// a[1], and the columns eight further of both in a[2] and a[3].
template <int kColumns>
struct WgmmaLeft;

#define FATHOM_D4(d, i) "+f"(d[i]), "+f"(d[(i) + 1]), "+f"(d[(i) + 2]), "+f"(d[(i) + 3])
#define FATHOM_D16(d, i) \
  FATHOM_D4(d, i), FATHOM_D4(d, (i) + 4), FATHOM_D4(d, (i) + 8), FATHOM_D4(d, (i) + 12)
#define FATHOM_D32(d, i) FATHOM_D16(d, i), FATHOM_D16(d, (i) + 16)
#define FATHOM_D64(d, i) FATHOM_D32(d, i), FATHOM_D32(d, (i) + 32)
#define FATHOM_R4 "%0, %1, %2, %3"
#define FATHOM_R16 FATHOM_R4 ", %4, %5, %6, %7, %8, %9, %10, %11, %12, %13, %14, %15"
#define FATHOM_R32 \
  FATHOM_R16       \
  ", %16, %17, %18, %19, %20, %21, %22, %23, %24, %25, %26, %27, %28, %29, %30, %31"
#define FATHOM_R64                                                                   \
  FATHOM_R32                                                                         \
  ", %32, %33, %34, %35, %36, %37, %38, %39, %40, %41, %42, %43, %44, %45, %46, %47" \
  ", %48, %49, %50, %51, %52, %53, %54, %55, %56, %57, %58, %59, %60, %61, %62, %63"

// The operands after the accumulators (the last arguments) are numbered from columns / 2.
#define FATHOM_WGMMA_LEFT(columns, name, registers, left_at, b_at, keep_at, ...)            \
  template <>                                                                               \
  struct WgmmaLeft<columns> {                                                               \
    __device__ static void run(float (&d)[(columns) / 2], const uint32_t* a, uint64_t b,    \
                               int keep) {                                                  \
      asm volatile("{\n.reg .pred p;\nsetp.ne.b32 p, %" keep_at                             \
                   ", 0;\n"                                                                 \
                   "wgmma.mma_async.sync.aligned.m64n" name "k16.f32.bf16.bf16 {" registers \
                   "}, {" left_at "}, %" b_at ", p, 1, 1, 0;\n}\n"                          \
                   : __VA_ARGS__                                                            \
                   : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "l"(b), "r"(keep));        \
    }                                                                                       \
  };

FATHOM_WGMMA_LEFT(8, "8", FATHOM_R4, "%4, %5, %6, %7", "8", "9", FATHOM_D4(d, 0))
FATHOM_WGMMA_LEFT(32, "32", FATHOM_R16, "%16, %17, %18, %19", "20", "21", FATHOM_D16(d, 0))
FATHOM_WGMMA_LEFT(64, "64", FATHOM_R32, "%32, %33, %34, %35", "36", "37", FATHOM_D32(d, 0))
FATHOM_WGMMA_LEFT(128, "128", FATHOM_R64, "%64, %65, %66, %67", "68", "69", FATHOM_D64(d, 0))

#undef FATHOM_WGMMA_LEFT
#undef FATHOM_R64
#undef FATHOM_R32
#undef FATHOM_R16
#undef FATHOM_R4
#undef FATHOM_D64
#undef FATHOM_D32
#undef FATHOM_D16
#undef FATHOM_D4

}  // namespace fathom::kernels
