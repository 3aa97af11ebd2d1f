// The list of architectures, read.
#include "ops/cuda/device_traits.h"

#include <algorithm>
#include <array>
#include <charconv>
#include <vector>

namespace fathom {
namespace {

struct Architecture {
  Capability capability;
  bool exact = false;    // "90a"
  bool forward = false;  // "80-virtual"
};

std::vector<Architecture> read(std::string_view list) {
  std::vector<Architecture> all;
  for (size_t at = 0; at < list.size();) {
    const size_t end = std::min(list.find(',', at), list.size());
    const std::string_view one = list.substr(at, end - at);
    int number = 0;
    const auto [rest, error] = std::from_chars(one.data(), one.data() + one.size(), number);
    const std::string_view suffix(rest, static_cast<size_t>(one.data() + one.size() - rest));
    if (error == std::errc()) {
      all.push_back({{number / 10, number % 10}, suffix.starts_with('a'), suffix == "-virtual"});
    }
    at = end + 1;
  }
  return all;
}

bool runs_on(const Architecture& a, const Capability& device) {
  const Capability& c = a.capability;
  if (a.exact) return c.major == device.major && c.minor == device.minor;
  if (a.forward && device.major > c.major) return true;
  return c.major == device.major && c.minor <= device.minor;
}

struct Name {
  int capability;
  const char* gpus;
};
constexpr std::array<Name, 4> kNames = {
    {{80, "A100"}, {86, "A10, A40"}, {89, "L4, L40S"}, {90, "H100, H200"}}};

std::string name_of(const Architecture& a) {
  const Capability& c = a.capability;
  std::string text = std::to_string(c.major) + "." + std::to_string(c.minor);
  for (const Name& name : kNames) {
    if (name.capability == c.major * 10 + c.minor) text += std::string(" (") + name.gpus + ")";
  }
  return a.forward ? text + " and later" : text;
}

}  // namespace

bool holds_kernels_for(std::string_view architectures, const Capability& device) {
  const std::vector<Architecture> all = read(architectures);
  return std::any_of(all.begin(), all.end(),
                     [&](const Architecture& a) { return runs_on(a, device); });
}

std::string capabilities_of(std::string_view architectures) {
  const std::vector<Architecture> all = read(architectures);
  std::string text;
  for (size_t i = 0; i < all.size(); ++i) {
    if (i > 0) text += i + 1 == all.size() ? " and " : ", ";
    text += name_of(all[i]);
  }
  return text;
}

DeviceTraits traits_of(const Capability& device) {
  return {.hopper = device.major == 9 && device.minor == 0};
}

}  // namespace fathom
