// The real tokenizers of ../shared/tokenizers, which tests and benchmarks use where they are
// present.
#pragma once

#include <optional>
#include <string>

#include "fathom/status.h"
#include "text/tokenizer.h"

namespace fathom::testing {

// The folder that FATHOM_TOKENIZERS names, else <source>/../shared/tokenizers; nothing if it is not
// there. A test that gets nothing skips, saying so, unless FATHOM_REQUIRE_TOKENIZERS is 1: then it
// fails.
std::optional<std::string> real_tokenizers_folder();
bool real_tokenizers_required();

// Files of `name` (deepseek_v3, qwen3, llama3_1) in `folder`, unpacked.
Result<text::TokenizerFiles> read_real_tokenizer(const std::string& folder,
                                                 const std::string& name);

}  // namespace fathom::testing

// In a test body: `folder` is the folder, or the test has ended.
#define FATHOM_REAL_TOKENIZERS_OR_SKIP(folder)                                                 \
  const std::optional<std::string> folder = ::fathom::testing::real_tokenizers_folder();       \
  if (!folder) {                                                                               \
    ASSERT_FALSE(::fathom::testing::real_tokenizers_required()) << "no tokenizers were found"; \
    GTEST_SKIP() << "the real tokenizers are not here: set FATHOM_TOKENIZERS to their folder"; \
  }
