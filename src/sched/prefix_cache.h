// PrefixCache: which committed full blocks hold which tokens after which prefix. Ids and hashes
// only. Owned by KvBlocks; engine thread.
#pragma once

#include <cstdint>
#include <functional>
#include <optional>
#include <span>
#include <unordered_map>
#include <vector>

#include "base/hash.h"
#include "fathom/plan.h"
#include "sched/block_pool.h"

namespace fathom {

// Bytes to a 128-bit name. Pure for the life of the process; tests give one that collides.
using BlockHash = std::function<Hash128(std::span<const std::byte>)>;

// XXH3-128 under a secret of this process, so that a client cannot aim at another's blocks.
BlockHash keyed_block_hash(const KeyedHasher::Key& key);

// A prefix is named by its last block: entries form chains through `parent`. An entry is found by
// hash over (tenant, layout, parent hash, tokens) and believed only if tenant, parent and tokens
// are equal too, so that a collision is a miss.
class PrefixCache {
 public:
  // A number no other entry ever had: a parent that was evicted is never mistaken for its
  // successor.
  using Serial = uint64_t;
  static constexpr Serial kRoot = 0;

  struct Entry {
    Serial serial = kRoot;  // kRoot: not in use
    Serial parent = kRoot;
    uint64_t tenant = 0;
    Hash128 hash;
    std::vector<TokenId> tokens;
    std::vector<BlockId> blocks;  // per cache group; padding block: evicted or never kept
  };

  PrefixCache(int32_t block_tokens, int32_t groups, uint64_t layout_id, BlockHash hash);

  // Extends `hashes` (one per block of `tokens`, chained) to `count` blocks.
  void extend_hashes(uint64_t tenant, std::span<const TokenId> tokens, int32_t count,
                     std::vector<Hash128>& hashes);

  // The entry of this block after `parent`, or none.
  std::optional<CacheEntryId> find(const Hash128& hash, Serial parent, uint64_t tenant,
                                   std::span<const TokenId> tokens) const;
  // Whoever has this hash now, equal or not.
  std::optional<CacheEntryId> find_hash(const Hash128& hash) const;
  // A new entry without blocks. No entry has this hash.
  CacheEntryId insert(const Hash128& hash, Serial parent, uint64_t tenant,
                      std::span<const TokenId> tokens);
  void set_block(CacheEntryId id, int32_t group, BlockId block);
  // An entry without blocks is erased.
  void clear_block(CacheEntryId id, int32_t group);

  const Entry& entry(CacheEntryId id) const { return entries_[id]; }
  size_t size() const { return by_hash_.size(); }
  size_t entry_count() const { return entries_.size(); }  // in use or not

 private:
  friend class SchedulerTestAccess;

  int32_t block_tokens_;
  int32_t groups_;
  uint64_t layout_id_;
  BlockHash hash_;
  Serial next_serial_ = kRoot + 1;
  std::vector<Entry> entries_;
  std::vector<CacheEntryId> unused_;
  std::unordered_map<Hash128, CacheEntryId, Hash128Hasher> by_hash_;
  std::vector<std::byte> scratch_;  // bytes to hash
};

}  // namespace fathom
