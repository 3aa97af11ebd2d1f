#include "base/thread.h"

#include <gtest/gtest.h>
#include <pthread.h>

#include <atomic>

namespace fathom {
namespace {

TEST(StartThread, NamesTheThreadAndStopsIt) {
  std::string seen(16, '\0');
  std::atomic<bool> stopped{false};
  {
    EventFd named = std::move(EventFd::make()).value();
    std::jthread thread = start_thread("a-name-that-is-longer", [&](std::stop_token stop) {
      pthread_getname_np(pthread_self(), seen.data(), seen.size());
      named.notify();
      while (!stop.stop_requested()) std::this_thread::yield();
      stopped = true;
    });
    EXPECT_TRUE(named.wait());
  }
  EXPECT_TRUE(stopped);
  EXPECT_STREQ(seen.c_str(), "a-name-that-is-");
}

TEST(EventFd, RemembersNotificationsUntilConsumed) {
  EventFd event = std::move(EventFd::make()).value();
  EXPECT_FALSE(event.consume());
  EXPECT_FALSE(event.wait(1000));
  event.notify();
  event.notify();
  EXPECT_TRUE(event.wait(0));
  EXPECT_FALSE(event.consume());
}

}  // namespace
}  // namespace fathom
