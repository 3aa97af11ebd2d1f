// Where settings come from. Each source is read into the same plain list before any is applied.
// Used inside src/config.
#pragma once

#include <optional>
#include <string>
#include <vector>

#include "fathom/status.h"

namespace fathom {

// One setting as it was written somewhere.
struct GivenValue {
  std::string name;   // "max_num_seqs"
  std::string value;  // as written
  std::string
      where;  // "--max-num-seqs", "FATHOM_MAX_NUM_SEQS", "fathom.yaml:12: scheduler.max_num_seqs"
};

struct FlagValues {
  std::vector<GivenValue> values;
  std::optional<std::string> config_file;
  bool help = false;
  bool version = false;
  bool check_config = false;
};

Result<FlagValues> read_flags(int argc, const char* const* argv);

struct EnvironmentValues {
  std::vector<GivenValue> values;
  std::optional<std::string> config_file;  // FATHOM_CONFIG
};

Result<EnvironmentValues> read_environment(const char* const* environment);

// At most 1 MiB of YAML: groups, and under each its settings.
Result<std::vector<GivenValue>> read_config_file(const std::string& path);
// `name` stands for the text in errors.
Result<std::vector<GivenValue>> read_config_text(const std::string& text, const std::string& name);

}  // namespace fathom
