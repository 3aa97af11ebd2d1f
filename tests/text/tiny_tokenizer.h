// A tokenizer small enough to reason about: 256 bytes, a few merges, control tokens, one literal
// added token.
#pragma once

#include <memory>
#include <nlohmann/json.hpp>
#include <string>
#include <vector>

#include "text/byte_map.h"
#include "text/tokenizer.h"
#include "text/utf8.h"

namespace fathom::text {

inline std::string symbols(std::string_view bytes) {
  std::string out;
  for (const char c : bytes) append_code_point(byte_to_char(static_cast<unsigned char>(c)), out);
  return out;
}

// Ids: bytes 0-255; merges from 256 on in order; then the added tokens.
inline nlohmann::json tiny_json(const std::vector<std::pair<std::string, std::string>>& merges) {
  nlohmann::json json;
  nlohmann::json& model = json["model"];
  model["type"] = "BPE";
  int id = 0;
  for (int b = 0; b < 256; ++b)
    model["vocab"][symbols(std::string(1, static_cast<char>(b)))] = id++;
  model["merges"] = nlohmann::json::array();
  for (const auto& [left, right] : merges) {
    model["vocab"][symbols(left + right)] = id++;
    model["merges"].push_back(symbols(left) + " " + symbols(right));
  }
  const auto add = [&](const char* content, bool special) {
    json["added_tokens"].push_back({{"id", id++},
                                    {"content", content},
                                    {"single_word", false},
                                    {"lstrip", false},
                                    {"rstrip", false},
                                    {"normalized", false},
                                    {"special", special}});
  };
  add("<bos>", true);
  add("<eos>", true);
  add("<user>", false);
  add("ü", false);
  json["normalizer"] = nullptr;
  json["pre_tokenizer"] = {
      {"type", "Sequence"},
      {"pretokenizers",
       {{{"type", "Split"},
         {"pattern", {{"Regex", "\\s+"}}},
         {"behavior", "Isolated"},
         {"invert", false}},
        {{"type", "ByteLevel"}, {"add_prefix_space", false}, {"use_regex", false}}}}};
  json["decoder"] = {{"type", "ByteLevel"}};
  return json;
}

inline TokenizerFiles tiny_files() {
  TokenizerFiles files;
  files.tokenizer_json =
      tiny_json({{"l", "l"}, {"h", "e"}, {"he", "ll"}, {"hell", "o"}, {"\n", "\n"}}).dump();
  files.tokenizer_config_json =
      R"({"bos_token":"<bos>","eos_token":{"content":"<eos>"},"add_bos_token":true})";
  return files;
}

inline std::shared_ptr<const Tokenizer> tiny_tokenizer() {
  return Tokenizer::parse(tiny_files()).value();
}

// Ids of tiny_tokenizer's tokens.
inline constexpr TokenId kTinyHello = 259, kTinyNewlines = 260, kTinyBos = 261, kTinyEos = 262,
                         kTinyUser = 263, kTinyUmlaut = 264, kTinySize = 265;

}  // namespace fathom::text
