// XXH3-128 under a secret: names for KV blocks and caches that a client cannot aim at.
// Not cryptographic: whoever trusts a match compares the hashed data too (the prefix cache does).
#pragma once

#include <array>
#include <compare>
#include <cstddef>
#include <cstdint>
#include <initializer_list>
#include <span>
#include <string>
#include <string_view>

namespace fathom {

struct Hash128 {
  uint64_t low = 0;
  uint64_t high = 0;
  auto operator<=>(const Hash128&) const = default;
};

// For unordered containers: the bits are already uniform.
struct Hash128Hasher {
  size_t operator()(const Hash128& h) const { return static_cast<size_t>(h.low); }
};

// 32 hexadecimal digits, high half first.
std::string to_hex(const Hash128& hash);

// Immutable after construction: any thread.
class KeyedHasher {
 public:
  static constexpr size_t kKeyBytes = 32;
  using Key = std::array<std::byte, kKeyBytes>;

  explicit KeyedHasher(const Key& key);

  // A key from the kernel's random generator, new in every call; ends the process if the kernel has
  // none.
  static Key random_key();

  Hash128 hash(std::span<const std::byte> bytes) const;
  // The parts are framed by their lengths: ("ab","c") and ("a","bc") differ.
  Hash128 hash(std::initializer_list<std::span<const std::byte>> parts) const;

 private:
  std::array<std::byte, 192> secret_;
};

// The bytes of a trivially copyable value, of a text, or of a contiguous range of values.
template <typename T>
std::span<const std::byte> bytes_of(const T& value) {
  if constexpr (requires { std::span(value); }) {
    return std::as_bytes(std::span(value));
  } else {
    static_assert(std::is_trivially_copyable_v<T>);
    return std::as_bytes(std::span(&value, 1));
  }
}

}  // namespace fathom
