// SimMemory: the cached values that a simulated rank holds in its blocks, and who may write them.
// Fresh and forgotten memory is poison. Owned by SimExecutor; its thread.
#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <vector>

#include "fathom/plan.h"

namespace fathom {

// One slot's blocks as a rank sees them.
struct SimBlockTable {
  std::vector<std::vector<BlockId>> groups;  // by block index; 0: never appended
};

class SimMemory {
 public:
  // blocks: per group, padding counted. windows: per group.
  SimMemory(int32_t block_tokens, std::vector<std::optional<int32_t>> windows,
            const std::vector<int32_t>& blocks, int32_t slots);

  int32_t groups() const { return static_cast<int32_t>(values_.size()); }
  std::optional<int32_t> window(int32_t group) const { return windows_[group]; }

  void open(SlotId slot);
  void close(SlotId slot);
  // Blocks below `shared` (a block index) come from the prefix cache: read only. The others are
  // new: nobody else may hold them, and their content is poison. `computed`: of every slot.
  void append(const AppendBlocks& append, int32_t shared, const std::vector<int32_t>& computed);

  // Writes a position's value to every group.
  void write(SlotId slot, int32_t position, uint64_t value);
  uint64_t read(SlotId slot, int32_t group, int32_t position);
  // The sum over what `group` reads at `position`.
  uint64_t sum(SlotId slot, int32_t group, int32_t position);

  // The first thing that no correct scheduler asks for.
  const std::optional<std::string>& violation() const { return violation_; }
  void report(std::string what);

 private:
  struct Holder {
    SlotId slot = 0;
    int32_t index = 0;
  };

  uint64_t* at(SlotId slot, int32_t group, int32_t position);
  bool still_reads(const Holder& holder, int32_t group, const std::vector<int32_t>& computed) const;

  int32_t block_tokens_;
  std::vector<std::optional<int32_t>> windows_;
  std::vector<std::vector<uint64_t>> values_;              // [group][block * block_tokens]
  std::vector<std::vector<SlotId>> writers_;               // [group][block]: 0: nobody
  std::vector<std::vector<std::vector<Holder>>> holders_;  // [group][block]
  std::vector<SimBlockTable> tables_;                      // [slot]
  std::optional<std::string> violation_;
  uint64_t poison_ = 0xDEADDEADDEADDEADULL;
};

}  // namespace fathom
