// How a KV cache of e4m3 numbers lies in memory (`kv_cache_dtype: fp8`): codes with scales beside
// them, as bytes. A cache's tensor is then [blocks, block_tokens, entry_bytes] of kF8E4M3. A group
// of numbers x is stored as e4m3(x / s) with s = max(|x|, 1e-4) / 448, x rounded to bf16 first; it
// is read as code * s. Values; no thread owns them.
#pragma once

#include <cstdint>

namespace fathom {

// Keys and values of grouped attention: a scale for each token, head and half (0 keys, 1 values),
// rounded up to a bf16 number, so that the largest code stays 448 and the largest number nearly
// exact.
// A block is a run of memory for each head: the codes [(keys, values), block_tokens, head_dims],
// then the scales [(keys, values), block_tokens]: what one head's attention reads of a block lies
// together.
struct Fp8HeadsLayout {
  static constexpr int64_t kScaleBytes = 2;
  int64_t kv_heads = 0;
  int64_t head_dims = 0;
  int64_t block_tokens = 0;

  int64_t code_bytes() const { return 2 * kv_heads * head_dims; }  // of a token
  int64_t entry_bytes() const { return code_bytes() + 2 * kv_heads * kScaleBytes; }
  int64_t block_bytes() const { return block_tokens * entry_bytes(); }
  int64_t head_bytes() const { return 2 * block_tokens * (head_dims + kScaleBytes); }  // of a block
  // Bytes from the block's start.
  int64_t codes_at(int64_t token, int64_t half, int64_t head) const {
    return head * head_bytes() + (half * block_tokens + token) * head_dims;
  }
  int64_t scale_at(int64_t token, int64_t half, int64_t head) const {
    return head * head_bytes() + 2 * block_tokens * head_dims +
           (half * block_tokens + token) * kScaleBytes;
  }
};

// An entry of latent attention: the latent's codes, a float32 scale for each 128 of them, the rope
// key as bf16. 656 bytes for DeepSeek-V2 and V3.
struct Fp8LatentLayout {
  static constexpr int64_t kGroup = 128;
  int64_t kv_lora = 0;
  int64_t rope_dims = 0;

  int64_t groups() const { return (kv_lora + kGroup - 1) / kGroup; }
  int64_t scales_at() const { return (kv_lora + 3) / 4 * 4; }
  int64_t rope_at() const { return scales_at() + 4 * groups(); }
  int64_t entry_bytes() const { return rope_at() + 2 * rope_dims; }
};

}  // namespace fathom
