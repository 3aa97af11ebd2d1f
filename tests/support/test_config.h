// Writes config.json files for tests: the tiny DeepSeek-V3 of the goldens, and variations of it.
#pragma once

#include <string>

#include "base/json.h"

namespace fathom::testing {

// A DeepSeek-V3 of three layers with real head dimensions; make_goldens.py holds the same values.
Json tiny_config();

// A directory of its own under the test's temporary directory, removed with the object.
class ModelDirectory {
 public:
  explicit ModelDirectory(const Json& config);
  ~ModelDirectory();
  ModelDirectory(const ModelDirectory&) = delete;
  ModelDirectory& operator=(const ModelDirectory&) = delete;

  const std::string& path() const { return path_; }
  void write(const std::string& file, const std::string& text) const;

 private:
  std::string path_;
};

}  // namespace fathom::testing
