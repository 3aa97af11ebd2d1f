// Where a row of cached tokens may be cut: fixed absolute positions, so that the order of its sums
// is a function of its own length and never of the batch. Blocks are of 64 tokens. Pure arithmetic,
// tested without a GPU.
#pragma once

#include <cstdint>

namespace fathom::kernels {

// Stretches are short where sequences begin, so that one sequence alone fills the GPU, and longer
// further on, so that their partial results stay few: 2 blocks up to 1,024 tokens, 4 up to 4,096,
// 8 up to 32,768, then 32.
constexpr int32_t mla_stretch(int32_t block) {
  return block < 16 ? 2 : block < 64 ? 4 : block < 512 ? 8 : 32;
}

// The last cut at or before `block`.
constexpr int32_t mla_cut_before(int32_t block) { return block & ~(mla_stretch(block) - 1); }

// The first cut after `block`.
constexpr int32_t mla_cut_after(int32_t block) {
  return mla_cut_before(block) + mla_stretch(block);
}

// The cut that is nearest to `block`; of two the later.
constexpr int32_t mla_nearest_cut(int32_t block) {
  return mla_cut_before(block + mla_stretch(block) / 2);
}

// The number of the stretch that `block` is in.
constexpr int32_t mla_stretch_number(int32_t block) {
  return block < 16    ? block / 2
         : block < 64  ? 8 + (block - 16) / 4
         : block < 512 ? 20 + (block - 64) / 8
                       : 76 + (block - 512) / 32;
}

}  // namespace fathom::kernels
