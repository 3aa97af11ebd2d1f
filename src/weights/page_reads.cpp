// madvise(MADV_POPULATE_READ).
#include "weights/page_reads.h"

#include <sys/mman.h>
#include <unistd.h>

#include <cerrno>
#include <cstdint>

namespace fathom {

int read_pages(std::span<const std::byte> bytes) {
  if (bytes.empty()) return 0;
  const auto page = static_cast<uintptr_t>(::sysconf(_SC_PAGESIZE));
  const auto begin = reinterpret_cast<uintptr_t>(bytes.data()) / page * page;
  const auto end = reinterpret_cast<uintptr_t>(bytes.data()) + bytes.size();
  while (::madvise(reinterpret_cast<void*>(begin), end - begin, MADV_POPULATE_READ) != 0) {
    if (errno == EINTR || errno == EAGAIN) continue;
    if (errno != EINVAL) return errno;
    // A kernel before 5.14: only ask for read-ahead; faults come later.
    ::madvise(reinterpret_cast<void*>(begin), end - begin, MADV_WILLNEED);
    return 0;
  }
  return 0;
}

}  // namespace fathom
