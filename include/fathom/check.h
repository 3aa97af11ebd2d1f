// FATHOM_CHECK: a broken invariant ends the process (fail-stop); the supervisor starts it again.
#pragma once

#include <string_view>

namespace fathom {

// Writes file, line, the condition and `detail` to stderr, runs the crash note set by
// set_crash_note (the plan that ran), and aborts.
[[noreturn]] void check_failed(const char* file, int line, const char* condition,
                               std::string_view detail);

// `note` is called from check_failed before the abort; it must be async-signal-tolerant: no locks,
// no allocation. Process-wide by nature (there is one process to end); set once by the engine at
// start.
void set_crash_note(void (*note)());

}  // namespace fathom

#define FATHOM_CHECK(condition, detail)                               \
  do {                                                                \
    if (!(condition)) [[unlikely]]                                    \
      ::fathom::check_failed(__FILE__, __LINE__, #condition, detail); \
  } while (false)
