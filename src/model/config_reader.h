// ConfigReader: typed reads of one JSON object's keys. The first thing wrong is kept as a Status
// that names file and key; reads after it return harmless values. Used by one thread.
#pragma once

#include <cstdint>
#include <limits>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include "base/json.h"
#include "fathom/status.h"

namespace fathom {

class ConfigReader {
 public:
  // `at` is the path of `object` inside the file ("rope_scaling."), for errors.
  ConfigReader(const Json& object, std::string file, std::string at = {})
      : object_(object), file_(std::move(file)), at_(std::move(at)) {}

  const Status& status() const { return status_; }
  const std::string& file() const { return file_; }
  const Json& object() const { return object_; }

  // Present and not null.
  bool has(const char* key) const { return object_.contains(key) && !object_.at(key).is_null(); }
  // An integer in [low, high]; without `otherwise` the key is required.
  int32_t whole(const char* key, int64_t low, int64_t high,
                std::optional<int32_t> otherwise = std::nullopt);
  // A finite number.
  double number(const char* key, std::optional<double> otherwise = std::nullopt);
  bool flag(const char* key, std::optional<bool> otherwise = std::nullopt);
  std::string text(const char* key, std::optional<std::string> otherwise = std::nullopt);
  // One id or a list of ids; absent or null: none.
  std::vector<int32_t> ids(const char* key);

  // Takes over what went wrong inside a nested object.
  void adopt(Status status) {
    if (status_.is_ok()) status_ = std::move(status);
  }
  // Records `message` about `key` unless something is wrong already.
  void fail(const char* key, const std::string& message);

 private:
  const Json* find(const char* key, bool required);

  const Json& object_;
  std::string file_;
  std::string at_;
  Status status_;
};

}  // namespace fathom
