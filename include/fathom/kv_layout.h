// KvLayout: what a model caches per token, as groups that the scheduler counts and never looks
// into.
#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <vector>

#include "fathom/tensor.h"

namespace fathom {

// One kind of cache. A block holds block_tokens / tokens_per_entry entries of every layer of the
// group.
struct KvGroup {
  std::string name;
  DType dtype = DType::kBF16;
  int32_t entry_elements = 0;  // per layer; e.g. 512 + 64 for a V3 latent with its rope key
  int32_t tokens_per_entry = 1;
  int32_t layers = 0;                    // on this rank's pipeline stage
  std::optional<int32_t> window_tokens;  // empty: grows with the sequence
  bool sharded = false;                  // over tensor-parallel ranks; else replicated
  bool draft = false;                    // belongs to a drafter's layer
  bool latent = false;                   // keys and values are made from the entries

  int64_t block_bytes(int32_t block_tokens) const {
    return int64_t{layers} * (block_tokens / tokens_per_entry) * entry_elements *
           dtype_bytes(dtype);
  }
};

// Per model and stage. The hash unit (tokens a block stands for) is the same in every group.
struct KvLayout {
  int32_t block_tokens = 64;
  std::vector<KvGroup> groups;

  int64_t block_bytes() const {
    int64_t n = 0;
    for (const KvGroup& g : groups) n += g.block_bytes(block_tokens);
    return n;
  }
};

}  // namespace fathom
