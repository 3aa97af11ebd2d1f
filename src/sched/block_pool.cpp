// States of one cache group's blocks.
#include "sched/block_pool.h"

#include <limits>
#include <string>

#include "fathom/check.h"

namespace fathom {
namespace {

constexpr CacheEntryId kNoEntry = std::numeric_limits<CacheEntryId>::max();

}  // namespace

BlockPool::BlockPool(int32_t blocks)
    : total_(blocks - 1),
      references_(blocks, 0),
      entries_(blocks, kNoEntry),
      older_(blocks, 0),
      newer_(blocks, 0) {
  FATHOM_CHECK(blocks >= 2, "a cache group needs at least one block beside the padding");
  free_.reserve(total_);
  for (BlockId block = total_; block >= 1; --block) free_.push_back(block);
}

std::optional<CacheEntryId> BlockPool::entry(BlockId block) const {
  if (entries_[block] == kNoEntry) return std::nullopt;
  return entries_[block];
}

BlockPool::Allocation BlockPool::allocate() {
  Allocation made;
  if (!free_.empty()) {
    made.block = free_.back();
    free_.pop_back();
  } else {
    FATHOM_CHECK(cached_count_ > 0, "allocation from an exhausted block pool");
    made.block = newer_[0];
    made.evicted = entries_[made.block];
    entries_[made.block] = kNoEntry;
    unlink(made.block);
  }
  references_[made.block] = 1;
  return made;
}

void BlockPool::add_reference(BlockId block) {
  FATHOM_CHECK(references_[block] > 0 || entries_[block] != kNoEntry, "reference to a free block");
  if (references_[block] == 0) unlink(block);
  ++references_[block];
}

void BlockPool::release(BlockId block) {
  FATHOM_CHECK(block > 0 && references_[block] > 0, "release of a block that is not used");
  if (--references_[block] > 0) return;
  if (entries_[block] == kNoEntry) {
    free_.push_back(block);
  } else {
    link_newest(block);
  }
}

void BlockPool::set_entry(BlockId block, CacheEntryId entry) {
  FATHOM_CHECK(references_[block] > 0 && entries_[block] == kNoEntry,
               "only a used block that holds no prefix yet can become cached");
  entries_[block] = entry;
}

void BlockPool::clear_entry(BlockId block) {
  if (entries_[block] == kNoEntry) return;
  entries_[block] = kNoEntry;
  if (references_[block] > 0) return;
  unlink(block);
  free_.push_back(block);
}

void BlockPool::link_newest(BlockId block) {
  const BlockId newest = older_[0];
  older_[block] = newest;
  newer_[block] = 0;
  newer_[newest] = block;
  older_[0] = block;
  ++cached_count_;
}

void BlockPool::unlink(BlockId block) {
  newer_[older_[block]] = newer_[block];
  older_[newer_[block]] = older_[block];
  --cached_count_;
}

Status BlockPool::find_broken_invariant(const std::vector<int32_t>& references) const {
  std::vector<uint8_t> seen(references_.size(), 0);
  const auto wrong = [](const char* what, BlockId block) {
    return internal_error(std::string(what) + ", block " + std::to_string(block));
  };
  for (BlockId block : free_) {
    if (seen[block]++ != 0) return wrong("a block is free twice", block);
    if (references_[block] != 0) return wrong("a free block is referenced", block);
    if (entries_[block] != kNoEntry) return wrong("a free block is cached", block);
  }
  int32_t cached = 0;
  for (BlockId block = newer_[0]; block != 0 && cached <= total_; block = newer_[block], ++cached) {
    if (seen[block]++ != 0) return wrong("a block is in two states", block);
    if (references_[block] != 0) return wrong("an evictable block is referenced", block);
    if (entries_[block] == kNoEntry) return wrong("an evictable block holds no prefix", block);
  }
  if (cached != cached_count_) return wrong("the count of cached blocks is wrong", 0);
  for (BlockId block = 1; block <= total_; ++block) {
    if (references_[block] != references[block]) return wrong("references are not exact", block);
    if (references_[block] == 0 && seen[block] == 0) return wrong("a block was lost", block);
  }
  return Status::ok();
}

}  // namespace fathom
