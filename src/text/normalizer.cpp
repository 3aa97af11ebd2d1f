// NFC block by block. A block begins at a character before which normalization may start afresh
// (kNfcBoundary) and holds the marks that follow; only blocks of several characters, or of one that
// decomposes, are rewritten. utf8proc gives decompositions, classes and compositions; its own
// reordering is quadratic in a run of marks, so runs are sorted here.
#include "text/normalizer.h"

#include <utf8proc.h>

#include <algorithm>
#include <array>

#include "fathom/check.h"
#include "text/unicode_class.h"
#include "text/utf8.h"

namespace fathom::text {
namespace {

class NfcWriter {
 public:
  NfcWriter(std::string_view text, const TrustedRanges& trusted) : text_(text), trusted_(trusted) {}

  NormalizedText run() {
    std::size_t at = 0;
    while (at < text_.size()) {
      const std::size_t end = plain_end(at);
      copy(at, end);
      if (end == text_.size()) break;
      at = block_end(end);
      rewrite(end, at);
    }
    return std::move(out_);
  }

 private:
  std::uint8_t bits_at(std::size_t at, std::size_t& length) const {
    return table_[decode_valid_utf8(text_.data() + at, length)];
  }

  // The end of the characters from `at` on that stay as they are: each is a boundary and so is its
  // follower.
  std::size_t plain_end(std::size_t at) const {
    std::size_t previous = at, length = 0;
    for (std::size_t i = at; i < text_.size(); i += length) {
      if (!(bits_at(i, length) & kNfcBoundary)) return previous;
      previous = i;
    }
    return text_.size();
  }

  std::size_t block_end(std::size_t at) const {
    std::size_t length = 0;
    (void)bits_at(at, length);
    for (at += length; at < text_.size(); at += length) {
      if (bits_at(at, length) & kNfcBoundary) break;
    }
    return at;
  }

  void copy(std::size_t begin, std::size_t end) {
    note_shift(begin, end, out_.text.size());
    out_.text.append(text_.substr(begin, end - begin));
  }

  void rewrite(std::size_t begin, std::size_t end) {
    codes_.clear();
    for (std::size_t i = begin, length = 0; i < end; i += length) {
      decompose(decode_valid_utf8(text_.data() + i, length));
    }
    sort_marks();
    const auto options = static_cast<utf8proc_option_t>(UTF8PROC_COMPOSE | UTF8PROC_STABLE);
    const utf8proc_ssize_t count = utf8proc_normalize_utf32(
        codes_.data(), static_cast<utf8proc_ssize_t>(codes_.size()), options);
    FATHOM_CHECK(count >= 0, "utf8proc refused decomposed text");
    const std::size_t out_begin = out_.text.size();
    for (utf8proc_ssize_t i = 0; i < count; ++i) {
      append_code_point(static_cast<char32_t>(codes_[i]), out_.text);
    }
    if (trusted_.covers(begin, end)) out_.trusted.add(out_begin, out_.text.size());
  }

  void decompose(char32_t code) {
    std::array<utf8proc_int32_t, 32> parts;
    int boundary = 0;
    const auto options = static_cast<utf8proc_option_t>(UTF8PROC_DECOMPOSE | UTF8PROC_STABLE);
    const utf8proc_ssize_t count = utf8proc_decompose_char(
        static_cast<utf8proc_int32_t>(code), parts.data(), parts.size(), options, &boundary);
    FATHOM_CHECK(count > 0 && count <= static_cast<utf8proc_ssize_t>(parts.size()),
                 "a canonical decomposition is one to four characters");
    codes_.insert(codes_.end(), parts.begin(), parts.begin() + count);
  }

  // The combining class as the oracle knows it: a mark newer than it is a boundary, hence a
  // starter.
  int combining_class(utf8proc_int32_t code) const {
    if (table_[static_cast<char32_t>(code)] & kNfcBoundary) return 0;
    return utf8proc_get_property(code)->combining_class;
  }

  void sort_marks() {
    const auto starter = [this](utf8proc_int32_t code) { return combining_class(code) == 0; };
    for (auto begin = codes_.begin(); begin != codes_.end();) {
      begin = std::find_if_not(begin, codes_.end(), starter);
      const auto end = std::find_if(begin, codes_.end(), starter);
      std::stable_sort(begin, end, [this](utf8proc_int32_t a, utf8proc_int32_t b) {
        return combining_class(a) < combining_class(b);
      });
      begin = end;
    }
  }

  // Carries the trusted parts of a copied range over.
  void note_shift(std::size_t begin, std::size_t end, std::size_t out_begin) {
    const auto& ranges = trusted_.ranges();
    while (next_range_ < ranges.size() && ranges[next_range_].second <= begin) ++next_range_;
    for (std::size_t r = next_range_; r < ranges.size() && ranges[r].first < end; ++r) {
      const std::size_t from = std::max(ranges[r].first, begin),
                        to = std::min(ranges[r].second, end);
      out_.trusted.add(out_begin + from - begin, out_begin + to - begin);
    }
  }

  std::string_view text_;
  const TrustedRanges& trusted_;
  const UnicodeTable& table_ = UnicodeTable::get();
  NormalizedText out_;
  std::vector<utf8proc_int32_t> codes_;
  std::size_t next_range_ = 0;
};

}  // namespace

bool may_need_nfc(std::string_view text) {
  const UnicodeTable& table = UnicodeTable::get();
  for (std::size_t i = 0, length = 0; i < text.size(); i += length) {
    if (static_cast<unsigned char>(text[i]) < 0xCC) {  // below U+0300
      length = static_cast<unsigned char>(text[i]) < 0x80 ? 1 : 2;
      continue;
    }
    if (!(table[decode_valid_utf8(text.data() + i, length)] & kNfcBoundary)) return true;
  }
  return false;
}

NormalizedText normalize_nfc(std::string_view text, const TrustedRanges& trusted) {
  return NfcWriter(text, trusted).run();
}

}  // namespace fathom::text
