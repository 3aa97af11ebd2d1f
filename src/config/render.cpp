// Help, documentation and default file, generated from settings.def. tests/tidy compares the files
// in the tree with these texts.
#include "config/render.h"

#include <sstream>

#include "config/setting_value.h"

namespace fathom {
namespace {

constexpr size_t kColumns = 100;

// `text` broken into lines that begin with `indent` and have at most kColumns columns.
std::string wrapped(std::string_view text, const std::string& indent) {
  std::string out, line = indent, word;
  std::istringstream words{std::string(text)};
  while (words >> word) {
    if (line.size() > indent.size() && line.size() + 1 + word.size() > kColumns) {
      out += line + "\n";
      line = indent;
    }
    if (line.size() > indent.size()) line += " ";
    line += word;
  }
  return out + line + "\n";
}

template <typename T>
constexpr bool kIsSwitch = std::is_same_v<std::remove_cvref_t<T>, bool>;

// Texts are quoted so that every value stays one scalar of the same type.
template <typename T>
std::string yaml_value(const T& value) {
  std::string text = print_value(value);
  if constexpr (!std::is_same_v<T, std::string>) return text;
  std::string quoted = "'";
  for (char c : text) quoted += c == '\'' ? std::string("''") : std::string(1, c);
  return quoted + "'";
}

// "empty" in place of nothing.
template <typename T>
std::string shown_default(const T& value) {
  std::string text = print_value(value);
  return text.empty() ? "empty" : text;
}

// Walks the settings of one group.
template <typename Visit>
void for_each_of_group(std::string_view group, const Config& config, Visit&& visit) {
  for_each_setting(config, [&](const SettingInfo& info, const auto& value) {
    if (info.group == group) visit(info, value);
  });
}

constexpr const char* kMarkdownHead =
    R"(# Configuration

<!-- Generated from src/config/settings.def by `fathom_config_gen markdown`. -->

Every setting has one name. `max_num_seqs` of the group `scheduler` is the flag `--max-num-seqs`,
the environment variable `FATHOM_MAX_NUM_SEQS`, and in the file of `--config` (or `FATHOM_CONFIG`)

```yaml
scheduler:
  max_num_seqs: 256
```

A flag beats the environment, the environment beats the file, the file beats the default. A key
that does not exist, a value out of its range and settings that contradict each other are errors:
`fathomd` says which, where it stands and what is allowed, and exits with code 78.
`fathomd --check-config` reads everything, prints the settings in force as YAML and exits.

Switches take `--x`, `--no-x` or `--x=false`. Bytes may end in `KiB`, `MiB` or `GiB`. `auto` leaves
the choice to the server. [configs/fathom.yaml](../configs/fathom.yaml) holds every setting at its
default.

Contradictions are: one of `tls_cert` and `tls_key` without the other, `tls_client_ca` without them,
a listener off loopback without TLS or `allow_plaintext`, two listeners on one port, `dtype` or
`kv_cache_dtype` other than what `numerics` computes in (`fp8` goes with `native`), a `block_size`
that is no power of two, a `max_num_batched_tokens` too small for `max_num_seqs`, and `load_format`
`synthetic` without a `model`.
)";

}  // namespace

std::string render_help() {
  std::string out =
      "fathomd serves a DeepSeek model over HTTP and gRPC.\n\n"
      "Usage: fathomd [--config FILE] [settings]\n\n"
      "  --config FILE\n      Read settings from a YAML file (also FATHOM_CONFIG).\n"
      "  --check-config\n      Read everything, print the settings in force as YAML, exit.\n"
      "  --version\n      Print the version, exit.\n"
      "  --help\n      Print this, exit.\n\n"
      "Each setting is also a key of the file (group: name) and FATHOM_NAME in the environment; a\n"
      "flag beats the environment, which beats the file.\n";
  const Config defaults;
  for_each_group([&](std::string_view group, std::string_view group_help) {
    out += "\n" + std::string(group) + ": " + std::string(group_help) + "\n";
    for_each_of_group(group, defaults, [&](const SettingInfo& info, const auto& value) {
      out += "  " + info.flag() + (kIsSwitch<decltype(value)> ? "\n" : " VALUE\n");
      out += wrapped(std::string(info.help) + " [" + shown_default(value) + "; " +
                         allowed_values(info, value) + "]",
                     "      ");
    });
  });
  return out;
}

std::string render_markdown() {
  std::string out = kMarkdownHead;
  const Config defaults;
  for_each_group([&](std::string_view group, std::string_view group_help) {
    out += "\n## " + std::string(group) + "\n\n" + std::string(group_help) + "\n\n";
    out += "| setting | default | allowed | |\n|---|---|---|---|\n";
    for_each_of_group(group, defaults, [&](const SettingInfo& info, const auto& value) {
      out += "| `" + std::string(info.name) + "` | " + shown_default(value) + " | " +
             allowed_values(info, value) + " | " + std::string(info.help) + " |\n";
    });
  });
  return out;
}

std::string render_yaml(const Config& config) {
  std::string out =
      "# Settings of fathomd, each at its value in force; docs/configuration.md explains them.\n";
  for_each_group([&](std::string_view group, std::string_view group_help) {
    out += "\n# " + std::string(group_help) + "\n" + std::string(group) + ":\n";
    for_each_of_group(group, config, [&](const SettingInfo& info, const auto& value) {
      out += wrapped(std::string(info.help) + " (" + allowed_values(info, value) + ")", "  # ");
      out += "  " + std::string(info.name) + ": " + yaml_value(value) + "\n";
    });
  });
  return out;
}

}  // namespace fathom
