// Which vector instructions the products of the CPU backend use. The bits of a result are the same
// with either: a wider register holds the lanes of two outputs, never more lanes of one.
#pragma once

#include <cstdint>

namespace fathom {

enum class Instructions : uint8_t {
  kAvx2,    // the build's floor, x86-64-v3
  kAvx512,  // F, BW, DQ and VL
};

// The widest that this processor and its operating system have.
Instructions widest_instructions();

}  // namespace fathom
