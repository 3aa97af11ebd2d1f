// Reads tokenizer.json and the configuration files beside it into plain values. Pure; any thread.
#pragma once

#include <filesystem>
#include <optional>
#include <string>
#include <vector>

#include "fathom/status.h"
#include "text/added_tokens.h"
#include "text/bpe.h"
#include "text/pretokenizer.h"
#include "text/tokenizer.h"

namespace fathom::text {

// All that a Tokenizer is made of.
struct TokenizerParts {
  TokenMap vocab{0};  // raw bytes -> id, of base tokens that are byte strings
  std::vector<std::string>
      bytes;                  // [ids] raw bytes, or an added token's content; empty for unused ids
  std::vector<Merge> merges;  // in rank order
  bool ignore_merges = false;
  std::vector<AddedToken> added;
  bool nfc = false;
  std::vector<PreTokenizerStep> steps;

  std::optional<TokenId> bos, eos;
  std::vector<TokenId> stop_ids;  // sorted, unique
  bool adds_bos = false;
  std::string chat_template;
};

// Errors name the file and the key.
Result<TokenizerParts> read_tokenizer_parts(const TokenizerFiles& files);

// Reads the files of a model's directory. NOT_FOUND: there is no tokenizer.json.
Result<TokenizerFiles> read_tokenizer_files(const std::filesystem::path& model_dir);

// tokenizer.json's model: fills vocab, bytes, merges and ignore_merges. (tokenizer_model.cpp)
// `json` is the text of tokenizer.json already parsed, hidden behind a forward declaration here.
struct JsonDocument;
Status read_model(const JsonDocument& document, TokenizerParts& parts);

// tokenizer.json's normalizer, pre_tokenizer and decoder: fills nfc and steps.
// (tokenizer_pipeline.cpp)
Status read_pipeline(const JsonDocument& document, TokenizerParts& parts);

}  // namespace fathom::text
