// Text to token ids and back: byte-level BPE as tokenizer.json describes it (models of the
// DeepSeek, Qwen and Llama 3 families). Equal to Hugging Face tokenizers, but for one rule:
// untrusted text never becomes a control token. Owner: whoever loads the model, shared read-only;
// any thread.
#pragma once

#include <cstdint>
#include <filesystem>
#include <memory>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "fathom/status.h"

namespace fathom::text {

using TokenId = std::int32_t;

// A part of a prompt. In trusted parts (template text) control tokens are recognised; elsewhere
// their spelling is plain text. Parts are joined before they are encoded, so where no control token
// stands between two parts a token may span their border.
struct Segment {
  std::string text;
  bool trusted = false;
};

struct EncodeOptions {
  bool allow_control_tokens = false;  // treat the whole text as trusted
  bool add_bos = false;  // begin with bos_id(), unless the text already does so as a token
};

// The contents of a checkpoint's files; empty where the checkpoint has no such file.
struct TokenizerFiles {
  std::string tokenizer_json;
  std::string tokenizer_config_json;
  std::string generation_config_json;
  std::string config_json;
  std::string chat_template;  // chat_template.jinja
};

class Tokenizer {
 public:
  // Reads tokenizer.json and, where present, tokenizer_config.json, generation_config.json,
  // config.json and chat_template.jinja of a model's directory. Errors name the file and the key:
  // NOT_FOUND, INVALID_ARGUMENT for malformed contents, UNIMPLEMENTED for tokenizers of other
  // kinds.
  static Result<std::shared_ptr<const Tokenizer>> load(const std::filesystem::path& model_dir);

  // The same from memory.
  static Result<std::shared_ptr<const Tokenizer>> parse(const TokenizerFiles& files);

  ~Tokenizer();

  // INVALID_ARGUMENT: the text is not UTF-8, or over 1 GiB. Time linear in the text; memory at most
  // ten times its size, ids included (measured: 9.2 where each byte becomes a token).
  Result<std::vector<TokenId>> encode(std::string_view text, EncodeOptions options = {}) const;
  Result<std::vector<TokenId>> encode(std::span<const Segment> segments,
                                      bool add_bos = false) const;

  // Always valid UTF-8. Ids that no token has decode to nothing; added tokens to their literal
  // content.
  std::string decode(std::span<const TokenId> ids, bool skip_special = false) const;

  // What a token stands for, which may be a part of a character; empty for ids that no token has.
  std::string_view token_bytes(TokenId id) const;

  // The token of an added token's content, or of a base token's raw bytes.
  std::optional<TokenId> id_of(std::string_view content) const;

  bool contains(TokenId id) const;
  bool is_special(TokenId id) const;  // what skip_special leaves out
  bool is_control(TokenId id) const;  // what untrusted text cannot produce

  // One more than the largest id that a token has: rows of the model's vocabulary from here on are
  // padding.
  std::int32_t vocab_size() const;

  std::optional<TokenId> bos_id() const;
  std::optional<TokenId> eos_id() const;  // tokenizer_config.json's

  // Every id that ends an answer: eos of tokenizer_config, generation_config and config; sorted.
  const std::vector<TokenId>& stop_ids() const;

  // Whether plain completions begin with bos_id() unless the client says otherwise.
  bool adds_bos() const;

  // The checkpoint's Jinja template, for recognise_chat_format; empty if it has none.
  const std::string& chat_template() const;

 private:
  struct Impl;
  explicit Tokenizer(std::unique_ptr<const Impl> impl);
  std::unique_ptr<const Impl> impl_;
};

}  // namespace fathom::text
