// Reads what goldens/make_goldens.py wrote.
#pragma once

#include <cstdint>
#include <fstream>
#include <string>
#include <vector>

#include "fathom/check.h"
#include "fathom/plan.h"

namespace fathom::testing {

struct Golden {
  std::vector<TokenId> prompt;
  std::vector<TokenId> greedy;
  std::vector<std::vector<float>> prompt_logits;  // [prompt][vocab]
  std::vector<std::vector<float>> step_logits;    // [greedy][vocab]
  std::vector<std::vector<float>> draft_logits;   // [prompt - 1][vocab]
};

inline Golden read_golden(const std::string& path) {
  std::ifstream file(path, std::ios::binary);
  FATHOM_CHECK(file.good(), path);
  const auto ints = [&](int32_t n) {
    std::vector<int32_t> v(n);
    file.read(reinterpret_cast<char*>(v.data()), n * 4);
    return v;
  };
  const std::vector<int32_t> header = ints(4);
  FATHOM_CHECK(header[0] == 0x46474C44, "not a golden file");
  Golden golden;
  golden.prompt = ints(header[1]);
  golden.greedy = ints(header[2]);
  const auto rows = [&](int32_t n) {
    std::vector<std::vector<float>> all(n, std::vector<float>(header[3]));
    for (auto& row : all) file.read(reinterpret_cast<char*>(row.data()), header[3] * 4);
    return all;
  };
  golden.prompt_logits = rows(header[1]);
  golden.step_logits = rows(header[2]);
  golden.draft_logits = rows(header[1] - 1);
  FATHOM_CHECK(file.good(), "golden file ends early");
  return golden;
}

}  // namespace fathom::testing
