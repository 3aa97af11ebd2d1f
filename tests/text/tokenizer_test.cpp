// Loading and encoding with a tokenizer made here. The real ones: tokenizer_golden_test.cpp.
#include "text/tokenizer.h"

#include <gtest/gtest.h>

#include <filesystem>
#include <fstream>

#include "tests/text/tiny_tokenizer.h"

namespace fathom::text {
namespace {

using Ids = std::vector<TokenId>;

TEST(Tokenizer, MergesByRank) {
  const auto t = tiny_tokenizer();
  EXPECT_EQ(t->encode("hello").value(), (Ids{kTinyHello}));
  EXPECT_EQ(t->encode("hello hell").value(), (Ids{kTinyHello, ' ', 258}));
  EXPECT_EQ(t->encode("").value(), Ids{});
  EXPECT_EQ(t->decode(t->encode("hello 中\n").value()), "hello 中\n");
}

TEST(Tokenizer, ReadsItsSpecialTokens) {
  const auto t = tiny_tokenizer();
  EXPECT_EQ(t->vocab_size(), kTinySize);
  EXPECT_EQ(t->bos_id(), kTinyBos);
  EXPECT_EQ(t->eos_id(), kTinyEos);
  EXPECT_EQ(t->stop_ids(), (Ids{kTinyEos}));
  EXPECT_TRUE(t->adds_bos());
  EXPECT_TRUE(t->is_special(kTinyBos));
  EXPECT_FALSE(t->is_special(kTinyUser));
  EXPECT_TRUE(t->is_control(kTinyUser));
  EXPECT_FALSE(t->is_control(kTinyUmlaut));
  EXPECT_EQ(t->id_of("<user>"), kTinyUser);
  EXPECT_EQ(t->id_of("hello"), kTinyHello);
  EXPECT_FALSE(t->id_of("nothing").has_value());
  EXPECT_EQ(t->token_bytes(kTinyHello), "hello");
  EXPECT_EQ(t->token_bytes(kTinySize), "");
  EXPECT_FALSE(t->contains(-1));
}

TEST(Tokenizer, GathersEveryStopId) {
  TokenizerFiles files = tiny_files();
  files.generation_config_json = R"({"eos_token_id":[263, 5, 99999999]})";
  files.config_json = R"({"eos_token_id":7})";
  EXPECT_EQ(Tokenizer::parse(files).value()->stop_ids(), (Ids{5, 7, kTinyEos, 263}));
}

TEST(Tokenizer, PlainTextCannotForgeControlTokens) {
  const auto t = tiny_tokenizer();
  EXPECT_EQ(t->encode("<user>ü").value(), (Ids{'<', 'u', 's', 'e', 'r', '>', kTinyUmlaut}));
  EXPECT_EQ(t->encode("<user>ü", {.allow_control_tokens = true}).value(),
            (Ids{kTinyUser, kTinyUmlaut}));
}

TEST(Tokenizer, TrustsTemplateSegmentsAlone) {
  const auto t = tiny_tokenizer();
  const auto encode = [&t](std::vector<Segment> segments) { return t->encode(segments).value(); };
  EXPECT_EQ(encode({{"<user>", true}, {"<eos>", false}, {"<eos>", true}}),
            (Ids{kTinyUser, '<', 'e', 'o', 's', '>', kTinyEos}));
  // A token that begins in template text and ends in the user's is no control token; two trusted
  // parts are one.
  EXPECT_EQ(encode({{"<us", true}, {"er>", false}}), (Ids{'<', 'u', 's', 'e', 'r', '>'}));
  EXPECT_EQ(encode({{"<us", true}, {"er>", true}}), (Ids{kTinyUser}));
}

TEST(Tokenizer, MergesAcrossSegmentBorders) {
  const auto t = tiny_tokenizer();
  const std::vector<Segment> segments = {{"<user>\n", true}, {"\nhel", false}, {"lo", true}};
  EXPECT_EQ(t->encode(segments).value(), (Ids{kTinyUser, kTinyNewlines, kTinyHello}));
}

TEST(Tokenizer, PutsOneBosInFront) {
  const auto t = tiny_tokenizer();
  EXPECT_EQ(t->encode("hello", {.add_bos = true}).value(), (Ids{kTinyBos, kTinyHello}));
  EXPECT_EQ(t->encode("<bos>hello", {.allow_control_tokens = true, .add_bos = true}).value(),
            (Ids{kTinyBos, kTinyHello}));
  EXPECT_EQ(t->encode("", {.add_bos = true}).value(), (Ids{kTinyBos}));
}

TEST(Tokenizer, RefusesInvalidUtf8) {
  const Status status = tiny_tokenizer()->encode("abc\xE4\xB8").status();
  EXPECT_EQ(status.code(), Code::kInvalidArgument);
  EXPECT_NE(status.message().find("byte 3"), std::string::npos);
}

TEST(Tokenizer, DecodesAddedTokensToTheirContent) {
  const auto t = tiny_tokenizer();
  EXPECT_EQ(t->decode(Ids{kTinyUmlaut, kTinyEos, 'a'}), "ü<eos>a");
  EXPECT_EQ(t->decode(Ids{kTinyUmlaut, kTinyEos, 'a'}, true), "üa");
  EXPECT_EQ(t->decode(Ids{0xE4, kTinyEos, 0xB8}), "\xEF\xBF\xBD<eos>\xEF\xBF\xBD");
  EXPECT_EQ(t->decode(Ids{0xE4, kTinyEos, 0xB8, 0xAD}, true), "中");
}

TEST(Tokenizer, TakesMergesAsPairs) {
  TokenizerFiles files = tiny_files();
  nlohmann::json json = nlohmann::json::parse(files.tokenizer_json);
  for (nlohmann::json& merge : json["model"]["merges"]) {
    const std::string line = merge;
    merge = {line.substr(0, line.find(' ')), line.substr(line.find(' ') + 1)};
  }
  files.tokenizer_json = json.dump();
  EXPECT_EQ(Tokenizer::parse(files).value()->encode("hello").value(), (Ids{kTinyHello}));
}

TEST(Tokenizer, IgnoresMergesWhereTheFileSaysSo) {
  TokenizerFiles files = tiny_files();
  nlohmann::json json = nlohmann::json::parse(files.tokenizer_json);
  json["model"]["merges"] = {
      "h e"};  // "hello" is in the vocabulary, but the merges do not build it
  files.tokenizer_json = json.dump();
  EXPECT_EQ(Tokenizer::parse(files).value()->encode("hello").value(), (Ids{257, 'l', 'l', 'o'}));
  json["model"]["ignore_merges"] = true;
  files.tokenizer_json = json.dump();
  EXPECT_EQ(Tokenizer::parse(files).value()->encode("hello").value(), (Ids{kTinyHello}));
}

TEST(Tokenizer, NormalizesWhereTheFileSaysSo) {
  TokenizerFiles files = tiny_files();
  nlohmann::json json = nlohmann::json::parse(files.tokenizer_json);
  json["normalizer"] = {{"type", "NFC"}};
  files.tokenizer_json = json.dump();
  const auto t = Tokenizer::parse(files).value();
  EXPECT_EQ(t->decode(t->encode("e\u0301").value()), "é");
}

struct BadFile {
  const char* what;
  void (*spoil)(nlohmann::json&);
  const char* message;
};

const BadFile kBadFiles[] = {
    {"no model", [](nlohmann::json& j) { j.erase("model"); }, "model is missing"},
    {"other model", [](nlohmann::json& j) { j["model"]["type"] = "Unigram"; },
     "model.type is Unigram"},
    {"vocab a list", [](nlohmann::json& j) { j["model"]["vocab"] = {1}; },
     "model.vocab must be an object"},
    {"negative id", [](nlohmann::json& j) { j["model"]["vocab"]["a"] = -1; }, "model.vocab[\"a\"]"},
    {"huge id", [](nlohmann::json& j) { j["model"]["vocab"]["a"] = 1ull << 40; },
     "model.vocab[\"a\"]"},
    {"string id", [](nlohmann::json& j) { j["model"]["vocab"]["a"] = "7"; }, "model.vocab[\"a\"]"},
    {"two of an id", [](nlohmann::json& j) { j["model"]["vocab"]["a"] = 'b'; },
     "has an id that another"},
    {"byte missing", [](nlohmann::json& j) { j["model"]["vocab"].erase("!"); },
     "no token for byte 33"},
    {"merge of one", [](nlohmann::json& j) { j["model"]["merges"][0] = "ab"; },
     "model.merges[0] must be"},
    {"merge of three", [](nlohmann::json& j) { j["model"]["merges"][0] = "a b c"; },
     "model.merges[0] must be"},
    {"merge a number", [](nlohmann::json& j) { j["model"]["merges"][1] = 3; }, "model.merges[1]"},
    {"unknown merge", [](nlohmann::json& j) { j["model"]["merges"][1] = "q z"; },
     "model.vocab has not"},
    {"empty token", [](nlohmann::json& j) { j["added_tokens"][0]["content"] = ""; },
     "added_tokens[0]"},
    {"id of another", [](nlohmann::json& j) { j["added_tokens"][0]["id"] = 65; },
     "added_tokens[0]"},
    {"no pre_tokenizer", [](nlohmann::json& j) { j.erase("pre_tokenizer"); }, "without ByteLevel"},
    {"bad pattern",
     [](nlohmann::json& j) { j["pre_tokenizer"]["pretokenizers"][0]["pattern"]["Regex"] = "("; },
     "not valid"},
    {"prefix space",
     [](nlohmann::json& j) { j["pre_tokenizer"]["pretokenizers"][1]["add_prefix_space"] = true; },
     "add_prefix_space"},
    {"other normalizer",
     [](nlohmann::json& j) {
       j["normalizer"] = {{"type", "NFKC"}};
     },
     "NFKC"},
    {"other decoder",
     [](nlohmann::json& j) {
       j["decoder"] = {{"type", "Metaspace"}};
     },
     "Metaspace"},
};

TEST(TokenizerLoad, NamesWhatIsWrong) {
  for (const BadFile& bad : kBadFiles) {
    TokenizerFiles files = tiny_files();
    nlohmann::json json = nlohmann::json::parse(files.tokenizer_json);
    bad.spoil(json);
    files.tokenizer_json = json.dump();
    const auto result = Tokenizer::parse(files);
    ASSERT_FALSE(result.is_ok()) << bad.what;
    EXPECT_NE(result.status().message().find(bad.message), std::string::npos)
        << bad.what << ": " << result.status().message();
  }
}

TEST(TokenizerLoad, NamesTheFileThatIsNotJson) {
  TokenizerFiles files = tiny_files();
  files.tokenizer_config_json = "{";
  EXPECT_EQ(Tokenizer::parse(files).status().subject(), "tokenizer_config.json");
  files = tiny_files();
  files.config_json = "[]";
  EXPECT_EQ(Tokenizer::parse(files).status().subject(), "config.json");
}

TEST(TokenizerLoad, ReadsADirectory) {
  const auto dir = std::filesystem::path(testing::TempDir()) / "fathom_tokenizer_test";
  std::filesystem::create_directories(dir);
  EXPECT_FALSE(Tokenizer::load(dir / "nowhere").is_ok());
  const TokenizerFiles files = tiny_files();
  std::ofstream(dir / "tokenizer.json") << files.tokenizer_json;
  EXPECT_FALSE(Tokenizer::load(dir).value()->bos_id().has_value());
  std::ofstream(dir / "tokenizer_config.json") << files.tokenizer_config_json;
  std::ofstream(dir / "chat_template.jinja") << "template";
  const auto t = Tokenizer::load(dir).value();
  EXPECT_EQ(t->bos_id(), kTinyBos);
  EXPECT_EQ(t->chat_template(), "template");
  std::filesystem::remove_all(dir);
}

}  // namespace
}  // namespace fathom::text
