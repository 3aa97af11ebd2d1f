// KeyedHasher over xxHash: the 32-byte key is stretched once to a 192-byte XXH3 secret.
#include "base/hash.h"

#include <sys/random.h>

#include <cstdio>

#define XXH_STATIC_LINKING_ONLY  // the state's size and XXH3_generateSecret; the symbols are the
                                 // library's
#include <xxhash.h>

#include "fathom/check.h"

namespace fathom {
namespace {

Hash128 to_hash(XXH128_hash_t h) { return {h.low64, h.high64}; }

}  // namespace

std::string to_hex(const Hash128& hash) {
  char text[33];
  std::snprintf(text, sizeof text, "%016llx%016llx", static_cast<unsigned long long>(hash.high),
                static_cast<unsigned long long>(hash.low));
  return text;
}

KeyedHasher::KeyedHasher(const Key& key) {
  XXH_errorcode code = XXH3_generateSecret(secret_.data(), secret_.size(), key.data(), key.size());
  FATHOM_CHECK(code == XXH_OK, "XXH3_generateSecret refused a 192-byte secret");
}

KeyedHasher::Key KeyedHasher::random_key() {
  Key key;
  ssize_t n = getrandom(key.data(), key.size(), 0);  // at most 256 bytes: never short
  FATHOM_CHECK(n == static_cast<ssize_t>(key.size()), "getrandom failed");
  return key;
}

Hash128 KeyedHasher::hash(std::span<const std::byte> bytes) const {
  return to_hash(
      XXH3_128bits_withSecret(bytes.data(), bytes.size(), secret_.data(), secret_.size()));
}

Hash128 KeyedHasher::hash(std::initializer_list<std::span<const std::byte>> parts) const {
  XXH3_state_t state;
  XXH3_INITSTATE(&state);
  XXH3_128bits_reset_withSecret(&state, secret_.data(), secret_.size());
  for (std::span<const std::byte> part : parts) {
    const uint64_t length = part.size();
    XXH3_128bits_update(&state, &length, sizeof length);
    XXH3_128bits_update(&state, part.data(), part.size());
  }
  return to_hash(XXH3_128bits_digest(&state));
}

}  // namespace fathom
