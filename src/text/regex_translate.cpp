// Oniguruma pattern -> PCRE2 pattern. Refuses what means something else there rather than split
// text wrongly.
#include "text/regex_split.h"
#include "text/unicode_class.h"

namespace fathom::text {
namespace {

// White_Space; PCRE2's own \s also holds U+180E.
constexpr std::string_view kSpaces =
    "\\x{9}-\\x{D}\\x{20}\\x{85}\\x{A0}\\x{1680}\\x{2000}-\\x{200A}\\x{2028}\\x{2029}\\x{202F}\\x{"
    "205F}"
    "\\x{3000}";

class Translator {
 public:
  explicit Translator(std::string_view pattern) : in_(pattern) {}

  Result<std::string> run() {
    while (at_ < in_.size()) {
      if (in_[at_] == '\\') {
        FATHOM_RETURN_IF_ERROR(escape());
      } else if (in_class_) {
        FATHOM_RETURN_IF_ERROR(in_class_character());
      } else {
        if (in_.substr(at_).starts_with("(?m")) return refuse("(?m");
        open_class();
      }
    }
    return std::move(out_);
  }

 private:
  Status refuse(std::string_view what) const {
    return unimplemented("the pattern \"" + std::string(in_) + "\" uses " + std::string(what) +
                         ", which Fathom does not support");
  }

  void take(std::size_t count) {
    out_.append(in_.substr(at_, count));
    at_ += count;
  }

  void open_class() {
    if (in_[at_] == '[') {
      in_class_ = true;
      take(1);
      if (at_ < in_.size() && in_[at_] == '^') take(1);
      if (at_ < in_.size() && in_[at_] == ']') take(1);  // a literal ] when it comes first
    } else {
      take(1);
    }
  }

  Status in_class_character() {
    if (in_.substr(at_).starts_with("&&")) return refuse("&& in a class");
    if (in_[at_] == '[') return refuse("a class in a class");
    if (in_[at_] == ']') in_class_ = false;
    take(1);
    return Status::ok();
  }

  Status escape() {
    if (at_ + 1 >= in_.size()) return refuse("a lone \\ at its end");
    switch (in_[at_ + 1]) {
      case 's': return members(kSpaces, false, 2);
      case 'S': return members(kSpaces, true, 2);
      case 'p':
      case 'P': return property();
      case 'h':
      case 'H': return refuse("\\h");
      case 'G': return refuse("\\G");
      default: take(2); return Status::ok();
    }
  }

  Status property() {
    const std::string_view rest = in_.substr(at_);
    const bool braced = rest.size() > 2 && rest[2] == '{';
    const std::size_t close = rest.find('}');
    if (!braced || close == std::string_view::npos) return refuse("\\p without braces");
    std::string_view name = rest.substr(3, close - 3);
    bool negated = rest[1] == 'P';
    if (name.starts_with('^')) {
      negated = !negated;
      name.remove_prefix(1);
    }
    if (name.size() != 1 || newer_than_unicode14(name[0]).empty()) {
      take(close + 1);
      return Status::ok();
    }
    std::string set = "\\p{" + std::string(name) + "}";
    return members(set.append(newer_than_unicode14(name[0])), negated, close + 1);
  }

  // Writes a set for the `source` bytes of an escape, with a class around it where it stands alone.
  Status members(std::string_view set, bool negated, std::size_t source) {
    if (in_class_ && negated) return refuse("a negated set in a class");
    if (!in_class_) out_.append(negated ? "[^" : "[");
    out_.append(set);
    if (!in_class_) out_.push_back(']');
    at_ += source;
    return Status::ok();
  }

  std::string_view in_;
  std::size_t at_ = 0;
  bool in_class_ = false;
  std::string out_;
};

}  // namespace

Result<std::string> translate_pattern(std::string_view pattern) {
  return Translator(pattern).run();
}

}  // namespace fathom::text
