// Encoding: added tokens are cut out first, what lies between is normalized, split into pieces and
// merged.
#include "text/tokenizer.h"

#include <algorithm>
#include <unordered_map>

#include "text/added_tokens.h"
#include "text/bpe.h"
#include "text/normalizer.h"
#include "text/pretokenizer.h"
#include "text/tokenizer_loader.h"
#include "text/utf8.h"

namespace fathom::text {
namespace {

constexpr std::size_t kMaxTextBytes = 1u << 30;

}  // namespace

struct Tokenizer::Impl {
  Bpe bpe;
  PreTokenizer pre_tokenizer;
  AddedTokenSet raw_tokens;         // searched for in the text as it came
  AddedTokenSet normalized_tokens;  // searched for after normalization
  bool nfc;
  std::vector<std::string> bytes;  // [ids]
  std::vector<bool> special;       // [ids]
  std::vector<bool> control;       // [ids]
  std::unordered_map<std::string, TokenId> added_ids;
  std::optional<TokenId> bos, eos;
  std::vector<TokenId> stop_ids;
  bool adds_bos;
  std::string chat_template;

  bool has(TokenId id) const { return id >= 0 && static_cast<std::size_t>(id) < bytes.size(); }

  // `text` is valid UTF-8.
  Result<std::vector<TokenId>> encode(std::string_view text, const TrustedRanges& trusted,
                                      bool add_bos) const;
};

namespace {

// The memory of one encode call, and the ids so far.
class Encoding {
 public:
  Encoding(const Bpe& bpe, const PreTokenizer& pre_tokenizer)
      : bpe_(bpe), pre_tokenizer_(pre_tokenizer) {}

  // Encodes text that holds no added token.
  Status append_plain(std::string_view text) {
    FATHOM_RETURN_IF_ERROR(pre_tokenizer_.split(text, ends_));
    std::uint32_t begin = 0;
    for (const std::uint32_t end : ends_) {
      bpe_.encode(text.substr(begin, end - begin), scratch_, ids);
      begin = end;
    }
    return Status::ok();
  }

  std::vector<TokenId> ids;

 private:
  const Bpe& bpe_;
  const PreTokenizer& pre_tokenizer_;
  BpeScratch scratch_;
  std::vector<std::uint32_t> ends_;
};

// The part of `ranges` inside [begin, end), relative to begin. `from` is where to look first and is
// moved on.
TrustedRanges sub_ranges(const TrustedRanges& ranges, std::size_t begin, std::size_t end,
                         std::size_t& from) {
  TrustedRanges part;
  const auto& all = ranges.ranges();
  while (from < all.size() && all[from].second <= begin) ++from;
  for (std::size_t r = from; r < all.size() && all[r].first < end; ++r) {
    part.add(std::max(all[r].first, begin) - begin, std::min(all[r].second, end) - begin);
  }
  return part;
}

// Calls plain(begin, end) and token(id) in order over what `set` finds in `text`.
template <typename Plain, typename Token>
Status cut(const AddedTokenSet& set, std::string_view text, const TrustedRanges& trusted,
           Plain plain, Token token) {
  std::size_t at = 0;
  for (const AddedTokenSet::Match& match : set.find_all(text, trusted)) {
    if (match.begin > at) FATHOM_RETURN_IF_ERROR(plain(at, match.begin));
    token(match.id);
    at = match.end;
  }
  if (at < text.size()) return plain(at, text.size());
  return Status::ok();
}

// Encodes text in which the tokens that are searched for before normalization have been found
// already.
Status append_part(const AddedTokenSet& normalized_tokens, bool nfc, std::string_view text,
                   TrustedRanges trusted, Encoding& encoding) {
  NormalizedText normalized;
  if (nfc && may_need_nfc(text)) {
    normalized = normalize_nfc(text, trusted);
    text = normalized.text;
    trusted = normalized.trusted;
  }
  if (normalized_tokens.empty()) return encoding.append_plain(text);
  return cut(
      normalized_tokens, text, trusted,
      [&](std::size_t begin, std::size_t end) {
        return encoding.append_plain(text.substr(begin, end - begin));
      },
      [&](TokenId id) { encoding.ids.push_back(id); });
}

Status check_text(std::string_view text, const std::string& what) {
  if (text.size() > kMaxTextBytes) return invalid_argument(what + " is over 1 GiB");
  if (const auto bad = first_invalid_utf8(text)) {
    return invalid_argument(what + " is not valid UTF-8 at byte " + std::to_string(*bad));
  }
  return Status::ok();
}

}  // namespace

Tokenizer::Tokenizer(std::unique_ptr<const Impl> impl) : impl_(std::move(impl)) {}
Tokenizer::~Tokenizer() = default;

Result<std::shared_ptr<const Tokenizer>> Tokenizer::load(const std::filesystem::path& model_dir) {
  FATHOM_ASSIGN(const TokenizerFiles files, read_tokenizer_files(model_dir));
  return parse(files);
}

Result<std::shared_ptr<const Tokenizer>> Tokenizer::parse(const TokenizerFiles& files) {
  FATHOM_ASSIGN(TokenizerParts parts, read_tokenizer_parts(files));
  FATHOM_ASSIGN(Bpe bpe, Bpe::build(std::move(parts.vocab), parts.merges, parts.ignore_merges));
  FATHOM_ASSIGN(PreTokenizer pre_tokenizer, PreTokenizer::build(parts.steps));
  std::vector<AddedToken> raw, normalized;
  std::unordered_map<std::string, TokenId> added_ids;
  std::vector<bool> special(parts.bytes.size()), control(parts.bytes.size());
  for (const AddedToken& token : parts.added) {
    special[token.id] = token.special;
    control[token.id] = is_control_token(token);
    added_ids.emplace(token.content, token.id);
    (token.normalized ? normalized : raw).push_back(token);
  }
  if (parts.nfc) {
    for (AddedToken& token : normalized) token.content = normalize_nfc(token.content, {}).text;
  }
  auto impl = std::make_unique<Impl>(
      Impl{std::move(bpe), std::move(pre_tokenizer), AddedTokenSet(std::move(raw)),
           AddedTokenSet(std::move(normalized)), parts.nfc, std::move(parts.bytes),
           std::move(special), std::move(control), std::move(added_ids), parts.bos, parts.eos,
           std::move(parts.stop_ids), parts.adds_bos, std::move(parts.chat_template)});
  return std::shared_ptr<const Tokenizer>(new Tokenizer(std::move(impl)));
}

Result<std::vector<TokenId>> Tokenizer::Impl::encode(std::string_view text,
                                                     const TrustedRanges& trusted,
                                                     bool add_bos) const {
  Encoding encoding(bpe, pre_tokenizer);
  const bool with_bos = add_bos && bos.has_value();
  if (with_bos) encoding.ids.push_back(*bos);
  std::size_t from = 0;
  FATHOM_RETURN_IF_ERROR(cut(
      raw_tokens, text, trusted,
      [&](std::size_t begin, std::size_t end) {
        return append_part(normalized_tokens, nfc, text.substr(begin, end - begin),
                           sub_ranges(trusted, begin, end, from), encoding);
      },
      [&](TokenId id) { encoding.ids.push_back(id); }));
  std::vector<TokenId>& ids = encoding.ids;
  if (with_bos && ids.size() > 1 && ids[1] == *bos)
    ids.erase(ids.begin());  // the text brought its own
  return std::move(ids);
}

Result<std::vector<TokenId>> Tokenizer::encode(std::string_view text, EncodeOptions options) const {
  FATHOM_RETURN_IF_ERROR(check_text(text, "the text"));
  return impl_->encode(
      text, options.allow_control_tokens ? TrustedRanges::all(text.size()) : TrustedRanges(),
      options.add_bos);
}

Result<std::vector<TokenId>> Tokenizer::encode(std::span<const Segment> segments,
                                               bool add_bos) const {
  std::string text;
  TrustedRanges trusted;
  for (const Segment& segment : segments) {
    if (segment.text.size() > kMaxTextBytes - text.size())
      return invalid_argument("the prompt is over 1 GiB");
    FATHOM_RETURN_IF_ERROR(check_text(segment.text, "the prompt"));
    if (segment.trusted) trusted.add(text.size(), text.size() + segment.text.size());
    text += segment.text;
  }
  return impl_->encode(text, trusted, add_bos);
}

std::string Tokenizer::decode(std::span<const TokenId> ids, bool skip_special) const {
  std::string bytes;
  for (const TokenId id : ids) {
    if (skip_special && is_special(id)) continue;
    bytes += token_bytes(id);
  }
  std::string text;
  text.reserve(bytes.size());
  append_utf8_lossy(bytes, text);
  return text;
}

std::string_view Tokenizer::token_bytes(TokenId id) const {
  return impl_->has(id) ? std::string_view(impl_->bytes[id]) : std::string_view();
}

std::optional<TokenId> Tokenizer::id_of(std::string_view content) const {
  if (const auto found = impl_->added_ids.find(std::string(content));
      found != impl_->added_ids.end()) {
    return found->second;
  }
  return impl_->bpe.find(content);
}

bool Tokenizer::contains(TokenId id) const { return !token_bytes(id).empty(); }
bool Tokenizer::is_special(TokenId id) const { return impl_->has(id) && impl_->special[id]; }
bool Tokenizer::is_control(TokenId id) const { return impl_->has(id) && impl_->control[id]; }
std::int32_t Tokenizer::vocab_size() const {
  return static_cast<std::int32_t>(impl_->bytes.size());
}
std::optional<TokenId> Tokenizer::bos_id() const { return impl_->bos; }
std::optional<TokenId> Tokenizer::eos_id() const { return impl_->eos; }
const std::vector<TokenId>& Tokenizer::stop_ids() const { return impl_->stop_ids; }
bool Tokenizer::adds_bos() const { return impl_->adds_bos; }
const std::string& Tokenizer::chat_template() const { return impl_->chat_template; }

}  // namespace fathom::text
