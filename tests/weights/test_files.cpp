#include "test_files.h"

#include <gtest/gtest.h>
#include <unistd.h>

#include <cstring>
#include <filesystem>

namespace fathom::testing {

TempDir::TempDir() {
  std::string pattern = ::testing::TempDir() + "fathom-weights-XXXXXX";
  path_ = ::mkdtemp(pattern.data());
}

TempDir::~TempDir() {
  std::error_code ignored;
  std::filesystem::remove_all(path_, ignored);
}

void TempDir::write(const std::string& name, const std::string& content) const {
  ASSERT_TRUE(write_file(*this / name, content).is_ok());
}

std::string safetensors_bytes(const std::string& json, const std::string& data) {
  const uint64_t length = json.size();
  std::string bytes(8, '\0');
  std::memcpy(bytes.data(), &length, 8);
  return bytes + json + data;
}

void write_tensors(const std::string& path,
                   const std::vector<std::pair<TensorSpec, std::vector<std::byte>>>& tensors) {
  std::vector<TensorSpec> specs;
  for (const auto& [spec, bytes] : tensors) specs.push_back(spec);
  auto writer = SafetensorsWriter::create(path, specs);
  ASSERT_TRUE(writer.is_ok()) << writer.status().to_string();
  for (size_t i = 0; i < specs.size(); ++i) {
    for (const auto& [spec, bytes] : tensors) {
      if (spec.name != writer->tensors()[i].name) continue;
      ASSERT_EQ(spec.bytes(), static_cast<int64_t>(bytes.size()));
      ASSERT_TRUE(writer->write(i, 0, bytes).is_ok());
    }
  }
  ASSERT_TRUE(writer->finish().is_ok());
}

}  // namespace fathom::testing
