// CPU clocks of threads and processes, in seconds, and how busy the machine is with others.
// Stateless.
#pragma once

#include <sys/types.h>

namespace fathom::bench {

double steady_s();
double thread_cpu_s();            // the calling thread
double process_cpu_s();           // this process, all its threads
double process_cpu_s(pid_t pid);  // another one of ours
double machine_cpu_s();           // everything that ran on this machine since it started
int machine_cores();

}  // namespace fathom::bench
