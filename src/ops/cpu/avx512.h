// What the files of 512-bit functions share. Such a function carries its instruction set itself:
// a whole file compiled for these registers would emit shared headers' functions for them, too, and
// the linker might choose those for every machine.
#pragma once

// g++ 12 takes the undefined operands of these functions for mistakes.
#pragma GCC diagnostic push
#pragma GCC diagnostic ignored "-Wuninitialized"
#ifndef __clang__
#pragma GCC diagnostic ignored "-Wmaybe-uninitialized"
#endif
#include <immintrin.h>
#pragma GCC diagnostic pop

#define FATHOM_AVX512 __attribute__((target("avx512f,avx512bw,avx512dq,avx512vl")))
