// BlockPool: ids and reference counts of one cache group's KV blocks. It never sees memory. Owned
// by KvBlocks; engine thread.
#pragma once

#include <cstdint>
#include <optional>
#include <vector>

#include "fathom/plan.h"
#include "fathom/status.h"

namespace fathom {

// Index of a PrefixCache entry; a pool only remembers it.
using CacheEntryId = uint32_t;

// A block is in exactly one state: free; cached (unreferenced, but holds a cached prefix; least
// recently used first to go); or used (referenced at least once, cached or not). Block 0 is padding
// and is never allocated.
class BlockPool {
 public:
  explicit BlockPool(int32_t blocks);  // block 0 counted

  struct Allocation {
    BlockId block = 0;
    std::optional<CacheEntryId> evicted;  // this entry lost its block
  };

  int32_t total() const { return total_; }  // padding left out
  int32_t available() const { return static_cast<int32_t>(free_.size()) + cached_count_; }
  int32_t used_count() const { return total_ - available(); }
  int32_t cached_count() const { return cached_count_; }
  int32_t references(BlockId block) const { return references_[block]; }
  std::optional<CacheEntryId> entry(BlockId block) const;

  // One reference to a block that nobody uses. available() is not 0.
  Allocation allocate();
  // One more reference; takes a cached block out of the order of eviction.
  void add_reference(BlockId block);
  // One reference less; the last one frees the block, or leaves it cached as the newest.
  void release(BlockId block);
  // A used block now holds the prefix of `entry`.
  void set_entry(BlockId block, CacheEntryId entry);
  // The block holds no cached prefix any more; an unreferenced one becomes free.
  void clear_entry(BlockId block);

  // Says what is wrong when states, counts and lists disagree. `references`: what the sequences
  // hold, by block.
  Status find_broken_invariant(const std::vector<int32_t>& references) const;

 private:
  friend class SchedulerTestAccess;

  void link_newest(BlockId block);
  void unlink(BlockId block);

  int32_t total_;
  int32_t cached_count_ = 0;
  std::vector<int32_t> references_;
  std::vector<CacheEntryId> entries_;  // kNoEntry: holds no cached prefix
  // Ring of cached blocks; the padding block is its head: after it the oldest, before it the
  // newest.
  std::vector<BlockId> older_;
  std::vector<BlockId> newer_;
  std::vector<BlockId> free_;
};

}  // namespace fathom
