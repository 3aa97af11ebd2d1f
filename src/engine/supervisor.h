// EngineSupervisor: the one thread that starts engine processes. The kernel ends a child when the
// thread that started it ends (PDEATHSIG), so this thread lives as long as the daemon. Made first
// and destroyed last, by main.
#pragma once

#include <sys/types.h>

#include <cstdint>
#include <functional>
#include <map>
#include <memory>
#include <mutex>
#include <optional>
#include <string>
#include <thread>
#include <unordered_map>
#include <vector>

#include "base/clock.h"
#include "base/file.h"
#include "base/thread.h"
#include "fathom/status.h"

namespace fathom {

// A started process. Its end makes `pidfd` readable.
struct ChildProcess {
  pid_t pid = 0;
  UniqueFd pidfd;
};

class EngineSupervisor {
 public:
  using Task = std::function<void()>;

  static Result<std::unique_ptr<EngineSupervisor>> start();
  ~EngineSupervisor();
  EngineSupervisor(const EngineSupervisor&) = delete;
  EngineSupervisor& operator=(const EngineSupervisor&) = delete;

  // Runs `task` on the supervisor thread: soon, or at monotonic time `at_us`. Any thread.
  void post(Task task);
  void post_at(int64_t at_us, Task task);

  // The rest: supervisor thread only.

  // Runs `task` once, when `fd` is readable.
  void when_readable(int fd, Task task);
  void forget(int fd);
  // Starts `program` with descriptors 0 (nothing to read), 1 and 2 (this process's stderr) and 3
  // (`socket`), and no others.
  Result<ChildProcess> spawn(const std::string& program, const std::vector<std::string>& arguments,
                             int socket);

 private:
  explicit EngineSupervisor(EventFd wake) : wake_(std::move(wake)) {}
  void run(std::stop_token stop);
  std::vector<Task> due_tasks(int64_t now_us);
  int64_t wait_us(int64_t now_us);

  const EventFd wake_;
  const SystemClock clock_;
  std::mutex mutex_;
  std::multimap<int64_t, Task> tasks_;  // by time
  std::unordered_map<int, Task> watched_;
  std::jthread thread_;
};

// Ends a child and takes its exit status, waiting at most `timeout_us` for it to go. Any thread.
void kill_and_reap(const ChildProcess& child, int64_t timeout_us);
// "signal 9" or "exit code 1" of a child that has ended; empty when it has not, or was reaped.
std::string reap(const ChildProcess& child);

}  // namespace fathom
