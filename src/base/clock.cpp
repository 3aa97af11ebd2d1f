// The machine's two clocks in microseconds.
#include "base/clock.h"

#include <ctime>

namespace fathom {
namespace {

int64_t read_us(clockid_t id) {
  timespec t{};
  clock_gettime(id, &t);
  return static_cast<int64_t>(t.tv_sec) * 1'000'000 + t.tv_nsec / 1'000;
}

}  // namespace

int64_t SystemClock::now_us() const { return read_us(CLOCK_MONOTONIC); }
int64_t SystemClock::unix_us() const { return read_us(CLOCK_REALTIME); }

}  // namespace fathom
