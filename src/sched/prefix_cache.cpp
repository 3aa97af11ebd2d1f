// Chains of cached blocks by keyed hash.
#include "sched/prefix_cache.h"

#include <algorithm>
#include <cstring>
#include <utility>

#include "fathom/check.h"

namespace fathom {

BlockHash keyed_block_hash(const KeyedHasher::Key& key) {
  return
      [hasher = KeyedHasher(key)](std::span<const std::byte> bytes) { return hasher.hash(bytes); };
}

PrefixCache::PrefixCache(int32_t block_tokens, int32_t groups, uint64_t layout_id, BlockHash hash)
    : block_tokens_(block_tokens),
      groups_(groups),
      layout_id_(layout_id),
      hash_(std::move(hash)),
      scratch_(2 * sizeof(uint64_t) + sizeof(Hash128) + block_tokens * sizeof(TokenId)) {}

void PrefixCache::extend_hashes(uint64_t tenant, std::span<const TokenId> tokens, int32_t count,
                                std::vector<Hash128>& hashes) {
  while (static_cast<int32_t>(hashes.size()) < count) {
    const size_t first = hashes.size() * block_tokens_;
    const Hash128 parent = hashes.empty() ? Hash128{} : hashes.back();
    std::byte* at = scratch_.data();
    const auto put = [&at](const void* data, size_t size) {
      std::memcpy(at, data, size);
      at += size;
    };
    put(&tenant, sizeof tenant);
    put(&layout_id_, sizeof layout_id_);
    put(&parent, sizeof parent);
    put(tokens.data() + first, block_tokens_ * sizeof(TokenId));
    hashes.push_back(hash_(scratch_));
  }
}

std::optional<CacheEntryId> PrefixCache::find_hash(const Hash128& hash) const {
  const auto it = by_hash_.find(hash);
  if (it == by_hash_.end()) return std::nullopt;
  return it->second;
}

std::optional<CacheEntryId> PrefixCache::find(const Hash128& hash, Serial parent, uint64_t tenant,
                                              std::span<const TokenId> tokens) const {
  const std::optional<CacheEntryId> id = find_hash(hash);
  if (!id) return std::nullopt;
  const Entry& e = entries_[*id];
  if (e.parent != parent || e.tenant != tenant || !std::ranges::equal(e.tokens, tokens)) {
    return std::nullopt;
  }
  return id;
}

CacheEntryId PrefixCache::insert(const Hash128& hash, Serial parent, uint64_t tenant,
                                 std::span<const TokenId> tokens) {
  CacheEntryId id = 0;
  if (unused_.empty()) {
    id = static_cast<CacheEntryId>(entries_.size());
    entries_.emplace_back();
  } else {
    id = unused_.back();
    unused_.pop_back();
  }
  Entry& e = entries_[id];
  e.serial = next_serial_++;
  e.parent = parent;
  e.tenant = tenant;
  e.hash = hash;
  e.tokens.assign(tokens.begin(), tokens.end());
  e.blocks.assign(groups_, BlockId{0});
  const bool added = by_hash_.emplace(hash, id).second;
  FATHOM_CHECK(added, "two prefix cache entries with one hash");
  return id;
}

void PrefixCache::set_block(CacheEntryId id, int32_t group, BlockId block) {
  entries_[id].blocks[group] = block;
}

void PrefixCache::clear_block(CacheEntryId id, int32_t group) {
  Entry& e = entries_[id];
  e.blocks[group] = 0;
  if (std::ranges::any_of(e.blocks, [](BlockId block) { return block != 0; })) return;
  by_hash_.erase(e.hash);
  e.serial = kRoot;
  unused_.push_back(id);
}

}  // namespace fathom
