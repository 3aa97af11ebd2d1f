// Integers only, each drawn in the order of string_generator.py.
#include "tests/text/string_generator.h"

#include <fstream>
#include <nlohmann/json.hpp>

#include "text/utf8.h"

namespace fathom::text {
namespace {

std::string fragments_of(GoldenRandom& r, const std::vector<std::string>& fragments,
                         std::uint64_t count) {
  std::string text;
  for (std::uint64_t i = 0; i < count; ++i) text += fragments[r.below(fragments.size())];
  return text;
}

std::vector<std::string> characters_of(const std::string& text) {
  std::vector<std::string> characters;
  for (std::size_t i = 0, length = 0; i < text.size(); i += length) {
    (void)decode_valid_utf8(text.data() + i, length);
    characters.push_back(text.substr(i, length));
  }
  return characters;
}

std::string join(const std::vector<std::string>& parts, std::size_t count) {
  std::string text;
  for (std::size_t i = 0; i < std::min(count, parts.size()); ++i) text += parts[i];
  return text;
}

std::string repeat(const std::string& unit, std::uint64_t count) {
  std::string text;
  text.reserve(unit.size() * count);
  for (std::uint64_t i = 0; i < count; ++i) text += unit;
  return text;
}

// Calls part() count times and joins what it gives.
template <typename Part>
std::string gather(std::uint64_t count, Part part) {
  std::string text;
  for (std::uint64_t i = 0; i < count; ++i) text += part();
  return text;
}

}  // namespace

std::uint64_t GoldenRandom::below(std::uint64_t n) {
  state_ += 0x9E3779B97F4A7C15ULL;
  std::uint64_t z = state_;
  z = (z ^ (z >> 30)) * 0xBF58476D1CE4E5B9ULL;
  z = (z ^ (z >> 27)) * 0x94D049BB133111EBULL;
  return (z ^ (z >> 31)) % n;
}

StringGenerator::StringGenerator() {
  std::ifstream in(FATHOM_SOURCE_DIR "/tests/golden/text/fragments.json");
  const auto data = nlohmann::ordered_json::parse(in);
  for (const auto& pool : data["pools"]) pools_.push_back(pool);
  edge_ = data["edge"];
  blocks_ = data["blocks"];
  repeated_ = data["repeated"];
}

std::string StringGenerator::character(GoldenRandom& r) const {
  while (true) {
    std::uint64_t code = 0;
    if (r.below(8) == 0) {
      code = r.below(0x110000);
    } else {
      const auto [first, size] = blocks_[r.below(blocks_.size())];
      code = first + r.below(size);
    }
    if (code >= 0xD800 && code < 0xE000) continue;
    std::string text;
    append_code_point(static_cast<char32_t>(code), text);
    return text;
  }
}

const std::string& StringGenerator::edge(GoldenRandom& r) const {
  return edge_[r.below(edge_.size())];
}

const std::vector<std::string>& StringGenerator::pool(GoldenRandom& r) const {
  return pools_[r.below(pools_.size())];
}

std::string StringGenerator::mixed(GoldenRandom& r) const {
  return gather(1 + r.below(8), [&] {
    const std::vector<std::string>& fragments = pool(r);
    return fragments_of(r, fragments, 1 + r.below(3));
  });
}

std::string StringGenerator::mutated(GoldenRandom& r) const {
  std::vector<std::string> text = characters_of(mixed(r));
  const std::uint64_t changes = 1 + r.below(4);
  for (std::uint64_t i = 0; i < changes; ++i) {
    const std::uint64_t at = r.below(text.size() + 1);
    if (r.below(2) == 0) {
      text.insert(text.begin() + static_cast<std::ptrdiff_t>(at), edge(r));
    } else if (at < text.size()) {
      text.erase(text.begin() + static_cast<std::ptrdiff_t>(at));
    }
  }
  return join(text, text.size());
}

std::string StringGenerator::make_string(std::uint64_t index) const {
  GoldenRandom r(index + 1);
  switch (index % 8) {
    case 0: {
      const std::vector<std::string>& fragments = pool(r);
      return fragments_of(r, fragments, 1 + r.below(12));
    }
    case 1: return mixed(r);
    case 2: return mutated(r);
    case 3: return gather(1 + r.below(40), [&] { return character(r); });
    case 4: return gather(1 + r.below(30), [&] { return edge(r); });
    case 5: return gather(1 + r.below(60), [&] { return r.below(3) ? edge(r) : character(r); });
    case 6: {
      const std::string unit = r.below(2) ? edge(r) : join(characters_of(mixed(r)), 4);
      return repeat(unit, 1 + r.below(300));
    }
    default:
      return gather(1 + r.below(10), [&] {
        const std::string text = fragments_of(r, pool(r), 1);
        return text + edge(r);
      });
  }
}

std::string StringGenerator::make_long_string(std::size_t index) const {
  const std::string& unit = repeated_[index];
  return repeat(unit, (std::size_t{1} << 20) / unit.size());
}

std::vector<std::int32_t> StringGenerator::make_ids(std::uint64_t index, std::int32_t vocab_size) {
  GoldenRandom r(index + 1'000'001);
  std::vector<std::int32_t> ids(1 + r.below(24));
  for (std::int32_t& id : ids) id = static_cast<std::int32_t>(r.below(vocab_size));
  return ids;
}

}  // namespace fathom::text
