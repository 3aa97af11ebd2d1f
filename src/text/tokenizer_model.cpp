// tokenizer.json's model (vocabulary and merges) and added tokens.
#include "text/byte_map.h"
#include "text/json_document.h"
#include "text/tokenizer_loader.h"

namespace fathom::text {
namespace {

Status bad(const std::string& key, const std::string& why) {
  return invalid_argument("tokenizer.json: " + key + " " + why).about(key);
}

Result<TokenId> read_id(const Json& value, const std::string& key) {
  const bool fits = value.is_number_unsigned() &&
                    value.get<std::uint64_t>() < static_cast<std::uint64_t>(Bpe::kMaxVocab);
  if (!fits) return bad(key, "must be an id from 0 to " + std::to_string(Bpe::kMaxVocab - 1));
  return value.get<TokenId>();
}

// Gives `id` its bytes; an id has one meaning.
Status claim(TokenId id, std::string bytes, const std::string& key, TokenizerParts& parts) {
  if (bytes.empty()) return bad(key, "is an empty token");
  if (bytes.size() > Bpe::kMaxTokenBytes) return bad(key, "is a token of over 4096 bytes");
  if (parts.bytes.size() <= static_cast<std::size_t>(id)) parts.bytes.resize(id + 1);
  std::string& known = parts.bytes[id];
  if (!known.empty() && known != bytes) return bad(key, "has an id that another token has");
  known = std::move(bytes);
  return Status::ok();
}

Status read_vocab(const Json& vocab, TokenizerParts& parts) {
  if (!vocab.is_object()) return bad("model.vocab", "must be an object of token: id");
  if (vocab.size() > static_cast<std::size_t>(Bpe::kMaxVocab))
    return bad("model.vocab", "is too large");
  parts.vocab = TokenMap(vocab.size());
  for (const auto& [token, id_value] : vocab.items()) {
    const std::string key = "model.vocab[\"" + token + "\"]";
    FATHOM_ASSIGN(const TokenId id, read_id(id_value, key));
    std::optional<std::string> bytes = symbols_to_bytes(token);
    if (bytes) {
      if (!parts.vocab.insert(*bytes, id)) return bad(key, "is empty or there twice");
      FATHOM_RETURN_IF_ERROR(claim(id, std::move(*bytes), key, parts));
    } else {  // a control token's literal content: no piece of text is ever equal to it
      FATHOM_RETURN_IF_ERROR(claim(id, token, key, parts));
    }
  }
  return Status::ok();
}

// "left right", or ["left", "right"] as newer files have it.
bool read_merge_sides(const Json& line, std::string_view& left, std::string_view& right) {
  if (line.is_array() && line.size() == 2 && line[0].is_string() && line[1].is_string()) {
    left = line[0].get_ref<const std::string&>();
    right = line[1].get_ref<const std::string&>();
    return true;
  }
  if (!line.is_string()) return false;
  const std::string_view text = line.get_ref<const std::string&>();
  const std::size_t space = text.find(' ');
  if (space == std::string_view::npos || text.find(' ', space + 1) != std::string_view::npos)
    return false;
  left = text.substr(0, space);
  right = text.substr(space + 1);
  return true;
}

Status read_merge(const Json& line, std::size_t index, TokenizerParts& parts) {
  const auto key = [index] { return "model.merges[" + std::to_string(index) + "]"; };
  std::string_view left, right;
  if (!read_merge_sides(line, left, right))
    return bad(key(), "must be \"left right\" or [left, right]");
  std::optional<std::string> left_bytes = symbols_to_bytes(left);
  const std::optional<std::string> right_bytes = symbols_to_bytes(right);
  if (!left_bytes || !right_bytes) return bad(key(), "is not made of byte symbols");
  const std::optional<TokenId> left_id = parts.vocab.find(*left_bytes);
  const std::optional<TokenId> right_id = parts.vocab.find(*right_bytes);
  const std::optional<TokenId> result = parts.vocab.find(left_bytes->append(*right_bytes));
  if (!left_id || !right_id || !result) return bad(key(), "names a token that model.vocab has not");
  parts.merges.push_back({*left_id, *right_id, *result});
  return Status::ok();
}

Status read_merges(const Json& merges, TokenizerParts& parts) {
  if (!merges.is_array()) return bad("model.merges", "must be an array");
  if (merges.size() > Bpe::kMaxMerges) return bad("model.merges", "is too long");
  parts.merges.reserve(merges.size());
  for (std::size_t i = 0; i < merges.size(); ++i) {
    FATHOM_RETURN_IF_ERROR(read_merge(merges[i], i, parts));
  }
  return Status::ok();
}

Status read_added(const Json& added, TokenizerParts& parts) {
  if (added.is_null()) return Status::ok();
  if (!added.is_array()) return bad("added_tokens", "must be an array");
  for (std::size_t i = 0; i < added.size(); ++i) {
    const Json& entry = added[i];
    const std::string key = "added_tokens[" + std::to_string(i) + "]";
    AddedToken token;
    FATHOM_ASSIGN(token.id, read_id(member(entry, "id"), key + ".id"));
    token.content = string_or_empty(entry, "content");
    token.single_word = flag(entry, "single_word");
    token.lstrip = flag(entry, "lstrip");
    token.rstrip = flag(entry, "rstrip");
    token.special = flag(entry, "special");
    token.normalized = flag(entry, "normalized", !token.special);
    // A base token of the same id and spelling may be there, byte-mapped; the added one's content
    // holds.
    if (static_cast<std::size_t>(token.id) < parts.bytes.size() &&
        symbols_to_bytes(token.content) == parts.bytes[token.id]) {
      parts.bytes[token.id] = token.content;
    }
    FATHOM_RETURN_IF_ERROR(claim(token.id, token.content, key, parts));
    parts.added.push_back(std::move(token));
  }
  return Status::ok();
}

}  // namespace

Status read_model(const JsonDocument& document, TokenizerParts& parts) {
  const Json& model = member(document.root, "model");
  if (!model.is_object()) return bad("model", "is missing");
  const std::string& type = string_or_empty(model, "type");
  if (!type.empty() && type != "BPE") {
    return unimplemented("tokenizer.json: model.type is " + type + "; Fathom reads byte-level BPE")
        .about("model.type");
  }
  for (const char* key : {"continuing_subword_prefix", "end_of_word_suffix"}) {
    if (!string_or_empty(model, key).empty()) {
      return unimplemented("tokenizer.json: model." + std::string(key) + " is not supported")
          .about(key);
    }
  }
  if (flag(model, "byte_fallback")) {
    return unimplemented("tokenizer.json: model.byte_fallback is not supported")
        .about("model.byte_fallback");
  }
  parts.ignore_merges = flag(model, "ignore_merges");
  FATHOM_RETURN_IF_ERROR(read_vocab(member(model, "vocab"), parts));
  FATHOM_RETURN_IF_ERROR(read_merges(member(model, "merges"), parts));
  return read_added(member(document.root, "added_tokens"), parts);
}

}  // namespace fathom::text
