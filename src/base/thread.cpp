// Thread names and eventfd over pthread and Linux calls.
#include "base/thread.h"

#include <poll.h>
#include <pthread.h>
#include <sys/eventfd.h>
#include <unistd.h>

#include <cerrno>
#include <ctime>

namespace fathom {

void set_thread_name(const std::string& name) {
  pthread_setname_np(pthread_self(), name.substr(0, 15).c_str());
}

std::jthread start_thread(std::string name, std::function<void(std::stop_token)> run) {
  return std::jthread([name = std::move(name), run = std::move(run)](std::stop_token stop) {
    set_thread_name(name);
    run(std::move(stop));
  });
}

Result<EventFd> EventFd::make() {
  UniqueFd fd(eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK));
  if (!fd) return file_error("eventfd", "counter", errno);
  return EventFd(std::move(fd));
}

void EventFd::notify() const {
  const uint64_t one = 1;
  // The only failure left is a full counter, and then the waiter is awake already.
  [[maybe_unused]] ssize_t n = ::write(fd_.get(), &one, sizeof one);
}

bool EventFd::consume() const {
  uint64_t count = 0;
  return ::read(fd_.get(), &count, sizeof count) == sizeof count;
}

bool EventFd::wait(std::optional<int64_t> timeout_us) const {
  pollfd p{fd_.get(), POLLIN, 0};
  timespec t{};
  if (timeout_us) t = {*timeout_us / 1'000'000, *timeout_us % 1'000'000 * 1'000};
  int ready = 0;
  do {
    ready = ppoll(&p, 1, timeout_us ? &t : nullptr, nullptr);
  } while (ready < 0 && errno == EINTR);
  return ready > 0 && consume();
}

}  // namespace fathom
