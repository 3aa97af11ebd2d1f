// The hash table of the vocabulary.
#include "text/token_map.h"

#include <bit>
#include <cstring>

namespace fathom::text {
namespace {

constexpr std::size_t kInline = 8;

std::uint64_t mix(std::uint64_t x) {
  x ^= x >> 32;
  x *= 0x9E3779B97F4A7C15ULL;
  return x ^ (x >> 29);
}

std::uint64_t load_up_to_8(const char* p, std::size_t n) {
  std::uint64_t word = 0;
  std::memcpy(&word, p, n);
  return word;
}

}  // namespace

TokenMap::TokenMap(std::size_t expected_tokens) : slots_(std::bit_ceil(expected_tokens * 2 + 16)) {}

std::uint64_t TokenMap::key_of(std::string_view bytes) {
  if (bytes.size() <= kInline) return load_up_to_8(bytes.data(), bytes.size());
  std::uint64_t hash = bytes.size();
  std::size_t i = 0;
  for (; i + 8 <= bytes.size(); i += 8) hash = mix(hash ^ load_up_to_8(bytes.data() + i, 8)) + i;
  return mix(hash ^ load_up_to_8(bytes.data() + i, bytes.size() - i));
}

// The slot that holds `bytes`, or the empty one where they belong.
std::size_t TokenMap::slot_of(std::string_view bytes, std::uint64_t key) const {
  const std::size_t mask = slots_.size() - 1;
  std::size_t i = mix(key + bytes.size()) & mask;
  while (true) {
    const Slot& slot = slots_[i];
    if (slot.length == 0) return i;
    if (slot.key == key && slot.length == bytes.size() &&
        (bytes.size() <= kInline || bytes_of(slot) == bytes)) {
      return i;
    }
    i = (i + 1) & mask;
  }
}

bool TokenMap::insert(std::string_view bytes, TokenId id) {
  if (bytes.empty()) return false;
  if ((size_ + 1) * 2 > slots_.size()) grow();
  const std::uint64_t key = key_of(bytes);
  Slot& slot = slots_[slot_of(bytes, key)];
  if (slot.length != 0) return false;
  slot = {key, static_cast<std::uint32_t>(bytes.size()), static_cast<std::uint32_t>(arena_.size()),
          id};
  arena_.append(bytes);
  ++size_;
  return true;
}

std::optional<TokenId> TokenMap::find(std::string_view bytes) const {
  if (bytes.empty()) return std::nullopt;
  const Slot& slot = slots_[slot_of(bytes, key_of(bytes))];
  if (slot.length == 0) return std::nullopt;
  return slot.id;
}

void TokenMap::grow() {
  std::vector<Slot> old(slots_.size() * 2);
  old.swap(slots_);
  for (const Slot& slot : old) {
    if (slot.length != 0) slots_[slot_of(bytes_of(slot), slot.key)] = slot;
  }
}

}  // namespace fathom::text
