// Pools and prefix cache, changed together.
#include "sched/kv_blocks.h"

#include <algorithm>
#include <string>
#include <utility>

namespace fathom {

KvBlocks::KvBlocks(const KvLayout& layout, const std::vector<int32_t>& blocks, uint64_t layout_id,
                   BlockHash hash)
    : block_tokens_(layout.block_tokens),
      cache_(layout.block_tokens, static_cast<int32_t>(layout.groups.size()), layout_id,
             std::move(hash)) {
  for (size_t g = 0; g < layout.groups.size(); ++g) {
    const std::optional<int32_t> window = layout.groups[g].window_tokens;
    pools_.emplace_back(blocks[g]);
    window_tokens_.push_back(window.value_or(0));
    window_blocks_.push_back(std::nullopt);
    if (window) window_blocks_.back() = (*window + block_tokens_ - 1) / block_tokens_;
  }
}

int32_t KvBlocks::first_needed(int32_t group, int32_t blocks) const {
  return is_window(group) ? std::max(0, blocks - window_blocks(group)) : 0;
}

BlockId KvBlocks::allocate(int32_t group) {
  const BlockPool::Allocation made = pools_[group].allocate();
  if (made.evicted) cache_.clear_block(*made.evicted, group);
  return made.block;
}

void KvBlocks::release_forgotten(int32_t group, BlockId block) {
  BlockPool& pool = pools_[group];
  if (pool.references(block) == 1) {
    if (const auto entry = pool.entry(block)) {
      cache_.clear_block(*entry, group);
      pool.clear_entry(block);
    }
  }
  pool.release(block);
}

void KvBlocks::match(uint64_t tenant, std::span<const TokenId> tokens,
                     std::span<const Hash128> hashes, int32_t blocks_max,
                     PrefixMatch& found) const {
  found.blocks = 0;
  found.last = PrefixCache::kRoot;
  found.entries.clear();
  std::vector<int32_t> run(pools_.size(), 0);  // per group: blocks in a row that it holds, up to b
  PrefixCache::Serial parent = PrefixCache::kRoot;
  for (int32_t b = 0; b < blocks_max; ++b) {
    const auto id = cache_.find(hashes[b], parent, tenant,
                                tokens.subspan(size_t(b) * block_tokens_, block_tokens_));
    if (!id) return;
    const PrefixCache::Entry& entry = cache_.entry(*id);
    bool complete = true;
    for (int32_t g = 0; g < groups(); ++g) {
      run[g] = entry.blocks[g] == 0 ? 0 : run[g] + 1;
      if (!is_window(g) && run[g] == 0) return;
      complete = complete && run[g] >= b + 1 - first_needed(g, b + 1);
    }
    parent = entry.serial;
    found.entries.push_back(*id);
    if (!complete) continue;
    found.blocks = b + 1;
    found.last = parent;
  }
}

int32_t KvBlocks::unreferenced(const PrefixMatch& found, int32_t group) const {
  int32_t count = 0;
  for (int32_t b = first_needed(group, found.blocks); b < found.blocks; ++b) {
    const BlockId block = cache_.entry(found.entries[b]).blocks[group];
    if (pools_[group].references(block) == 0) ++count;
  }
  return count;
}

BlockId KvBlocks::take(const PrefixMatch& found, int32_t group, int32_t index) {
  const BlockId block = cache_.entry(found.entries[index]).blocks[group];
  pools_[group].add_reference(block);
  return block;
}

void KvBlocks::erase(CacheEntryId id) {
  for (int32_t g = 0; g < groups(); ++g) {
    const BlockId block = cache_.entry(id).blocks[g];
    if (block == 0) continue;
    pools_[g].clear_entry(block);
    cache_.clear_block(id, g);
  }
}

PrefixCache::Serial KvBlocks::remember(const Hash128& hash, PrefixCache::Serial parent,
                                       uint64_t tenant, std::span<const TokenId> tokens,
                                       std::span<const BlockId> blocks) {
  std::optional<CacheEntryId> id = cache_.find(hash, parent, tenant, tokens);
  if (!id) {
    // An unequal entry of this hash is a collision, or the child of an evicted parent: the newer
    // stays.
    if (const auto other = cache_.find_hash(hash)) erase(*other);
    id = cache_.insert(hash, parent, tenant, tokens);
  }
  for (int32_t g = 0; g < groups(); ++g) {
    if (blocks[g] == 0 || cache_.entry(*id).blocks[g] != 0) continue;
    cache_.set_block(*id, g, blocks[g]);
    pools_[g].set_entry(blocks[g], *id);
  }
  return cache_.entry(*id).serial;
}

Status KvBlocks::find_broken_invariant(const std::vector<std::vector<int32_t>>& references) const {
  size_t cached = 0;
  for (int32_t g = 0; g < groups(); ++g) {
    FATHOM_RETURN_IF_ERROR(pools_[g].find_broken_invariant(references[g]));
    for (BlockId block = 1; block <= pools_[g].total(); ++block) {
      const auto id = pools_[g].entry(block);
      if (!id) continue;
      ++cached;
      const PrefixCache::Entry& entry = cache_.entry(*id);
      if (entry.serial == PrefixCache::kRoot || entry.blocks[g] != block) {
        return internal_error("block " + std::to_string(block) +
                              " is cached for a prefix that does not know it");
      }
    }
  }
  size_t known = 0;
  for (size_t id = 0; id < cache_.entry_count(); ++id) {
    const PrefixCache::Entry& entry = cache_.entry(static_cast<CacheEntryId>(id));
    if (entry.serial == PrefixCache::kRoot) continue;
    known += std::ranges::count_if(entry.blocks, [](BlockId block) { return block != 0; });
  }
  if (known != cached) return internal_error("the prefix cache names blocks that hold no prefix");
  return Status::ok();
}

}  // namespace fathom
