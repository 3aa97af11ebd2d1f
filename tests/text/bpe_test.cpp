// BPE against the definition: merge the lowest rank, leftmost first, one merge at a time.
#include "text/bpe.h"

#include <gtest/gtest.h>

#include <map>
#include <random>

namespace fathom::text {
namespace {

struct Model {
  std::map<std::string, TokenId> vocab;
  std::vector<std::pair<std::string, std::string>> merges;

  Bpe build(bool ignore_merges = false) const {
    TokenMap map(vocab.size());
    for (const auto& [bytes, id] : vocab) map.insert(bytes, id);
    std::vector<Merge> lines;
    for (const auto& [left, right] : merges) {
      lines.push_back({vocab.at(left), vocab.at(right), vocab.at(left + right)});
    }
    return Bpe::build(std::move(map), lines, ignore_merges).value();
  }
};

// Random merges over a small alphabet. With `shared`, several merges may make one token, and a
// token may be used by an earlier merge than the one that makes it, as in Llama 3's file.
Model random_model(std::mt19937& random, bool shared) {
  Model model;
  for (int b = 0; b < 256; ++b) model.vocab[std::string(1, static_cast<char>(b))] = b;
  std::vector<std::string> tokens = {"a", "b", "c"};
  for (int i = 0; i < 40; ++i) {
    const std::string left = tokens[random() % tokens.size()];
    const std::string right = tokens[random() % tokens.size()];
    const bool known = model.vocab.contains(left + right);
    const auto same = [&](const auto& m) { return m.first == left && m.second == right; };
    if ((known && !shared) || left.size() + right.size() > 12 ||
        std::any_of(model.merges.begin(), model.merges.end(), same)) {
      continue;
    }
    if (!known) {
      model.vocab.emplace(left + right, static_cast<TokenId>(model.vocab.size()));
      tokens.push_back(left + right);
    }
    model.merges.emplace_back(left, right);
  }
  if (shared) std::shuffle(model.merges.begin(), model.merges.end(), random);
  return model;
}

std::vector<TokenId> by_definition(const Model& model, const std::string& piece) {
  std::map<std::pair<std::string, std::string>, std::size_t> ranks;
  for (std::size_t i = 0; i < model.merges.size(); ++i) ranks[model.merges[i]] = i;
  std::vector<std::string> parts;
  for (const char c : piece) parts.emplace_back(1, c);
  while (true) {
    std::size_t best = model.merges.size(), at = 0;
    for (std::size_t i = 0; i + 1 < parts.size(); ++i) {
      const auto rank = ranks.find({parts[i], parts[i + 1]});
      if (rank != ranks.end() && rank->second < best) {
        best = rank->second;
        at = i;
      }
    }
    if (best == model.merges.size()) break;
    parts[at] += parts[at + 1];
    parts.erase(parts.begin() + static_cast<std::ptrdiff_t>(at) + 1);
  }
  std::vector<TokenId> ids;
  for (const std::string& part : parts) ids.push_back(model.vocab.at(part));
  return ids;
}

void expect_definition(bool shared) {
  std::mt19937 random(shared ? 5 : 4);
  for (int round = 0; round < 60; ++round) {
    const Model model = random_model(random, shared);
    const Bpe bpe = model.build();
    BpeScratch scratch;
    for (const std::size_t size : {1, 2, 3, 7, 31, 32, 33, 34, 64, 65, 130, 200, 500}) {
      std::string piece(size, 'a');
      for (char& c : piece) c = "abc"[random() % (round % 3 + 1)];
      std::vector<TokenId> ids;
      bpe.encode(piece, scratch, ids);
      ASSERT_EQ(ids, by_definition(model, piece)) << piece;
    }
  }
}

TEST(Bpe, EqualsTheDefinition) { expect_definition(false); }

TEST(Bpe, EqualsTheDefinitionWhereMergesShareTokens) { expect_definition(true); }

// What keeps a long piece in the caches, whatever it holds.
TEST(Bpe, RemembersOneBitForEachByteOfALongPiece) {
  std::mt19937 random(6);
  const Bpe bpe = random_model(random, false).build();
  BpeScratch scratch;
  std::vector<TokenId> ids;
  bpe.encode(std::string(1000, 'a'), scratch, ids);
  const std::size_t hints = scratch.hints.size();
  std::string piece(1 << 20, 'a');
  for (char& c : piece) c = "abc"[random() % 3];
  bpe.encode(piece, scratch, ids);
  EXPECT_LE(scratch.open.size() * 64, piece.size() + 64);
  EXPECT_EQ(scratch.hints.size(), hints);
  EXPECT_LE(scratch.ids.size(), 2 * Bpe::kMaxTokenBytes);
}

TEST(Bpe, NeedsEveryByteOfUtf8) {
  TokenMap map(1);
  map.insert("a", 0);
  EXPECT_FALSE(Bpe::build(std::move(map), {}, false).is_ok());
}

TEST(TokenMap, FindsWhatWasInserted) {
  TokenMap map(0);
  for (int i = 0; i < 5000; ++i) {
    ASSERT_TRUE(map.insert(std::string(i % 20 + 1, 'x') + std::to_string(i), i));
    ASSERT_FALSE(map.insert(std::string(i % 20 + 1, 'x') + std::to_string(i), i));
  }
  EXPECT_EQ(map.size(), 5000u);
  for (int i = 0; i < 5000; ++i) {
    ASSERT_EQ(map.find(std::string(i % 20 + 1, 'x') + std::to_string(i)), i);
  }
  EXPECT_FALSE(map.insert("", 1));
  EXPECT_FALSE(map.find("").has_value());
  EXPECT_FALSE(map.find("x").has_value());
  const std::string zero(3, '\0');  // a key of zeros is not an empty slot
  EXPECT_FALSE(map.find(zero).has_value());
  EXPECT_TRUE(map.insert(zero, 7));
  EXPECT_EQ(map.find(zero), 7);
  EXPECT_FALSE(map.find(std::string(2, '\0')).has_value());
}

}  // namespace
}  // namespace fathom::text
