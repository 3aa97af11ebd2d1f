#include "base/queue.h"

#include <gtest/gtest.h>

#include <memory>

namespace fathom {
namespace {

TEST(BoundedQueue, RefusesOnePastItsBoundAndLeavesTheValue) {
  BoundedQueue<std::unique_ptr<int>> queue(2);
  EXPECT_EQ(queue.try_push(std::make_unique<int>(1)), PushOutcome::kPushed);
  EXPECT_EQ(queue.try_push(std::make_unique<int>(2)), PushOutcome::kPushed);
  auto third = std::make_unique<int>(3);
  EXPECT_EQ(queue.try_push(std::move(third)), PushOutcome::kFull);
  ASSERT_NE(third, nullptr);
  EXPECT_EQ(**queue.try_pop(), 1);
  EXPECT_EQ(queue.try_push(std::move(third)), PushOutcome::kPushed);
  EXPECT_EQ(queue.pop_all().size(), 2u);
  EXPECT_FALSE(queue.try_pop());
}

TEST(BoundedQueue, ClosedTakesNothingMoreAndDrains) {
  BoundedQueue<int> queue(4);
  EXPECT_EQ(queue.try_push(1), PushOutcome::kPushed);
  queue.close();
  EXPECT_EQ(queue.try_push(2), PushOutcome::kClosed);
  EXPECT_EQ(queue.pop(), 1);
  EXPECT_EQ(queue.pop(), std::nullopt);
}

TEST(BoundedQueue, PopTimesOut) {
  BoundedQueue<int> queue(1);
  EXPECT_EQ(queue.pop(1000), std::nullopt);
}

TEST(BoundedQueue, ManyProducersOneConsumerEveryValueOnceAndInOrderPerProducer) {
  constexpr int kProducers = 4, kEach = 2000;
  EventFd wake = std::move(EventFd::make()).value();
  BoundedQueue<int> queue(64, &wake);
  std::vector<std::jthread> producers;
  for (int p = 0; p < kProducers; ++p) {
    producers.push_back(start_thread("producer", [&queue, p](std::stop_token) {
      for (int i = 0; i < kEach; ++i) {
        while (queue.try_push(p * kEach + i) == PushOutcome::kFull) std::this_thread::yield();
      }
    }));
  }
  std::vector<int> next(kProducers, 0);
  for (int taken = 0; taken < kProducers * kEach;) {
    ASSERT_TRUE(wake.wait(10'000'000));
    for (int value : queue.pop_all()) {
      ASSERT_EQ(value % kEach, next[value / kEach]++);
      ++taken;
    }
  }
  EXPECT_EQ(queue.size(), 0u);
}

}  // namespace
}  // namespace fathom
