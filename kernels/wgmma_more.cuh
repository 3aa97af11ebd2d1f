// More widths of the warpgroup product of bf16 (wgmma.cuh).
#pragma once

#include "wgmma.cuh"

namespace fathom::kernels {

#define FATHOM_D4(d, i) "+f"(d[i]), "+f"(d[(i) + 1]), "+f"(d[(i) + 2]), "+f"(d[(i) + 3])
#define FATHOM_D12(d, i) FATHOM_D4(d, i), FATHOM_D4(d, (i) + 4), FATHOM_D4(d, (i) + 8)
#define FATHOM_D28(d, i) FATHOM_D12(d, i), FATHOM_D12(d, (i) + 12), FATHOM_D4(d, (i) + 24)
#define FATHOM_D36(d, i) FATHOM_D28(d, i), FATHOM_D4(d, (i) + 28), FATHOM_D4(d, (i) + 32)
#define FATHOM_R28                                                                           \
  "%0, %1, %2, %3, %4, %5, %6, %7, %8, %9, %10, %11, %12, %13, %14, %15, %16, %17, %18, %19" \
  ", %20, %21, %22, %23, %24, %25, %26, %27"
#define FATHOM_R36 FATHOM_R28 ", %28, %29, %30, %31, %32, %33, %34, %35"

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

FATHOM_WGMMA(Format::kBF16, 56, "m64n56k16.f32.bf16.bf16", ", 0, 0", FATHOM_R28, "28", "29", "30",
             FATHOM_D28(d, 0))
FATHOM_WGMMA(Format::kBF16, 72, "m64n72k16.f32.bf16.bf16", ", 0, 0", FATHOM_R36, "36", "37", "38",
             FATHOM_D36(d, 0))

#undef FATHOM_WGMMA
#undef FATHOM_R36
#undef FATHOM_R28
#undef FATHOM_D36
#undef FATHOM_D28
#undef FATHOM_D12
#undef FATHOM_D4

}  // namespace fathom::kernels
