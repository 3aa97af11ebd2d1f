// Expands the generated ranges into a flat table once.
#include "text/unicode_class.h"

#include <algorithm>
#include <iterator>

namespace fathom::text {
namespace {

struct ClassRange {
  std::uint32_t first;
  std::uint8_t bits;
};

#include "text/unicode_ranges.inc"

constexpr std::uint32_t kCodePoints = 0x110000;

}  // namespace

const UnicodeTable& UnicodeTable::get() {
  static const UnicodeTable table;
  return table;
}

UnicodeTable::UnicodeTable() : bits_(kCodePoints) {
  for (std::size_t i = 0; i < std::size(kClassRanges); ++i) {
    const std::uint32_t end =
        i + 1 < std::size(kClassRanges) ? kClassRanges[i + 1].first : kCodePoints;
    std::fill(bits_.begin() + kClassRanges[i].first, bits_.begin() + end, kClassRanges[i].bits);
  }
}

std::string_view newer_than_unicode14(char category) {
  switch (category) {
    case 'L': return kNewLetter;
    case 'M': return kNewMark;
    case 'N': return kNewNumber;
    case 'P': return kNewPunct;
    case 'S': return kNewSymbol;
    default: return {};
  }
}

}  // namespace fathom::text
