// FieldReader: typed, bounded reading of one JSON object's fields. The first wrong field ends the
// reading with an error that names it; fields nobody asked for are counted. Lives on the stack of
// one parser.
#pragma once

#include <cstdint>
#include <optional>
#include <set>
#include <string>
#include <string_view>

#include "api/field_ranges.h"
#include "base/json.h"
#include "fathom/status.h"

namespace fathom::api {

class FieldReader {
 public:
  // `path` is put before names in errors ("messages[0]."); empty at the top.
  FieldReader(const Json& object, std::string path) : object_(object), path_(std::move(path)) {}

  // Each leaves `out` alone when the field is absent or null, and after an error. Bounds are
  // inclusive.
  void boolean(std::string_view name, bool& out);
  void integer(std::string_view name, int64_t low, int64_t high, int64_t& out);
  void integer(std::string_view name, int64_t low, int64_t high, int32_t& out);
  void integer(std::string_view name, int64_t low, int64_t high, std::optional<int32_t>& out);
  void number(std::string_view name, FieldRange range, float& out);
  void string(std::string_view name, size_t bytes_max, std::string& out);

  // The raw value, or null when absent; marks the field as known.
  const Json* find(std::string_view name);
  // Fields that are accepted and have no effect here.
  void ignore(std::initializer_list<std::string_view> names);

  void fail(std::string_view name, std::string sentence, Code code = Code::kInvalidArgument,
            std::string reason = "invalid_value");
  void fail(Status status) {
    if (status_.is_ok()) status_ = std::move(status);
  }
  bool ok() const { return status_.is_ok(); }
  Status status() const { return status_; }
  std::string path(std::string_view name) const { return path_ + std::string(name); }
  uint64_t unknown() const;

 private:
  const Json& object_;
  std::string path_;
  std::set<std::string, std::less<>> known_;
  Status status_;
};

// "a string", "an object": for sentences.
std::string_view json_kind(const Json& value);

}  // namespace fathom::api
