// The kernel's clocks.
#include "cpu_time.h"

#include <sys/sysinfo.h>
#include <time.h>
#include <unistd.h>

#include <fstream>
#include <string>

namespace fathom::bench {
namespace {

double read_clock(clockid_t clock) {
  timespec t{};
  ::clock_gettime(clock, &t);
  return static_cast<double>(t.tv_sec) + static_cast<double>(t.tv_nsec) * 1e-9;
}

}  // namespace

double steady_s() { return read_clock(CLOCK_MONOTONIC); }
double thread_cpu_s() { return read_clock(CLOCK_THREAD_CPUTIME_ID); }
double process_cpu_s() { return read_clock(CLOCK_PROCESS_CPUTIME_ID); }

double process_cpu_s(pid_t pid) {
  clockid_t clock{};
  return ::clock_getcpuclockid(pid, &clock) == 0 ? read_clock(clock) : 0.0;
}

// The first line of /proc/stat: user, nice, system, idle, iowait, irq, softirq, steal in ticks.
double machine_cpu_s() {
  std::ifstream file("/proc/stat");
  std::string label;
  double ticks[8] = {};
  file >> label;
  for (double& value : ticks) file >> value;
  const double busy = ticks[0] + ticks[1] + ticks[2] + ticks[5] + ticks[6] + ticks[7];
  return busy / static_cast<double>(::sysconf(_SC_CLK_TCK));
}

int machine_cores() { return ::get_nprocs(); }

}  // namespace fathom::bench
