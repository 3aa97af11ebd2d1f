// Forty inputs that make careless tokenizers slow, of any size; shared by the test of linearity and
// the benchmark.
#pragma once

#include <string>
#include <vector>

namespace fathom::text {

struct HostilePattern {
  std::string name;
  std::string (*make)(std::size_t bytes);  // about `bytes` bytes of valid UTF-8
};

const std::vector<HostilePattern>& hostile_patterns();

}  // namespace fathom::text
