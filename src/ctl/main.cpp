// fathomctl: client and tools of the Fathom inference server.
#include <csignal>
#include <cstring>
#include <iostream>
#include <string_view>

#include <unistd.h>

#include "base/log.h"
#include "ctl/command_line.h"
#include "ctl/console.h"

namespace {

std::atomic<bool> g_interrupted{false};

// The second interrupt ends the process as if there were no handler.
void on_interrupt(int signal_number) {
  if (g_interrupted.exchange(true)) {
    std::signal(signal_number, SIG_DFL);
    std::raise(signal_number);
  }
}

std::string_view variable(const char* const* environment, std::string_view name) {
  for (; *environment != nullptr; ++environment) {
    const std::string_view entry = *environment;
    if (entry.starts_with(name) && entry.substr(name.size()).starts_with('=')) {
      return entry.substr(name.size() + 1);
    }
  }
  return {};
}

}  // namespace

int main(int argc, char** argv, char** environment) {
  using namespace fathom::ctl;
  struct sigaction action {};
  action.sa_handler = on_interrupt;  // without SA_RESTART: a waiting read returns
  ::sigaction(SIGINT, &action, nullptr);
  std::signal(SIGPIPE, SIG_IGN);
  fathom::set_log_level(fathom::LogLevel::kError);
  Console console{.out = std::cout, .err = std::cerr, .in = std::cin};
  console.in_is_terminal = ::isatty(STDIN_FILENO) != 0;
  console.out_is_terminal = ::isatty(STDOUT_FILENO) != 0;
  console.err_is_terminal = ::isatty(STDERR_FILENO) != 0;
  console.color = console.out_is_terminal && variable(environment, "NO_COLOR").empty() &&
                  variable(environment, "TERM") != "dumb";
  console.interrupted = &g_interrupted;
  Environment settings;
  settings.api_key = variable(environment, "FATHOM_API_KEY");
  const Parsed parsed = parse_command_line(argc, argv, settings, console);
  if (!parsed.run) return parsed.exit_code;
  console.json = parsed.json;
  return parsed.run(console);
}
