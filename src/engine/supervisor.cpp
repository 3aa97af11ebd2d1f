// A small event loop, and posix_spawn.
#include "engine/supervisor.h"

#include <fcntl.h>
#include <poll.h>
#include <spawn.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <csignal>
#include <cstring>
#include <utility>

namespace fathom {
namespace {

constexpr int64_t kWaitUsMax = 60'000'000;

// What a child's descriptors and signals are made with; freed at the end of the scope.
struct SpawnSettings {
  posix_spawn_file_actions_t files;
  posix_spawnattr_t attributes;

  SpawnSettings() {
    posix_spawn_file_actions_init(&files);
    posix_spawnattr_init(&attributes);
  }
  ~SpawnSettings() {
    posix_spawn_file_actions_destroy(&files);
    posix_spawnattr_destroy(&attributes);
  }
  SpawnSettings(const SpawnSettings&) = delete;
  SpawnSettings& operator=(const SpawnSettings&) = delete;
};

void set_up(SpawnSettings& s, int socket) {
  posix_spawn_file_actions_addopen(&s.files, STDIN_FILENO, "/dev/null", O_RDONLY, 0);
  posix_spawn_file_actions_adddup2(&s.files, STDERR_FILENO, STDOUT_FILENO);
  posix_spawn_file_actions_adddup2(&s.files, socket, 3);
  posix_spawn_file_actions_addclosefrom_np(&s.files, 4);
  sigset_t none;
  sigset_t all;
  sigemptyset(&none);
  sigfillset(&all);
  posix_spawnattr_setsigmask(&s.attributes, &none);
  posix_spawnattr_setsigdefault(&s.attributes, &all);
  posix_spawnattr_setflags(&s.attributes, POSIX_SPAWN_SETSIGMASK | POSIX_SPAWN_SETSIGDEF);
}

}  // namespace

Result<std::unique_ptr<EngineSupervisor>> EngineSupervisor::start() {
  FATHOM_ASSIGN(EventFd wake, EventFd::make());
  std::unique_ptr<EngineSupervisor> supervisor(new EngineSupervisor(std::move(wake)));
  EngineSupervisor* self = supervisor.get();
  self->thread_ = start_thread("supervisor", [self](std::stop_token stop) { self->run(stop); });
  return supervisor;
}

EngineSupervisor::~EngineSupervisor() {
  thread_.request_stop();
  wake_.notify();
  thread_.join();
}

void EngineSupervisor::post(Task task) { post_at(0, std::move(task)); }

void EngineSupervisor::post_at(int64_t at_us, Task task) {
  {
    std::lock_guard lock(mutex_);
    tasks_.emplace(at_us, std::move(task));
  }
  wake_.notify();
}

void EngineSupervisor::when_readable(int fd, Task task) { watched_[fd] = std::move(task); }

void EngineSupervisor::forget(int fd) { watched_.erase(fd); }

std::vector<EngineSupervisor::Task> EngineSupervisor::due_tasks(int64_t now_us) {
  std::lock_guard lock(mutex_);
  std::vector<Task> due;
  const auto end = tasks_.upper_bound(now_us);
  for (auto at = tasks_.begin(); at != end; ++at) due.push_back(std::move(at->second));
  tasks_.erase(tasks_.begin(), end);
  return due;
}

int64_t EngineSupervisor::wait_us(int64_t now_us) {
  std::lock_guard lock(mutex_);
  if (tasks_.empty()) return kWaitUsMax;
  return std::clamp<int64_t>(tasks_.begin()->first - now_us, 0, kWaitUsMax);
}

void EngineSupervisor::run(std::stop_token stop) {
  while (!stop.stop_requested()) {
    for (Task& task : due_tasks(clock_.now_us())) task();
    std::vector<pollfd> fds{{wake_.fd(), POLLIN, 0}};
    for (const auto& [fd, task] : watched_) fds.push_back({fd, POLLIN, 0});
    const int64_t timeout_us = wait_us(clock_.now_us());
    (void)::poll(fds.data(), fds.size(), static_cast<int>((timeout_us + 999) / 1000));
    wake_.consume();
    for (size_t i = 1; i < fds.size(); ++i) {
      if (fds[i].revents == 0) continue;
      if (auto watch = watched_.extract(fds[i].fd)) watch.mapped()();
    }
  }
}

Result<ChildProcess> EngineSupervisor::spawn(const std::string& program,
                                             const std::vector<std::string>& arguments,
                                             int socket) {
  SpawnSettings settings;
  set_up(settings, socket);
  std::vector<char*> argv{const_cast<char*>("fathom-engine")};
  for (const std::string& argument : arguments) argv.push_back(const_cast<char*>(argument.c_str()));
  argv.push_back(nullptr);
  ChildProcess child;
  const int error = ::posix_spawn(&child.pid, program.c_str(), &settings.files,
                                  &settings.attributes, argv.data(), environ);
  if (error != 0) {
    return unavailable("cannot start the engine process " + program + ": " + std::strerror(error));
  }
  child.pidfd = UniqueFd(static_cast<int>(::syscall(SYS_pidfd_open, child.pid, 0)));
  if (!child.pidfd) {
    const Status status = unavailable(std::string("pidfd_open: ") + std::strerror(errno));
    ::kill(child.pid, SIGKILL);
    ::waitpid(child.pid, nullptr, 0);
    return status;
  }
  return child;
}

void kill_and_reap(const ChildProcess& child, int64_t timeout_us) {
  if (!child.pidfd) return;
  (void)::syscall(SYS_pidfd_send_signal, child.pidfd.get(), SIGKILL, nullptr, 0);
  pollfd fd{child.pidfd.get(), POLLIN, 0};
  (void)::poll(&fd, 1, static_cast<int>(timeout_us / 1000));
  (void)reap(child);
}

std::string reap(const ChildProcess& child) {
  siginfo_t info{};
  const auto id = static_cast<id_t>(child.pidfd.get());
  if (::waitid(P_PIDFD, id, &info, WEXITED | WNOHANG) != 0 || info.si_pid == 0) return "";
  if (info.si_code == CLD_EXITED) return "exit code " + std::to_string(info.si_status);
  return "signal " + std::to_string(info.si_status);
}

}  // namespace fathom
