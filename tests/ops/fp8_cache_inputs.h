// Caches of e4m3 numbers for the cases of attention: quantized here by their definition
// (fathom/fp8_cache.h), and the values that they then stand for.
#pragma once

#include <vector>

#include "fathom/fp8_cache.h"
#include "ops/op_inputs.h"

namespace fathom::testing {

// Entries [n, width] whose first `quantized` numbers are e4m3 in groups of `group`; the others are
// bf16.
struct Fp8Entries {
  int64_t width = 0;
  int64_t quantized = 0;
  int64_t group = 0;
  bool bf16_scales = false;

  // What the entries' numbers become.
  std::vector<double> values(std::vector<double> entries) const;
};

// Caches of [blocks, block_tokens] entries, made of `numbers` again and again.
Tensor place_fp8_heads(Ops& ops, const Fp8HeadsLayout& layout, int64_t blocks,
                       const std::vector<float>& numbers);
Tensor place_fp8_latents(Ops& ops, const Fp8LatentLayout& layout, int64_t blocks,
                         int64_t block_tokens, const std::vector<float>& numbers);

}  // namespace fathom::testing
