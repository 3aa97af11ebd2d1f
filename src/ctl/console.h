// What a command writes to and reads from, and how: streams, colours, progress, exit codes. One
// object a process (tests make their own); used by the main thread.
#pragma once

#include <atomic>
#include <chrono>
#include <cstdint>
#include <iosfwd>
#include <string>
#include <string_view>

#include "fathom/status.h"

namespace fathom::ctl {

// Scripts rely on these.
enum ExitCode : int {
  kExitOk = 0,
  kExitFail = 1,
  kExitUsage = 2,
  kExitUnavailable = 69,  // no server, or one that cannot answer now
  kExitConfig = 78,       // a file that was named does not hold what it should
};

struct Console {
  std::ostream& out;
  std::ostream& err;
  std::istream& in;
  bool in_is_terminal = false;
  bool out_is_terminal = false;
  bool err_is_terminal = false;
  bool color = false;  // out is a terminal, and NO_COLOR is not set
  bool json = false;
  // Set by the first interrupt (Ctrl-C) while a command looks at it. May be null.
  std::atomic<bool>* interrupted = nullptr;
};

// Writes "fathomctl: message" (or {"error": ...} with --json) to err; returns the exit code.
int report_error(Console& console, const Status& status);

// The exit code that stands for `status`.
int exit_code_of(const Status& status);

// A failure of a local file that a flag names: exit code 78.
Status config_error(const Status& status);

// `text` without control characters but line feeds and tabs: what a model writes must not steer the
// terminal.
std::string printable(std::string_view text);

// "1.2 GB", "671.0 B" (parameters), "1,234,567".
std::string format_bytes(int64_t bytes);
std::string format_count(int64_t count);
std::string with_commas(int64_t n);

// One line on err that is rewritten in place; nothing when err is no terminal.
class ProgressBar {
 public:
  ProgressBar(Console& console, std::string label) : console_(console), label_(std::move(label)) {}
  ~ProgressBar() { clear(); }
  // `detail` follows the bar. At most ten updates a second are drawn.
  void update(double part, const std::string& detail);
  void clear();

 private:
  Console& console_;
  std::string label_;
  std::chrono::steady_clock::time_point drawn_at_{};
  bool drawn_ = false;
};

}  // namespace fathom::ctl
