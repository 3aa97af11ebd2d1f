// What a chunk of a prompt costs a step, by its tokens and by the cache that they attend to: pure
// functions of values.
#pragma once

#include <cstdint>
#include <limits>

namespace fathom {

// What prompts' rows of a step amount to.
struct PromptWork {
  double tokens = 0.0;
  double pairs = 0.0;  // of one of those tokens and one of its cached ones, weighted as below

  PromptWork& operator+=(const PromptWork& other) {
    tokens += other.tokens;
    pairs += other.pairs;
    return *this;
  }
};

// How the pairs of a chunk count. Where keys and values are made from latents, few tokens attend to
// the latents themselves; from `dear_tokens` on it is cheaper to make keys and values of the whole
// cache once, and a further token costs `later_share` of an earlier one.
struct ChunkShape {
  int32_t dear_tokens = std::numeric_limits<int32_t>::max();
  double later_share = 1.0;

  // `tokens` of one prompt after `context` that are in the cache.
  PromptWork work(int32_t tokens, int32_t context) const;
};

// Latents of 512 and 64 numbers, heads of 128 + 64 and 128 (DeepSeek-V2, V3), at the rates that the
// GPU kernels of both forms reach.
inline constexpr ChunkShape kLatentChunks{192, 0.3};

// Prices in microseconds.
struct ChunkPrices {
  double step_us = 0.0;  // of any prompts beside rows that decode
  double token_us = 0.0;
  double pair_us = 0.0;

  // Beside step_us.
  double us(const PromptWork& work) const { return token_us * work.tokens + pair_us * work.pairs; }
};

// The most tokens after `context` that cost at most `us` beside step_us, no more than `tokens_max`.
int32_t tokens_within(double us, const ChunkPrices& prices, const ChunkShape& shape,
                      int32_t context, int32_t tokens_max);

}  // namespace fathom
