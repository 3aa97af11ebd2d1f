// Philox4x32-10 (Salmon et al., "Parallel random numbers: as easy as 1, 2, 3", SC 2011): a counter
// in, four random words out. Pure, so a draw depends on (seed, token index, purpose) and nothing
// else.
#pragma once

#include <array>
#include <cstdint>

namespace fathom {

// What a random number is for; the second word of the counter.
enum class DrawPurpose : uint32_t { kToken = 0 };

inline std::array<uint32_t, 4> philox4x32(std::array<uint32_t, 4> counter,
                                          std::array<uint32_t, 2> key) {
  for (int round = 0; round < 10; ++round) {
    const uint64_t a = uint64_t{0xD2511F53U} * counter[0];
    const uint64_t b = uint64_t{0xCD9E8D57U} * counter[2];
    counter = {static_cast<uint32_t>(b >> 32) ^ counter[1] ^ key[0], static_cast<uint32_t>(b),
               static_cast<uint32_t>(a >> 32) ^ counter[3] ^ key[1], static_cast<uint32_t>(a)};
    key[0] += 0x9E3779B9U;
    key[1] += 0xBB67AE85U;
  }
  return counter;
}

// Uniform in [0, 1), 53 bits.
inline double uniform_draw(uint32_t seed_low, uint32_t seed_high, int32_t token_index,
                           DrawPurpose purpose) {
  const auto words =
      philox4x32({static_cast<uint32_t>(token_index), static_cast<uint32_t>(purpose), 0, 0},
                 {seed_low, seed_high});
  const uint64_t bits = (uint64_t{words[0]} << 21) | (words[1] >> 11);
  return static_cast<double>(bits) * 0x1p-53;
}

}  // namespace fathom
