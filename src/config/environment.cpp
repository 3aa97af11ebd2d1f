// FATHOM_... variables.
#include <algorithm>
#include <array>
#include <string_view>

#include "config/settings.h"
#include "config/sources.h"

namespace fathom {
namespace {

// Variables with our prefix that the build and the tests read; a daemon under test inherits them.
constexpr std::array<std::string_view, 3> kNotSettings = {"FATHOM_CUDA", "FATHOM_TOKENIZERS",
                                                          "FATHOM_REQUIRE_TOKENIZERS"};

// Kubernetes describes a Service named "fathom" to every pod as FATHOM_SERVICE_HOST,
// FATHOM_PORT_8000_TCP and so on.
bool is_service_link(std::string_view name) {
  return name.starts_with("FATHOM_SERVICE_") || name.starts_with("FATHOM_PORT_");
}

std::string setting_name(std::string_view variable) {
  std::string found;
  Config shape;
  for_each_setting(shape, [&](const SettingInfo& info, auto&) {
    if (info.environment() == variable) found = info.name;
  });
  return found;
}

}  // namespace

Result<EnvironmentValues> read_environment(const char* const* environment) {
  EnvironmentValues out;
  for (; environment != nullptr && *environment != nullptr; ++environment) {
    std::string_view entry(*environment);
    const size_t equals = entry.find('=');
    if (!entry.starts_with("FATHOM_") || equals == std::string_view::npos) continue;
    std::string_view name = entry.substr(0, equals);
    std::string value(entry.substr(equals + 1));
    if (name == "FATHOM_CONFIG") {
      out.config_file = value;
      continue;
    }
    std::string setting = setting_name(name);
    if (!setting.empty()) {
      out.values.push_back({setting, value, std::string(name)});
    } else if (!is_service_link(name) &&
               std::ranges::find(kNotSettings, name) == kNotSettings.end()) {
      return invalid_argument(std::string(name) + " is not a setting (--help lists them)")
          .about(std::string(name));
    }
  }
  return out;
}

}  // namespace fathom
