// Finds and unpacks the real tokenizers.
#include "tests/support/real_tokenizers.h"

#include <cstdlib>
#include <filesystem>

#include "base/file.h"
#include "tests/support/xz.h"

namespace fathom::testing {
namespace {

constexpr size_t kMaxConfigBytes = size_t{16} << 20;

}  // namespace

std::optional<std::string> real_tokenizers_folder() {
  const char* named = std::getenv("FATHOM_TOKENIZERS");
  const std::string folder = named != nullptr ? named : FATHOM_SOURCE_DIR "/../shared/tokenizers";
  std::error_code error;
  if (!std::filesystem::exists(folder + "/deepseek_v3/tokenizer.json.xz", error))
    return std::nullopt;
  return folder;
}

bool real_tokenizers_required() {
  const char* required = std::getenv("FATHOM_REQUIRE_TOKENIZERS");
  return required != nullptr && std::string(required) == "1";
}

Result<text::TokenizerFiles> read_real_tokenizer(const std::string& folder,
                                                 const std::string& name) {
  text::TokenizerFiles files;
  FATHOM_ASSIGN(files.tokenizer_json, read_xz(folder + "/" + name + "/tokenizer.json.xz"));
  FATHOM_ASSIGN(files.tokenizer_config_json,
                read_file(folder + "/" + name + "/tokenizer_config.json", kMaxConfigBytes));
  return files;
}

}  // namespace fathom::testing
