// Byte string -> token id, built once: the vocabulary of a tokenizer. Immutable after load; any
// thread.
#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

namespace fathom::text {

using TokenId = std::int32_t;

// Open addressing at a load of at most one half. Strings of at most eight bytes, which most pieces
// of text are, are compared inside their slot; longer ones in the arena.
class TokenMap {
 public:
  explicit TokenMap(std::size_t expected_tokens);

  // False when `bytes` is already there or is empty.
  bool insert(std::string_view bytes, TokenId id);
  std::optional<TokenId> find(std::string_view bytes) const;
  std::size_t size() const { return size_; }

  // Calls visit(bytes, id) for every entry, in no order.
  template <typename Visit>
  void for_each(Visit visit) const {
    for (const Slot& slot : slots_) {
      if (slot.length != 0) visit(bytes_of(slot), slot.id);
    }
  }

 private:
  struct Slot {
    std::uint64_t key;     // the bytes themselves (length <= 8) or their hash
    std::uint32_t length;  // 0: empty
    std::uint32_t offset;  // into arena_
    TokenId id;
  };

  static std::uint64_t key_of(std::string_view bytes);
  std::string_view bytes_of(const Slot& slot) const {
    return std::string_view(arena_).substr(slot.offset, slot.length);
  }
  std::size_t slot_of(std::string_view bytes, std::uint64_t key) const;
  void grow();

  std::vector<Slot> slots_;
  std::string arena_;
  std::size_t size_ = 0;
};

}  // namespace fathom::text
