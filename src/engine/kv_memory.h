// KvMemory: the bytes behind block ids on one rank. The scheduler hands out block 17; only this
// knows where it lies. Owned by a rank's worker; made at load and fixed from then on.
#pragma once

#include <cstdint>
#include <span>
#include <vector>

#include "fathom/batch.h"
#include "fathom/kv_layout.h"
#include "fathom/ops.h"
#include "fathom/status.h"

namespace fathom {

class KvMemory {
 public:
  // Takes `blocks` blocks (the padding block 0 included) of every layer of `layout` from `ops`.
  // cache_group[i]: where group i of this stage's layout lies in the whole model's layout, which is
  // what plans name.
  static Result<KvMemory> make(Ops& ops, const KvLayout& layout, int32_t blocks,
                               std::span<const int32_t> cache_group);

  // One view per layer of the stage, then one per draft layer, as Model::layers wants them.
  const std::vector<KvView>& views() const { return views_; }
  int64_t bytes() const { return bytes_; }

 private:
  std::vector<KvView> views_;
  int64_t bytes_ = 0;
};

// The groups of every stage by name, in order of first appearance: what the scheduler counts.
// Layers add up; a group's other fields are the same on every stage.
KvLayout merge_layouts(std::span<const KvLayout> stages);

// Index in `whole` of each group of `stage`, by name.
std::vector<int32_t> cache_groups_of(const KvLayout& stage, const KvLayout& whole);

}  // namespace fathom
