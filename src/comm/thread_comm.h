// Comm among threads of one process, for CPU ranks: collectives over shared memory that wait
// without spinning, so that a group may have more ranks than the machine has cores.
#pragma once

#include <memory>
#include <vector>

#include "fathom/comm.h"

namespace fathom {

// One Comm per rank, in rank order; each is used by its rank's thread alone (abort: by any thread).
// Sums are added in rank order, so every rank holds the same bits. Shapes and dtypes must agree
// across the ranks of a call: a broken invariant otherwise. Once aborted, a group stays so; a
// tensor of an interrupted call holds anything.
std::vector<std::unique_ptr<Comm>> make_thread_group(int32_t size);

}  // namespace fathom
