// Flags, by CLI11: it splits the command line; the values are checked with those of the other
// sources.
#include <CLI/CLI.hpp>
#include <list>

#include "config/settings.h"
#include "config/sources.h"

namespace fathom {
namespace {

// Boolean settings are flags (--x, --no-x, --x=false); the others take one value.
void declare(CLI::App& app, const SettingInfo& info, std::string& value, bool is_switch) {
  if (is_switch) {
    app.add_flag(info.flag() + "{true},!--no-" + info.flag().substr(2), value);
  } else {
    app.add_option(info.flag(), value)->expected(1);
  }
}

Status parse(CLI::App& app, int argc, const char* const* argv) {
  try {
    app.parse(argc, argv);
  } catch (const CLI::ExtrasError& error) {
    return invalid_argument("unknown flag or argument: " + app.remaining(true).front() +
                            " (--help lists them)")
        .about(app.remaining(true).front());
  } catch (const CLI::Error& error) {
    return invalid_argument(error.what());
  }
  return Status::ok();
}

}  // namespace

Result<FlagValues> read_flags(int argc, const char* const* argv) {
  CLI::App app;
  app.set_help_flag();
  FlagValues flags;
  std::string config_file;
  app.add_flag("-h,--help", flags.help);
  app.add_flag("--version", flags.version);
  app.add_flag("--check-config", flags.check_config);
  CLI::Option* config_option = app.add_option("--config", config_file)->expected(1);

  struct Declared {
    SettingInfo info;
    std::string value;
  };
  std::list<Declared> declared;  // CLI11 keeps references
  Config shape;
  for_each_setting(shape, [&](const SettingInfo& info, auto& member) {
    declared.push_back({info, {}});
    declare(app, info, declared.back().value, std::is_same_v<decltype(member), bool&>);
  });
  FATHOM_RETURN_IF_ERROR(parse(app, argc, argv));

  if (config_option->count() > 0) flags.config_file = config_file;
  for (const Declared& one : declared) {
    if (app.get_option(one.info.flag())->count() == 0) continue;
    flags.values.push_back({std::string(one.info.name), one.value, one.info.flag()});
  }
  return flags;
}

}  // namespace fathom
