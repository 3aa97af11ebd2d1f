// From argv to a command's options. The only file that knows CLI11.
#pragma once

#include <functional>
#include <string>

#include "ctl/console.h"

namespace fathom::ctl {

// What the environment may say.
struct Environment {
  std::string api_key;  // FATHOM_API_KEY
};

// A command that is ready to run, or the exit code of a command line that asks for none (help,
// version, a usage error; what there was to say is written already).
struct Parsed {
  std::function<int(Console&)> run;
  int exit_code = kExitOk;
  bool json = false;
};
Parsed parse_command_line(int argc, const char* const* argv, const Environment& environment,
                          Console& console);

}  // namespace fathom::ctl
