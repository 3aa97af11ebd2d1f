// The key file and the look-up; see api_keys.h.
#include "auth/api_keys.h"

#include <openssl/crypto.h>
#include <openssl/evp.h>
#include <openssl/hmac.h>
#include <openssl/rand.h>

#include <algorithm>
#include <span>

#include "base/file.h"

namespace fathom::auth {

namespace {

constexpr std::string_view kKeyPrefix = "fathom-";
constexpr size_t kNameBytesMax = 128;
constexpr size_t kSecretBytes = 32;

bool is_alnum(char c) {
  return (c >= '0' && c <= '9') || (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z');
}

bool is_key_name(std::string_view name) {
  return !name.empty() && name.size() <= kNameBytesMax &&
         std::all_of(name.begin(), name.end(), [](char c) {
           return is_alnum(c) || std::string_view("._@/-").find(c) != std::string_view::npos;
         });
}

// RFC 6750 2.1 b64token, bounded.
bool is_bearer_token(std::string_view token) {
  const size_t end = token.find_last_not_of('=');
  return end != std::string_view::npos && token.size() <= ApiKeyStore::kKeyBytesMax &&
         std::all_of(token.begin(), token.begin() + static_cast<ptrdiff_t>(end) + 1, [](char c) {
           return is_alnum(c) || std::string_view("-._~+/").find(c) != std::string_view::npos;
         });
}

int hex_digit(char c) {
  if (c >= '0' && c <= '9') return c - '0';
  if (c >= 'a' && c <= 'f') return c - 'a' + 10;
  return -1;
}

// False unless `text` is exactly `bytes` in lower-case hex.
bool read_hex(std::string_view text, std::span<uint8_t> bytes) {
  if (text.size() != 2 * bytes.size()) return false;
  for (size_t i = 0; i < bytes.size(); ++i) {
    const int high = hex_digit(text[2 * i]);
    const int low = hex_digit(text[2 * i + 1]);
    if (high < 0 || low < 0) return false;
    bytes[i] = static_cast<uint8_t>(high * 16 + low);
  }
  return true;
}

void append_hex(std::string& out, std::span<const uint8_t> bytes) {
  static constexpr std::string_view kDigits = "0123456789abcdef";
  for (const uint8_t byte : bytes) {
    out.push_back(kDigits[byte >> 4]);
    out.push_back(kDigits[byte & 15]);
  }
}

// HMAC-SHA-256 of `key` under `salt`. False when OpenSSL fails, which then matches nothing.
bool salted_hash(std::span<const uint8_t, 16> salt, std::string_view key,
                 std::span<uint8_t, 32> hash) {
  unsigned int size = 0;
  return HMAC(EVP_sha256(), salt.data(), static_cast<int>(salt.size()),
              reinterpret_cast<const unsigned char*>(key.data()), key.size(), hash.data(),
              &size) != nullptr &&
         size == hash.size();
}

Status random_bytes(std::span<uint8_t> bytes) {
  if (RAND_bytes(bytes.data(), static_cast<int>(bytes.size())) != 1) {
    return internal_error("the random generator of OpenSSL failed");
  }
  return Status::ok();
}

std::string_view trim(std::string_view line) {
  const size_t first = line.find_first_not_of(" \t\r");
  if (first == std::string_view::npos) return {};
  return line.substr(first, line.find_last_not_of(" \t\r") - first + 1);
}

}  // namespace

Result<ApiKeyStore> ApiKeyStore::load(const std::string& path) {
  auto text = read_file(path, kFileBytesMax);
  if (!text.is_ok()) {
    const Status status = text.status();
    return Status(status.code(), "api_key_file: " + status.message()).about("api_key_file");
  }
  return parse(*text, path);
}

Result<ApiKeyStore> ApiKeyStore::parse(std::string_view text, std::string_view source) {
  ApiKeyStore store;
  size_t number = 0;
  while (!text.empty()) {
    ++number;
    const size_t end = text.find('\n');
    const std::string_view line = trim(text.substr(0, end));
    text.remove_prefix(end == std::string_view::npos ? text.size() : end + 1);
    if (line.empty() || line.starts_with('#')) continue;
    if (const Status status = store.add_line(line); !status.is_ok()) {
      return invalid_argument("api_key_file: " + std::string(source) + ":" +
                              std::to_string(number) + ": " + status.message())
          .about("api_key_file");
    }
  }
  if (store.entries_.empty()) {
    return invalid_argument("api_key_file: " + std::string(source) +
                            " holds no key, so that no request could be allowed")
        .about("api_key_file");
  }
  return store;
}

Status ApiKeyStore::add_line(std::string_view line) {
  const size_t first = line.find(':');
  const size_t second = first == std::string_view::npos ? first : line.find(':', first + 1);
  if (second == std::string_view::npos) {
    return invalid_argument("a line has the form name:salt:hash");
  }
  const std::string_view name = line.substr(0, first);
  if (!is_key_name(name)) {
    return invalid_argument("the name must be 1 to 128 of A-Z a-z 0-9 . _ @ / -");
  }
  Salt salt;
  if (!read_hex(line.substr(first + 1, second - first - 1), salt)) {
    return invalid_argument("the salt must be 32 lower-case hex digits");
  }
  Entry entry;
  if (!read_hex(line.substr(second + 1), entry.hash)) {
    return invalid_argument("the hash must be 64 lower-case hex digits");
  }
  if (entries_.size() == kKeysMax) {
    return invalid_argument("more than " + std::to_string(kKeysMax) + " keys");
  }
  const auto known = std::find(salts_.begin(), salts_.end(), salt);
  entry.salt = static_cast<size_t>(known - salts_.begin());
  if (known == salts_.end()) salts_.push_back(salt);
  entry.name = name;
  entries_.push_back(std::move(entry));
  return Status::ok();
}

std::optional<std::string> ApiKeyStore::find(std::string_view key) const {
  if (key.empty() || key.size() > kKeyBytesMax) return std::nullopt;
  std::vector<Hash> hashes(salts_.size());
  std::vector<uint8_t> usable(salts_.size());
  for (size_t i = 0; i < salts_.size(); ++i) usable[i] = salted_hash(salts_[i], key, hashes[i]);
  // Every entry is compared, and what is found decides no branch before the end.
  size_t found = entries_.size();
  for (size_t i = 0; i < entries_.size(); ++i) {
    const Entry& entry = entries_[i];
    const int differs =
        CRYPTO_memcmp(entry.hash.data(), hashes[entry.salt].data(), entry.hash.size());
    const bool matches = differs == 0 && usable[entry.salt] != 0;
    found = matches ? i : found;
  }
  if (found == entries_.size()) return std::nullopt;
  return entries_[found].name;
}

Result<std::string> generate_api_key() {
  std::array<uint8_t, kSecretBytes> secret;
  FATHOM_RETURN_IF_ERROR(random_bytes(secret));
  std::array<unsigned char, 48> base64;
  const int size = EVP_EncodeBlock(base64.data(), secret.data(), static_cast<int>(secret.size()));
  std::string key(kKeyPrefix);
  key.append(reinterpret_cast<const char*>(base64.data()), static_cast<size_t>(size));
  key.erase(key.find_last_not_of('=') + 1);
  std::replace(key.begin(), key.end(), '+', '-');
  std::replace(key.begin(), key.end(), '/', '_');
  OPENSSL_cleanse(secret.data(), secret.size());
  OPENSSL_cleanse(base64.data(), base64.size());
  return key;
}

Result<std::string> make_api_key_line(std::string_view name, std::string_view key) {
  if (!is_key_name(name)) {
    return invalid_argument("the name must be 1 to 128 of A-Z a-z 0-9 . _ @ / -").about("name");
  }
  if (!is_bearer_token(key)) {
    return invalid_argument(
               "the key must be 1 to 512 of A-Z a-z 0-9 - . _ ~ + / and end with any =")
        .about("key");
  }
  std::array<uint8_t, 16> salt;
  std::array<uint8_t, 32> hash;
  FATHOM_RETURN_IF_ERROR(random_bytes(salt));
  if (!salted_hash(salt, key, hash)) return internal_error("OpenSSL could not hash the key");
  std::string line(name);
  line.push_back(':');
  append_hex(line, salt);
  line.push_back(':');
  append_hex(line, hash);
  return line;
}

std::optional<std::string_view> parse_bearer(std::string_view authorization) {
  static constexpr std::string_view kScheme = "bearer ";
  if (authorization.size() <= kScheme.size()) return std::nullopt;
  for (size_t i = 0; i < kScheme.size(); ++i) {
    const char c = authorization[i];
    const char lower = c >= 'A' && c <= 'Z' ? static_cast<char>(c - 'A' + 'a') : c;
    if (lower != kScheme[i]) return std::nullopt;
  }
  authorization.remove_prefix(kScheme.size());
  const std::string_view token = trim(authorization);
  if (!is_bearer_token(token)) return std::nullopt;
  return token;
}

}  // namespace fathom::auth
