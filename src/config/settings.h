// Walks the settings of a Config with what settings.def says about each. Used inside src/config.
#pragma once

#include <cstddef>
#include <string>
#include <string_view>

#include "config/config.h"

namespace fathom {

// What a value must satisfy: numbers lie in [min, max], texts have at most length_max bytes.
struct Bounds {
  double min = 0;
  double max = 0;
  size_t length_max = 0;
};

struct SettingInfo {
  std::string_view group;
  std::string_view name;
  Bounds bounds;
  std::string_view unit;
  std::string_view help;

  std::string flag() const;         // "--max-num-seqs"
  std::string environment() const;  // "FATHOM_MAX_NUM_SEQS"
  std::string key() const;          // "scheduler.max_num_seqs"
};

namespace bounds {
constexpr Bounds range(double min, double max) { return {min, max, 0}; }
constexpr Bounds text(size_t length_max) { return {0, 0, length_max}; }
constexpr Bounds none() { return {}; }
}  // namespace bounds

// Calls visit(const SettingInfo&, member) for every setting, in the order of settings.def.
template <typename ConfigOrConst, typename Visit>
void for_each_setting(ConfigOrConst& config, Visit&& visit) {
  using bounds::none, bounds::range, bounds::text;
#define GROUP(key, Type, help) \
  {                            \
    auto& group = config.key;  \
    constexpr std::string_view group_name = #key;
#define SETTING(type, member, default_value, limits, unit, help) \
  visit(SettingInfo{group_name, #member, limits, unit, help}, group.member);
#define END(key, Type) }
#include "config/settings.def"
#undef GROUP
#undef SETTING
#undef END
}

// Calls visit(name, help) for every group.
template <typename Visit>
void for_each_group(Visit&& visit) {
#define GROUP(key, Type, help) visit(std::string_view(#key), std::string_view(help));
#define SETTING(...)
#define END(...)
#include "config/settings.def"
#undef GROUP
#undef SETTING
#undef END
}

}  // namespace fathom
