// Where tests find their data: the checkout, or an unpacked bundle with the GPU tests in it, which
// lays the same files out below its root.
#pragma once

#include <filesystem>
#include <string>
#include <system_error>

namespace fathom::testing {

// The nearest folder above the running program that holds the demo model; a build folder that lies
// outside of its checkout holds none, and then it is the checkout that the program was built from.
inline std::string source_folder(const std::string& built_from) {
  std::error_code error;
  std::filesystem::path at = std::filesystem::read_symlink("/proc/self/exe", error);
  while (!error && at.has_relative_path()) {
    at = at.parent_path();
    if (std::filesystem::exists(at / "deploy/demo-model/config.json", error)) return at.string();
  }
  return built_from;
}

}  // namespace fathom::testing
