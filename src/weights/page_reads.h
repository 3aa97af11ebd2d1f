// Pages of a mapped file, read before they are touched: what a touch would answer with SIGBUS comes
// back as an error. Pure; any thread.
#pragma once

#include <cstddef>
#include <span>

namespace fathom {

// Makes the pages of `bytes` present. 0, or the errno that says why they cannot be read (EFAULT:
// they lie behind the file's end).
int read_pages(std::span<const std::byte> bytes);

}  // namespace fathom
