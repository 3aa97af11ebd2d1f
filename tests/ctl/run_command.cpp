#include "run_command.h"

#include <sstream>

#include "ctl/command_line.h"

namespace fathom::ctl::testing {

Ran run_command(const std::vector<std::string>& arguments, const RunOptions& options) {
  std::ostringstream out;
  std::ostringstream err;
  std::istringstream in(options.input);
  Console console{.out = out, .err = err, .in = in};
  console.in_is_terminal = options.terminal;
  console.out_is_terminal = options.terminal;
  console.color = options.terminal;
  console.interrupted = options.interrupted;
  std::vector<const char*> argv = {"fathomctl"};
  for (const std::string& a : arguments) argv.push_back(a.c_str());
  const Parsed parsed = parse_command_line(static_cast<int>(argv.size()), argv.data(),
                                           Environment{.api_key = options.api_key}, console);
  Ran ran;
  ran.code = parsed.exit_code;
  if (parsed.run) {
    console.json = parsed.json;
    ran.code = parsed.run(console);
  }
  ran.out = out.str();
  ran.err = err.str();
  return ran;
}

}  // namespace fathom::ctl::testing
