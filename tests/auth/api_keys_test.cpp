// The key file, the look-up, and the bearer header.
#include "auth/api_keys.h"

#include <gtest/gtest.h>
#include <unistd.h>

#include <cstdio>
#include <fstream>

namespace fathom::auth {
namespace {

// HMAC-SHA-256 under the salt 00..0f of the key "secret-key", made with Python's hmac module.
constexpr std::string_view kKnownLine =
    "alice:000102030405060708090a0b0c0d0e0f:"
    "52c1bfe570f515bd0dd30ea8a4e49e404e63bc890048edb4266d3934c3a0696b";

TEST(ApiKeys, KnownHashIsFound) {
  auto store = ApiKeyStore::parse(kKnownLine, "keys");
  ASSERT_TRUE(store.is_ok()) << store.status().to_string();
  EXPECT_EQ(store->find("secret-key"), "alice");
  EXPECT_EQ(store->find("secret-kez"), std::nullopt);
  EXPECT_EQ(store->find(""), std::nullopt);
  EXPECT_EQ(store->find(std::string(600, 'x')), std::nullopt);
}

TEST(ApiKeys, GeneratedLinesAreFoundWhateverTheirPlace) {
  std::string file = "# keys\n\n";
  std::vector<std::string> keys;
  for (int i = 0; i < 20; ++i) {
    keys.push_back(generate_api_key().value());
    EXPECT_EQ(keys.back().size(), 7u + 43u);
    file += make_api_key_line("team" + std::to_string(i % 10), keys.back()).value() + "\r\n";
  }
  auto store = ApiKeyStore::parse(file, "keys");
  ASSERT_TRUE(store.is_ok()) << store.status().to_string();
  EXPECT_EQ(store->size(), 20u);
  for (size_t i = 0; i < keys.size(); ++i) {
    EXPECT_EQ(store->find(keys[i]), "team" + std::to_string(i % 10));
    EXPECT_EQ(parse_bearer("Bearer " + keys[i]), keys[i]);
  }
  EXPECT_EQ(store->find(generate_api_key().value()), std::nullopt);
}

TEST(ApiKeys, ErrorsNameFileAndLine) {
  const std::string salt(32, '0');
  const std::string hash(64, '0');
  const std::vector<std::string> bad = {
      "alice",
      "alice:" + salt,
      ":" + salt + ":" + hash,
      "al ice:" + salt + ":" + hash,
      "alice:" + salt.substr(1) + ":" + hash,
      "alice:" + salt + ":" + hash.substr(1),
      "alice:" + salt + ":" + hash + "0",
      "alice:" + salt + ":" + std::string(64, 'A'),
      "alice:" + salt + ":" + hash + ":",
      std::string(129, 'a') + ":" + salt + ":" + hash,
  };
  for (const auto& line : bad) {
    const auto store = ApiKeyStore::parse("# first\n" + line + "\n", "/etc/keys");
    ASSERT_FALSE(store.is_ok()) << line;
    EXPECT_NE(store.status().message().find("/etc/keys:2: "), std::string::npos)
        << store.status().message();
    EXPECT_EQ(store.status().subject(), "api_key_file");
  }
  EXPECT_FALSE(ApiKeyStore::parse("# nothing\n", "keys").is_ok());
}

TEST(ApiKeys, TheNumberOfKeysIsBounded) {
  const std::string rest = ":" + std::string(32, '0') + ":" + std::string(64, '0') + "\n";
  std::string file;
  for (size_t i = 0; i < ApiKeyStore::kKeysMax; ++i) file += "a" + rest;
  EXPECT_TRUE(ApiKeyStore::parse(file, "keys").is_ok());
  EXPECT_FALSE(ApiKeyStore::parse(file + "a" + rest, "keys").is_ok());
}

TEST(ApiKeys, LoadReadsTheFileOrNamesIt) {
  const std::string path = testing::TempDir() + "fathom_keys_" + std::to_string(::getpid());
  std::ofstream(path) << kKnownLine << "\n";
  auto store = ApiKeyStore::load(path);
  ASSERT_TRUE(store.is_ok()) << store.status().to_string();
  EXPECT_EQ(store->find("secret-key"), "alice");
  std::remove(path.c_str());
  const auto missing = ApiKeyStore::load(path);
  ASSERT_FALSE(missing.is_ok());
  EXPECT_NE(missing.status().message().find(path), std::string::npos);
  EXPECT_NE(missing.status().message().find("api_key_file"), std::string::npos);
}

TEST(ApiKeys, LinesAreRefusedForBadNamesAndKeys) {
  EXPECT_FALSE(make_api_key_line("a:b", "key").is_ok());
  EXPECT_FALSE(make_api_key_line("", "key").is_ok());
  EXPECT_FALSE(make_api_key_line("alice", "").is_ok());
  EXPECT_FALSE(make_api_key_line("alice", "two words").is_ok());
}

TEST(ApiKeys, BearerForms) {
  EXPECT_EQ(parse_bearer("Bearer abc"), "abc");
  EXPECT_EQ(parse_bearer("bEARER   abc=="), "abc==");
  for (const std::string_view bad : {"", "Bearer", "Bearer ", "Basic abc", "Bearerabc",
                                     "Bearer a b", "Bearer =", "Bearer a\"b", "Token abc"}) {
    EXPECT_EQ(parse_bearer(bad), std::nullopt) << bad;
  }
  EXPECT_EQ(parse_bearer("Bearer " + std::string(513, 'a')), std::nullopt);
  EXPECT_NE(parse_bearer("Bearer " + std::string(512, 'a')), std::nullopt);
}

}  // namespace
}  // namespace fathom::auth
