// The file of golden vectors.

#include <cstdint>
#include <fstream>

#include "ops/op_cases.h"

namespace fathom::testing {

// File: int32 magic, int32 vectors; each int32 bytes of its name, name, int32 numbers, float32s.
GoldenVectors read_golden_vectors(const std::string& path) {
  std::ifstream file(path, std::ios::binary);
  FATHOM_CHECK(file.good(), path);
  const auto number = [&] {
    int32_t n = 0;
    file.read(reinterpret_cast<char*>(&n), sizeof n);
    return n;
  };
  FATHOM_CHECK(number() == 0x4650564F, "not a file of op vectors");
  GoldenVectors vectors;
  const int32_t count = number();
  for (int32_t i = 0; i < count; ++i) {
    std::string name(static_cast<size_t>(number()), ' ');
    file.read(name.data(), static_cast<std::streamsize>(name.size()));
    std::vector<float>& values = vectors[name];
    values.resize(static_cast<size_t>(number()));
    file.read(reinterpret_cast<char*>(values.data()),
              static_cast<std::streamsize>(values.size() * sizeof(float)));
  }
  FATHOM_CHECK(file.good(), "the file of op vectors ends early");
  return vectors;
}

std::vector<double> golden_vector(const GoldenVectors& vectors, const std::string& name) {
  const auto found = vectors.find(name);
  FATHOM_CHECK(found != vectors.end(), name);
  return {found->second.begin(), found->second.end()};
}

}  // namespace fathom::testing
