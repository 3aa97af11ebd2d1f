// The strings and ids of the tokenizer vectors; the same program as
// tests/golden/text/string_generator.py, which made the vectors.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

namespace fathom::text {

// SplitMix64.
class GoldenRandom {
 public:
  explicit GoldenRandom(std::uint64_t seed) : state_(seed) {}
  std::uint64_t below(std::uint64_t n);

 private:
  std::uint64_t state_;
};

class StringGenerator {
 public:
  // Reads tests/golden/text/fragments.json.
  StringGenerator();

  std::string make_string(std::uint64_t index) const;
  std::string make_long_string(std::size_t index) const;
  static std::vector<std::int32_t> make_ids(std::uint64_t index, std::int32_t vocab_size);

  const std::vector<std::string>& repeated() const { return repeated_; }
  const std::vector<std::vector<std::string>>& pools() const { return pools_; }

 private:
  std::string character(GoldenRandom& r) const;
  const std::string& edge(GoldenRandom& r) const;
  const std::vector<std::string>& pool(GoldenRandom& r) const;
  std::string mixed(GoldenRandom& r) const;
  std::string mutated(GoldenRandom& r) const;

  std::vector<std::vector<std::string>> pools_;
  std::vector<std::string> edge_;
  std::vector<std::pair<std::uint32_t, std::uint32_t>> blocks_;
  std::vector<std::string> repeated_;
};

}  // namespace fathom::text
