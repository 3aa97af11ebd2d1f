// Puts the sources together: defaults, then file, environment, flags; each value checked where it
// is applied.
#include "config/config.h"

#include <algorithm>
#include <map>

#include "base/version.h"
#include "config/render.h"
#include "config/setting_value.h"
#include "config/sources.h"

namespace fathom {
namespace {

// A hint for a value that is often meant otherwise.
std::string hint(const GivenValue& given) {
  if (given.where == "FATHOM_PORT" && given.value.starts_with("tcp://")) {
    return "; Kubernetes sets it for a Service named fathom: set enableServiceLinks: false";
  }
  return {};
}

// Applies `given` in order: a later value of a setting replaces an earlier one, once both are good.
Status apply_values(const std::vector<GivenValue>& given, Config& config) {
  std::multimap<std::string, const GivenValue*> by_name;
  for (const GivenValue& one : given) by_name.emplace(one.name, &one);
  Status first_error;
  for_each_setting(config, [&](const SettingInfo& info, auto& member) {
    auto [begin, end] = by_name.equal_range(std::string(info.name));
    for (auto it = begin; it != end && first_error.is_ok(); ++it) {
      const GivenValue& one = *it->second;
      if (parse_value(one.value, info, member)) continue;
      first_error = invalid_argument(one.where + ": " + "\"" + one.value + "\"" + " must be " +
                                     allowed_values(info, member) + hint(one))
                        .about(std::string(info.name));
    }
  });
  return first_error;
}

}  // namespace

int64_t Config::batched_tokens_max(bool on_gpu) const {
  const int64_t chosen = on_gpu ? 8192 : 512;
  const int64_t decode = scheduler.max_num_seqs * (1 + engine.speculative_tokens);
  return scheduler.max_num_batched_tokens.value_or(std::max(chosen, decode));
}

Result<Launch> load_config(int argc, const char* const* argv, const char* const* environment) {
  FATHOM_ASSIGN(FlagValues flags, read_flags(argc, argv));
  if (flags.help) return Launch{{}, render_help()};
  if (flags.version) return Launch{{}, version_line() + "\n"};
  FATHOM_ASSIGN(EnvironmentValues env, read_environment(environment));

  std::vector<GivenValue> given;
  std::optional<std::string> file = flags.config_file ? flags.config_file : env.config_file;
  if (file) {
    FATHOM_ASSIGN(given, read_config_file(*file));
  }
  given.insert(given.end(), env.values.begin(), env.values.end());
  given.insert(given.end(), flags.values.begin(), flags.values.end());

  Launch launch;
  FATHOM_RETURN_IF_ERROR(apply_values(given, launch.config));
  FATHOM_RETURN_IF_ERROR(check_contradictions(launch.config));
  if (flags.check_config) launch.print = render_yaml(launch.config);
  return launch;
}

}  // namespace fathom
