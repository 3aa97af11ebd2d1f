// SimRandom: a small seeded generator with the same numbers on every machine (the standard's
// distributions differ between libraries). One thread.
#pragma once

#include <cstdint>

namespace fathom {

// Mixes the bits of one number (the finaliser of SplitMix64).
constexpr uint64_t mix_bits(uint64_t x) {
  x ^= x >> 30;
  x *= 0xBF58476D1CE4E5B9ULL;
  x ^= x >> 27;
  x *= 0x94D049BB133111EBULL;
  return x ^ (x >> 31);
}

class SimRandom {
 public:
  explicit SimRandom(uint64_t seed) : state_(mix_bits(seed + 1)) {}

  uint64_t next() { return mix_bits(state_ += 0x9E3779B97F4A7C15ULL); }
  // In [low, high].
  int32_t between(int32_t low, int32_t high) {
    return low + static_cast<int32_t>(next() % (static_cast<uint64_t>(high - low) + 1));
  }
  // True once in `n` on average; never for 0.
  bool one_in(int32_t n) { return n > 0 && next() % static_cast<uint64_t>(n) == 0; }

 private:
  uint64_t state_;
};

}  // namespace fathom
