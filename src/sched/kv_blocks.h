// KvBlocks: the block pools of every cache group together with the prefix cache over them. Keeps
// "this block holds that prefix" true on both sides. Owned by the Scheduler; engine thread.
#pragma once

#include <cstdint>
#include <optional>
#include <span>
#include <vector>

#include "fathom/kv_layout.h"
#include "sched/block_pool.h"
#include "sched/prefix_cache.h"

namespace fathom {

// The longest cached prefix of a prompt that every group can continue from.
struct PrefixMatch {
  int32_t blocks = 0;
  std::vector<CacheEntryId> entries;  // of blocks [0, blocks), at least
  PrefixCache::Serial last = PrefixCache::kRoot;
};

class KvBlocks {
 public:
  // blocks: per group of the layout, padding block counted.
  KvBlocks(const KvLayout& layout, const std::vector<int32_t>& blocks, uint64_t layout_id,
           BlockHash hash);

  int32_t groups() const { return static_cast<int32_t>(pools_.size()); }
  int32_t block_tokens() const { return block_tokens_; }
  const BlockPool& pool(int32_t group) const { return pools_[group]; }
  PrefixCache& cache() { return cache_; }

  bool is_window(int32_t group) const { return window_blocks_[group].has_value(); }
  // Window groups: blocks that lie (also partly) within the window before a block boundary.
  int32_t window_blocks(int32_t group) const { return *window_blocks_[group]; }
  int32_t window_tokens(int32_t group) const { return window_tokens_[group]; }
  // First block of [0, blocks) that `group` needs to continue from boundary `blocks`.
  int32_t first_needed(int32_t group, int32_t blocks) const;

  BlockId allocate(int32_t group);
  // Leaves a cached block cached.
  void release(int32_t group, BlockId block) { pools_[group].release(block); }
  // The block is not worth keeping: it is free once nobody else holds it.
  void release_forgotten(int32_t group, BlockId block);

  // At most `blocks_max` blocks of `tokens`, whose chained hashes are `hashes`.
  void match(uint64_t tenant, std::span<const TokenId> tokens, std::span<const Hash128> hashes,
             int32_t blocks_max, PrefixMatch& found) const;
  // Of a match's blocks in `group`, how many nobody references now: taking them uses them up.
  int32_t unreferenced(const PrefixMatch& found, int32_t group) const;
  // Block `index` of a match in `group`, with a reference for the caller.
  BlockId take(const PrefixMatch& found, int32_t group, int32_t index);

  // A committed full block: `tokens` after `parent` lie in `blocks` (per group, padding: not held).
  // What is cached already stays as it is. Returns the serial that the next block's parent is.
  PrefixCache::Serial remember(const Hash128& hash, PrefixCache::Serial parent, uint64_t tenant,
                               std::span<const TokenId> tokens, std::span<const BlockId> blocks);

  // references: [group][block] what the sequences hold.
  Status find_broken_invariant(const std::vector<std::vector<int32_t>>& references) const;

 private:
  friend class SchedulerTestAccess;

  void erase(CacheEntryId id);

  int32_t block_tokens_;
  std::vector<BlockPool> pools_;
  std::vector<std::optional<int32_t>> window_blocks_;
  std::vector<int32_t> window_tokens_;
  PrefixCache cache_;
};

}  // namespace fathom
