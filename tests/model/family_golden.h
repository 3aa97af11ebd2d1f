// Reads what goldens/make_family_goldens.py wrote, and measures logits against it.
#pragma once

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <filesystem>
#include <fstream>
#include <string>
#include <vector>

#include "fathom/check.h"
#include "fathom/plan.h"
#include "support/source_folder.h"

namespace fathom::testing {

// What transformers computed at one position.
struct GoldenPosition {
  float routing_gap = 1.0F;  // relative distance between the last expert chosen and the next
  float rms = 0.0F;          // of the logits
  std::vector<int32_t> top_ids;
  std::vector<float> top_values;
  std::vector<float> projections;

  float margin() const { return top_values[0] - top_values[1]; }
};

struct FamilyGolden {
  uint64_t seed = 0;
  std::vector<TokenId> prompt;
  std::vector<TokenId> greedy;
  std::vector<GoldenPosition> positions;  // [prompt + greedy - 1]
};

inline std::string families_directory() {
  return source_folder(FATHOM_SOURCE_DIR) + "/tests/model/goldens/families";
}

inline std::vector<std::string> family_names() {
  std::vector<std::string> names;
  for (const auto& entry : std::filesystem::directory_iterator(families_directory())) {
    names.push_back(entry.path().filename());
  }
  std::sort(names.begin(), names.end());
  return names;
}

inline FamilyGolden read_family_golden(const std::string& name) {
  std::ifstream file(families_directory() + "/" + name + "/golden.bin", std::ios::binary);
  FATHOM_CHECK(file.good(), name);
  const auto ints = [&](int64_t n) {
    std::vector<int32_t> v(n);
    file.read(reinterpret_cast<char*>(v.data()), n * 4);
    return v;
  };
  const auto floats = [&](int64_t n) {
    std::vector<float> v(n);
    file.read(reinterpret_cast<char*>(v.data()), n * 4);
    return v;
  };
  const std::vector<int32_t> header = ints(7);
  FATHOM_CHECK(header[0] == 0x32474C46, "not a golden file");
  const int32_t prompt = header[2];
  FamilyGolden golden;
  golden.seed = static_cast<uint64_t>(header[1]);
  const std::vector<int32_t> tokens = ints(prompt + header[3]);
  golden.prompt.assign(tokens.begin(), tokens.begin() + prompt);
  golden.greedy.assign(tokens.begin() + prompt, tokens.end());
  for (size_t i = 0; i + 1 < tokens.size(); ++i) {
    GoldenPosition at;
    at.routing_gap = floats(1)[0];
    at.rms = floats(1)[0];
    at.top_ids = ints(header[5]);
    at.top_values = floats(header[5]);
    at.projections = floats(header[6]);
    golden.positions.push_back(std::move(at));
  }
  FATHOM_CHECK(file.good(), "golden file ends early");
  return golden;
}

// Sum of the logits under the signs of projection `r`, over sqrt(V).
inline float projection(const std::vector<float>& logits, uint32_t r) {
  double sum = 0.0;
  for (size_t column = 0; column < logits.size(); ++column) {
    const uint32_t hashed = static_cast<uint32_t>(column + 1) * ((2 * r + 1) * 2654435761U);
    sum += hashed >> 31 == 0 ? logits[column] : -logits[column];
  }
  return static_cast<float>(sum / std::sqrt(static_cast<double>(logits.size())));
}

// Largest difference of what the golden holds, relative to the size of its logits.
inline float relative_error(const std::vector<float>& logits, const GoldenPosition& golden) {
  float largest = 0.0F;
  const auto compare = [&](float a, float b) {
    const float d = std::fabs(a - b);
    largest = d > largest || d != d ? d : largest;
  };
  for (size_t i = 0; i < golden.top_ids.size(); ++i) {
    compare(logits.at(golden.top_ids[i]), golden.top_values[i]);
  }
  for (uint32_t r = 0; r < golden.projections.size(); ++r) {
    compare(projection(logits, r), golden.projections[r]);
  }
  return largest / golden.rms;
}

}  // namespace fathom::testing
