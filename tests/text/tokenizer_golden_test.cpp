// The real tokenizers against Hugging Face's library: tests/golden/text/make_vectors.py says what
// tokenizer_vectors.bin holds.
#include <gtest/gtest.h>
#include <lzma.h>

#include <cstring>

#include "base/file.h"
#include "tests/support/real_tokenizers.h"
#include "tests/text/string_generator.h"
#include "text/detokenizer.h"

namespace fathom::text {
namespace {

constexpr const char* kNames[] = {"deepseek_v3", "qwen3", "llama3_1"};

std::uint32_t crc(const void* data, std::size_t size) {
  return lzma_crc32(static_cast<const std::uint8_t*>(data), size, 0);
}
std::uint32_t crc(const std::string& text) { return crc(text.data(), text.size()); }
std::uint32_t crc(const std::vector<TokenId>& ids) {
  return crc(ids.data(), ids.size() * sizeof(TokenId));
}

struct Vectors {
  std::uint32_t strings, long_strings, sequences;
  std::vector<std::uint32_t> words;  // what follows the three counts

  std::size_t all_strings() const { return strings + long_strings; }
  const std::uint32_t* of(std::size_t tokenizer) const {
    return words.data() + all_strings() + tokenizer * 2 * (all_strings() + sequences);
  }
};

Vectors read_vectors() {
  const std::string file =
      read_file(FATHOM_SOURCE_DIR "/tests/golden/text/tokenizer_vectors.bin", 1 << 24).value();
  std::vector<std::uint32_t> words(file.size() / 4);
  std::memcpy(words.data(), file.data(), words.size() * 4);
  Vectors vectors{words[0], words[1], words[2], {words.begin() + 3, words.end()}};
  FATHOM_CHECK(vectors.words.size() ==
                   vectors.all_strings() +
                       std::size(kNames) * 2 * (vectors.all_strings() + vectors.sequences),
               "tokenizer_vectors.bin has another size");
  return vectors;
}

std::string string_of(const StringGenerator& generator, const Vectors& vectors, std::size_t i) {
  return i < vectors.strings ? generator.make_string(i)
                             : generator.make_long_string(i - vectors.strings);
}

std::string streamed(const std::shared_ptr<const Tokenizer>& tokenizer,
                     const std::vector<TokenId>& ids, bool skip_special) {
  Detokenizer detokenizer(tokenizer, skip_special);
  std::string text;
  for (const TokenId id : ids) text += detokenizer.push(id);
  return text + detokenizer.finish();
}

TEST(TokenizerGolden, GeneratorMakesTheStringsOfTheVectors) {
  const Vectors vectors = read_vectors();
  const StringGenerator generator;
  ASSERT_EQ(vectors.strings, 20000u);
  for (std::size_t i = 0; i < vectors.all_strings(); ++i) {
    ASSERT_EQ(crc(string_of(generator, vectors, i)), vectors.words[i]) << "string " << i;
  }
}

class TokenizerGolden : public ::testing::TestWithParam<std::size_t> {};

TEST_P(TokenizerGolden, EncodesAndDecodesAsHuggingFace) {
  FATHOM_REAL_TOKENIZERS_OR_SKIP(folder);
  const auto files = ::fathom::testing::read_real_tokenizer(*folder, kNames[GetParam()]);
  const std::shared_ptr<const Tokenizer> tokenizer = Tokenizer::parse(files.value()).value();
  const Vectors vectors = read_vectors();
  const StringGenerator generator;
  const std::uint32_t* expected = vectors.of(GetParam());
  std::size_t wrong = 0;
  for (std::size_t i = 0; i < vectors.all_strings() && wrong < 10; ++i, expected += 2) {
    const std::string text = string_of(generator, vectors, i);
    const auto ids = tokenizer->encode(text, {.allow_control_tokens = true}).value();
    const bool same = crc(ids) == expected[0] && crc(tokenizer->decode(ids)) == expected[1];
    wrong += same ? 0 : 1;
    EXPECT_TRUE(same) << "string " << i << ": " << text.substr(0, 200);
  }
}

TEST_P(TokenizerGolden, DecodesAnyIdsAsHuggingFace) {
  FATHOM_REAL_TOKENIZERS_OR_SKIP(folder);
  const auto files = ::fathom::testing::read_real_tokenizer(*folder, kNames[GetParam()]);
  const std::shared_ptr<const Tokenizer> tokenizer = Tokenizer::parse(files.value()).value();
  const Vectors vectors = read_vectors();
  const std::uint32_t* expected = vectors.of(GetParam()) + 2 * vectors.all_strings();
  for (std::size_t i = 0; i < vectors.sequences; ++i, expected += 2) {
    const auto ids = StringGenerator::make_ids(i, tokenizer->vocab_size());
    ASSERT_EQ(crc(tokenizer->decode(ids)), expected[0]) << "sequence " << i;
    ASSERT_EQ(crc(tokenizer->decode(ids, true)), expected[1]) << "sequence " << i;
    ASSERT_EQ(crc(streamed(tokenizer, ids, true)), expected[1]) << "sequence " << i;
  }
}

INSTANTIATE_TEST_SUITE_P(Real, TokenizerGolden, ::testing::Range<std::size_t>(0, 3),
                         [](const auto& info) { return kNames[info.param]; });

}  // namespace
}  // namespace fathom::text
