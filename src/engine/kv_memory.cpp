// Takes the memory of every cache group at load.
#include "engine/kv_memory.h"

#include <algorithm>

namespace fathom {
namespace {

Status add_views(Ops& ops, const KvGroup& group, int32_t cache_group, int32_t blocks,
                 int32_t block_tokens, std::vector<KvView>& views) {
  const int64_t entries = block_tokens / group.tokens_per_entry;
  for (int32_t layer = 0; layer < group.layers; ++layer) {
    FATHOM_ASSIGN(Tensor cache, ops.reserve(group.dtype, {blocks, entries, group.entry_elements}));
    views.push_back(KvView{cache, cache_group, block_tokens});
  }
  return Status::ok();
}

}  // namespace

Result<KvMemory> KvMemory::make(Ops& ops, const KvLayout& layout, int32_t blocks,
                                std::span<const int32_t> cache_group) {
  FATHOM_CHECK(cache_group.size() == layout.groups.size(), "one cache group per layout group");
  KvMemory memory;
  for (const bool draft : {false, true}) {
    for (size_t i = 0; i < layout.groups.size(); ++i) {
      if (layout.groups[i].draft != draft) continue;
      FATHOM_RETURN_IF_ERROR(add_views(ops, layout.groups[i], cache_group[i], blocks,
                                       layout.block_tokens, memory.views_));
    }
  }
  memory.bytes_ = int64_t{blocks} * layout.block_bytes();
  return memory;
}

KvLayout merge_layouts(std::span<const KvLayout> stages) {
  KvLayout whole;
  if (!stages.empty()) whole.block_tokens = stages.front().block_tokens;
  for (const KvLayout& stage : stages) {
    for (const KvGroup& group : stage.groups) {
      auto same = [&](const KvGroup& g) { return g.name == group.name; };
      auto at = std::find_if(whole.groups.begin(), whole.groups.end(), same);
      if (at == whole.groups.end()) {
        whole.groups.push_back(group);
      } else {
        at->layers += group.layers;
      }
    }
  }
  return whole;
}

std::vector<int32_t> cache_groups_of(const KvLayout& stage, const KvLayout& whole) {
  std::vector<int32_t> index;
  for (const KvGroup& group : stage.groups) {
    auto same = [&](const KvGroup& g) { return g.name == group.name; };
    auto at = std::find_if(whole.groups.begin(), whole.groups.end(), same);
    FATHOM_CHECK(at != whole.groups.end(), "a stage's cache group is not in the merged layout");
    index.push_back(static_cast<int32_t>(at - whole.groups.begin()));
  }
  return index;
}

}  // namespace fathom
