// A SAX handler that builds the document and stops at the first bound it meets.
#include "base/json.h"

#include <string>
#include <unordered_set>
#include <utility>
#include <vector>

namespace fathom {
namespace {

class Builder final : public nlohmann::json_sax<Json> {
 public:
  explicit Builder(size_t depth_max) : depth_max_(depth_max) {}

  bool null() override { return add(nullptr); }
  bool boolean(bool v) override { return add(v); }
  bool number_integer(number_integer_t v) override { return add(v); }
  bool number_unsigned(number_unsigned_t v) override { return add(v); }
  bool number_float(number_float_t v, const string_t&) override { return add(v); }
  bool string(string_t& v) override { return add(std::move(v)); }
  bool binary(binary_t&) override { return fail("binary values are not JSON"); }

  bool start_object(std::size_t) override { return open(Json::object()); }
  bool start_array(std::size_t) override { return open(Json::array()); }
  bool end_object() override { return close(); }
  bool end_array() override { return close(); }

  bool key(string_t& name) override {
    if (!open_.back().keys.insert(name).second) return fail("key \"" + name + "\" stands twice");
    key_ = std::move(name);
    return true;
  }

  bool parse_error(std::size_t position, const std::string&,
                   const nlohmann::detail::exception& error) override {
    return fail("not JSON at byte " + std::to_string(position) + ": " + reason(error.what()));
  }

  const std::string& error() const { return error_; }
  Json take() { return std::move(root_); }

 private:
  struct Level {
    Json* value;
    std::unordered_set<std::string> keys;
  };

  // nlohmann's sentence without its own place and without the bytes it read: those may be invalid
  // UTF-8, and errors are shown to clients.
  static std::string reason(std::string_view what) {
    const size_t syntax = what.find(" - ");
    const size_t bracket = what.find("] ");
    if (syntax != what.npos) {
      what.remove_prefix(syntax + 3);
    } else if (bracket != what.npos) {
      what.remove_prefix(bracket + 2);
    }
    return std::string(what.substr(0, what.find("; last read")));
  }

  bool fail(std::string why) {
    if (error_.empty()) error_ = std::move(why);
    return false;
  }

  template <typename T>
  Json* put(T&& value) {
    if (open_.empty()) {
      root_ = Json(std::forward<T>(value));
      return &root_;
    }
    Json& parent = *open_.back().value;
    if (parent.is_array()) {
      parent.push_back(std::forward<T>(value));
      return &parent.back();
    }
    // ordered_json::operator[] would search linearly for a key that is known to be new.
    auto& fields = parent.get_ref<Json::object_t&>();
    static_cast<Json::object_t::Container&>(fields).emplace_back(std::move(key_),
                                                                 Json(std::forward<T>(value)));
    return &fields.back().second;
  }

  template <typename T>
  bool add(T&& value) {
    put(std::forward<T>(value));
    return true;
  }

  bool open(Json empty) {
    if (open_.size() >= depth_max_) {
      return fail("nested deeper than " + std::to_string(depth_max_) + " levels");
    }
    open_.push_back({put(std::move(empty)), {}});
    return true;
  }

  bool close() {
    open_.pop_back();
    return true;
  }

  size_t depth_max_;
  Json root_;
  std::vector<Level> open_;
  std::string key_;
  std::string error_;
};

}  // namespace

Result<Json> parse_json(std::string_view text, JsonLimits limits) {
  if (text.size() > limits.bytes_max) {
    return invalid_argument("longer than " + std::to_string(limits.bytes_max) + " bytes");
  }
  // nlohmann's lexer takes a NUL byte for the end of its input and would ignore what follows.
  if (const size_t nul = text.find('\0'); nul != std::string_view::npos) {
    return invalid_argument("not JSON at byte " + std::to_string(nul + 1) + ": a NUL byte");
  }
  Builder builder(limits.depth_max);
  const bool parsed = Json::sax_parse(text, &builder, Json::input_format_t::json, true);
  if (!parsed) return invalid_argument(builder.error().empty() ? "not JSON" : builder.error());
  return builder.take();
}

}  // namespace fathom
