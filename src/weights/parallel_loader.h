// Brings mapped weights into memory before they are used, by several threads: a load then runs at
// the disk's rate instead of one page fault after another, and a file that was cut short while
// mapped is an error here instead of a SIGBUS later.
#pragma once

#include <cstddef>
#include <cstdint>
#include <functional>
#include <span>
#include <string>
#include <vector>

#include "fathom/status.h"
#include "weights/checkpoint.h"

namespace fathom {

// Called on the thread that called prefault, about ten times a second and at the end.
using LoadProgress = std::function<void(int64_t bytes_done, int64_t bytes_total)>;

// Reads `ranges` of mapped memory into the page cache and maps them. `threads` is at least one.
// DATA_LOSS when a page cannot be read.
Status prefault(std::vector<std::span<const std::byte>> ranges, unsigned threads,
                const LoadProgress& on_progress);

// The same for the named tensors of a checkpoint; all of them when `names` is empty.
Status prefault(const Checkpoint& checkpoint, const std::vector<std::string>& names,
                unsigned threads, const LoadProgress& on_progress);

}  // namespace fathom
