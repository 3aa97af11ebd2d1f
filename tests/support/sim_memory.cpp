// Blocks with content, so that a wrong block shows as a wrong token.
#include "support/sim_memory.h"

#include <algorithm>
#include <utility>

#include "support/sim_random.h"

namespace fathom {

SimMemory::SimMemory(int32_t block_tokens, std::vector<std::optional<int32_t>> windows,
                     const std::vector<int32_t>& blocks, int32_t slots)
    : block_tokens_(block_tokens), windows_(std::move(windows)), tables_(slots) {
  for (size_t g = 0; g < windows_.size(); ++g) {
    values_.emplace_back(size_t(blocks[g]) * block_tokens, poison_);
    writers_.emplace_back(blocks[g], SlotId{0});
    holders_.emplace_back(blocks[g]);
  }
  for (SimBlockTable& table : tables_) table.groups.resize(windows_.size());
}

void SimMemory::report(std::string what) {
  if (!violation_) violation_ = std::move(what);
}

void SimMemory::open(SlotId slot) {
  for (auto& blocks : tables_[slot].groups) blocks.clear();
}

void SimMemory::close(SlotId slot) {
  for (int32_t g = 0; g < groups(); ++g) {
    for (BlockId block : tables_[slot].groups[g]) {
      std::erase_if(holders_[g][block], [slot](const Holder& h) { return h.slot == slot; });
      if (writers_[g][block] == slot) writers_[g][block] = 0;
    }
    tables_[slot].groups[g].clear();
  }
}

// Whether the rows of the holder's slot may still read the block.
bool SimMemory::still_reads(const Holder& holder, int32_t group,
                            const std::vector<int32_t>& computed) const {
  if (!windows_[group]) return true;
  return (holder.index + 1) * block_tokens_ > computed[holder.slot] - *windows_[group];
}

void SimMemory::append(const AppendBlocks& append, int32_t shared,
                       const std::vector<int32_t>& computed) {
  const int32_t g = append.group;
  std::vector<BlockId>& table = tables_[append.slot].groups[g];
  if (append.first < static_cast<int32_t>(table.size())) return report("blocks appended twice");
  table.resize(append.first, 0);
  for (BlockId block : append.blocks) {
    if (block <= 0 || block >= static_cast<BlockId>(holders_[g].size())) {
      return report("a plan appends a block that does not exist");
    }
    const auto index = static_cast<int32_t>(table.size());
    auto& holders = holders_[g][block];
    if (index >= shared) {
      for (const Holder& h : holders) {
        if (still_reads(h, g, computed)) {
          report("slot " + std::to_string(append.slot) + " gets block " + std::to_string(block) +
                 " that slot " + std::to_string(h.slot) + " still holds");
        }
      }
      poison_ = mix_bits(poison_);
      std::fill_n(values_[g].begin() + int64_t{block} * block_tokens_, block_tokens_, poison_);
      writers_[g][block] = append.slot;
    }
    std::erase_if(holders, [&](const Holder& h) { return !still_reads(h, g, computed); });
    holders.push_back({append.slot, index});
    table.push_back(block);
  }
}

uint64_t* SimMemory::at(SlotId slot, int32_t group, int32_t position) {
  const std::vector<BlockId>& table = tables_[slot].groups[group];
  const int32_t index = position / block_tokens_;
  const BlockId block = index < static_cast<int32_t>(table.size()) ? table[index] : 0;
  if (block == 0) {
    report("slot " + std::to_string(slot) + " touches position " + std::to_string(position) +
           " where it has no block");
  }
  return &values_[group][int64_t{block} * block_tokens_ + position % block_tokens_];
}

void SimMemory::write(SlotId slot, int32_t position, uint64_t value) {
  for (int32_t g = 0; g < groups(); ++g) {
    uint64_t* target = at(slot, g, position);
    const int64_t block = (target - values_[g].data()) / block_tokens_;
    if (writers_[g][block] != slot) {
      report("slot " + std::to_string(slot) + " writes to block " + std::to_string(block) +
             " that is not its own");
    }
    *target = value;
  }
}

uint64_t SimMemory::read(SlotId slot, int32_t group, int32_t position) {
  return *at(slot, group, position);
}

uint64_t SimMemory::sum(SlotId slot, int32_t group, int32_t position) {
  int32_t p = windows_[group] ? std::max(0, position - *windows_[group]) : 0;
  uint64_t total = 0;
  while (p <= position) {
    const int32_t end = std::min(position + 1, (p / block_tokens_ + 1) * block_tokens_);
    const uint64_t* values = at(slot, group, p);
    for (; p < end; ++p) total += *values++;
  }
  return total;
}

}  // namespace fathom
