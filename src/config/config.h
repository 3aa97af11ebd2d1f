// Config: every setting of fathomd as plain structs, and how it is loaded from flags, environment
// and file. Immutable after start; any thread reads it.
#pragma once

#include <cstdint>
#include <optional>
#include <string>

#include "config/choices.h"
#include "fathom/status.h"

namespace fathom {

// struct ModelConfig { std::string model = ""; ... }; and so on, one per group of settings.def.
#define GROUP(key, Type, help) struct Type##Config {
#define SETTING(type, name, default_value, bounds, unit, help) type name = default_value;
#define END(key, Type) \
  }                    \
  ;
#include "config/settings.def"
#undef GROUP
#undef SETTING
#undef END

// Config::model, Config::server, Config::security, ...
struct Config {
#define GROUP(key, Type, help) Type##Config key;
#define SETTING(...)
#define END(...)
#include "config/settings.def"
#undef GROUP
#undef SETTING
#undef END

  // max_num_batched_tokens, or its default for the backend that was chosen.
  int64_t batched_tokens_max(bool on_gpu) const;
};

// What the command line asks for: to serve with `config`, or to print a text and exit with 0
// (--help, --version, --check-config).
struct Launch {
  Config config;
  std::optional<std::string> print;
};

// The exit code of a bad configuration (EX_CONFIG of sysexits.h; systemd does not restart on it).
inline constexpr int kExitConfig = 78;

// Flags beat the environment (FATHOM_...), which beats the file of --config or FATHOM_CONFIG, which
// beats the defaults. The Status of an unknown key, a bad value or a contradiction names the key,
// the value, where it stands and what is allowed; its subject is the setting's name.
// `environment` is the process's environ, ending in a null.
Result<Launch> load_config(int argc, const char* const* argv, const char* const* environment);

// INVALID_ARGUMENT for settings that are each in range and cannot hold together.
Status check_contradictions(const Config& config);

// Whether `host` names this machine's loopback ("127.0.0.1", "::1", "localhost").
bool is_loopback(const std::string& host);

}  // namespace fathom
