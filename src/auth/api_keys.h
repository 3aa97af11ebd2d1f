// API keys: who holds which, stored as salted hashes in a text file, and compared in constant time.
// The store is immutable after load and may be read from any thread.
//
// The file: one key a line, `name:salt:hash`.
//   name  1 to 128 of A-Z a-z 0-9 . _ @ / -    who the key belongs to; the same name may have
//   several keys (rotation) salt  16 bytes, 32 lower-case hex digits   lines may share a salt: a
//   look-up costs one HMAC a distinct salt hash  HMAC-SHA-256(key = salt, data = API key), 64
//   lower-case hex digits
// Blank lines and lines that start with '#' are skipped. `fathomctl` writes such lines.
#pragma once

#include <array>
#include <cstdint>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "fathom/status.h"

namespace fathom::auth {

class ApiKeyStore {
 public:
  static constexpr size_t kKeysMax = 10'000;
  static constexpr size_t kFileBytesMax = 4 * 1024 * 1024;
  static constexpr size_t kKeyBytesMax = 512;

  // Errors name the file and the line.
  static Result<ApiKeyStore> load(const std::string& path);
  // The same from text; `source` is what errors call it.
  static Result<ApiKeyStore> parse(std::string_view text, std::string_view source);

  // The name that `key` belongs to. Takes the same time whether and wherever it is found.
  std::optional<std::string> find(std::string_view key) const;

  size_t size() const { return entries_.size(); }

 private:
  using Salt = std::array<uint8_t, 16>;
  using Hash = std::array<uint8_t, 32>;
  struct Entry {
    std::string name;
    size_t salt;  // index into salts_
    Hash hash;
  };
  Status add_line(std::string_view line);

  std::vector<Salt> salts_;
  std::vector<Entry> entries_;
};

// A new random key, "fathom-" and 43 characters of base64url (256 bits).
Result<std::string> generate_api_key();

// The line of the key file for `key`, with a fresh random salt, without a line end.
Result<std::string> make_api_key_line(std::string_view name, std::string_view key);

// The token of an `Authorization: Bearer <token>` value; nullopt when the value has another form.
std::optional<std::string_view> parse_bearer(std::string_view authorization);

}  // namespace fathom::auth
