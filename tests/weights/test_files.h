// Small model directories for the tests of src/weights.
#pragma once

#include <cstddef>
#include <map>
#include <string>
#include <utility>
#include <vector>

#include "weights/safetensors_writer.h"

namespace fathom::testing {

// A directory under the test's temporary folder, removed with the object.
class TempDir {
 public:
  TempDir();
  ~TempDir();
  TempDir(const TempDir&) = delete;
  TempDir& operator=(const TempDir&) = delete;

  std::string operator/(const std::string& name) const { return path_ + "/" + name; }
  const std::string& path() const { return path_; }
  void write(const std::string& name, const std::string& content) const;

 private:
  std::string path_;
};

// Length, `json`, `data`: a whole safetensors file as bytes, well-formed or not.
std::string safetensors_bytes(const std::string& json, const std::string& data);

// Writes tensors with the given bytes to one file; the test fails when that fails.
void write_tensors(const std::string& path,
                   const std::vector<std::pair<TensorSpec, std::vector<std::byte>>>& tensors);

template <typename T>
std::vector<std::byte> as_bytes(const std::vector<T>& values) {
  const auto* first = reinterpret_cast<const std::byte*>(values.data());
  return {first, first + values.size() * sizeof(T)};
}

}  // namespace fathom::testing
