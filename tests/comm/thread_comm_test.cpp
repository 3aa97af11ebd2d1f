// Collectives among threads: results, bit equality, many random shapes, and aborts in every wait.
#include "comm/thread_comm.h"

#include <gtest/gtest.h>

#include <atomic>
#include <chrono>
#include <cstring>
#include <functional>
#include <random>
#include <thread>

#include "base/float_formats.h"

namespace fathom {
namespace {

// Runs `body` once per rank, each on its own thread.
void on_ranks(std::vector<std::unique_ptr<Comm>>& group, const std::function<void(Comm&)>& body) {
  std::vector<std::jthread> threads;
  for (auto& comm : group) threads.emplace_back([&body, &comm] { body(*comm); });
}

Tensor view(std::vector<float>& v) {
  return Tensor::of(v.data(), DType::kF32, {static_cast<int64_t>(v.size())});
}

TEST(ThreadComm, AGroupOfOneDoesNothing) {
  auto group = make_thread_group(1);
  std::vector<float> x = {1, 2};
  std::vector<float> y(2);
  EXPECT_TRUE(group[0]->all_reduce_sum(view(x)).is_ok());
  EXPECT_TRUE(group[0]->all_gather(view(x), view(y)).is_ok());
  EXPECT_TRUE(group[0]->broadcast(view(x), 0).is_ok());
  EXPECT_EQ(x, (std::vector<float>{1, 2}));
  EXPECT_EQ(y, x);
}

// Magnitudes far apart, so that another order of additions gives other bits.
std::vector<float> rank_values(int32_t rank, size_t n, uint32_t seed) {
  std::mt19937 random(seed * 100 + static_cast<uint32_t>(rank));
  std::uniform_real_distribution<float> mantissa(-1.0F, 1.0F);
  std::vector<float> values(n);
  for (float& v : values) v = std::ldexp(mantissa(random), static_cast<int>(random() % 30));
  return values;
}

TEST(ThreadComm, SumsInRankOrderToTheBit) {
  for (const int32_t size : {2, 3, 4, 8}) {
    auto group = make_thread_group(size);
    for (uint32_t i = 0; i < 20; ++i) {
      const size_t n = i * 313;
      std::vector<float> expected(n, 0.0F);
      for (int32_t r = 0; r < size; ++r) {
        const auto part = rank_values(r, n, i);
        for (size_t j = 0; j < n; ++j) expected[j] += part[j];
      }
      on_ranks(group, [&](Comm& comm) {
        auto mine = rank_values(comm.rank(), n, i);
        ASSERT_TRUE(comm.all_reduce_sum(view(mine)).is_ok());
        if (n == 0) return;  // no values, no pointers
        ASSERT_EQ(std::memcmp(mine.data(), expected.data(), n * sizeof(float)), 0);
      });
    }
  }
}

TEST(ThreadComm, SumsBfloat16WithOneRounding) {
  auto group = make_thread_group(3);
  const float parts[] = {1.0F, 0x1p-8F, 0x1p-8F};  // 1 + 2^-8 alone would round back to 1
  on_ranks(group, [&](Comm& comm) {
    std::vector<uint16_t> x(5000, float_to_bf16(parts[comm.rank()]));
    const Tensor t = Tensor::of(x.data(), DType::kBF16, {50, 100});
    ASSERT_TRUE(comm.all_reduce_sum(t).is_ok());
    for (const uint16_t v : x) ASSERT_EQ(bf16_to_float(v), 1.0F + 0x1p-7F);
  });
}

TEST(ThreadComm, GathersInRankOrderAlsoInPlace) {
  auto group = make_thread_group(4);
  on_ranks(group, [](Comm& comm) {
    std::vector<float> part = {static_cast<float>(comm.rank()), 10.0F};
    std::vector<float> out(8);
    ASSERT_TRUE(comm.all_gather(view(part), view(out)).is_ok());
    ASSERT_EQ(out, (std::vector<float>{0, 10, 1, 10, 2, 10, 3, 10}));
    std::vector<float> whole(4);
    whole[comm.rank()] = static_cast<float>(comm.rank() + 1);
    ASSERT_TRUE(comm.all_gather(view(whole).rows(comm.rank(), 1), view(whole)).is_ok());
    ASSERT_EQ(whole, (std::vector<float>{1, 2, 3, 4}));
  });
}

TEST(ThreadComm, BroadcastsFromEveryRoot) {
  auto group = make_thread_group(3);
  on_ranks(group, [](Comm& comm) {
    for (int32_t root = 0; root < 3; ++root) {
      std::vector<float> x(100, static_cast<float>(comm.rank()));
      ASSERT_TRUE(comm.broadcast(view(x), root).is_ok());
      ASSERT_EQ(x, std::vector<float>(100, static_cast<float>(root)));
    }
  });
}

TEST(ThreadComm, PassesMessagesAroundARing) {
  auto group = make_thread_group(4);
  on_ranks(group, [](Comm& comm) {
    std::vector<float> token = {0.0F};
    for (int lap = 0; lap < 200; ++lap) {
      if (comm.rank() == 0) {
        ASSERT_TRUE(comm.send(view(token), 1).is_ok());
        ASSERT_TRUE(comm.receive(view(token), 3).is_ok());
        token[0] += 1.0F;
      } else {
        ASSERT_TRUE(comm.receive(view(token), comm.rank() - 1).is_ok());
        token[0] += 1.0F;
        ASSERT_TRUE(comm.send(view(token), (comm.rank() + 1) % 4).is_ok());
      }
    }
    if (comm.rank() == 0) {
      ASSERT_EQ(token[0], 800.0F);
    }
  });
}

TEST(ThreadComm, ManyRandomCollectivesInALongRow) {
  constexpr int32_t kSize = 5;
  auto group = make_thread_group(kSize);
  on_ranks(group, [](Comm& comm) {
    std::mt19937 shared(7);  // every rank draws the same calls
    for (int i = 0; i < 1500; ++i) {
      const size_t n = shared() % 4000;
      const auto root = static_cast<int32_t>(shared() % kSize);
      std::vector<float> x(n, static_cast<float>(comm.rank() + i % 100));
      switch (shared() % 3) {
        case 0: {
          ASSERT_TRUE(comm.all_reduce_sum(view(x)).is_ok());
          for (const float v : x) ASSERT_EQ(v, static_cast<float>(10 + 5 * (i % 100)));
          break;
        }
        case 1: {
          ASSERT_TRUE(comm.broadcast(view(x), root).is_ok());
          for (const float v : x) ASSERT_EQ(v, static_cast<float>(root + i % 100));
          break;
        }
        default: {
          std::vector<float> out(n * kSize);
          ASSERT_TRUE(comm.all_gather(view(x), view(out)).is_ok());
          for (size_t j = 0; j < out.size(); ++j) {
            ASSERT_EQ(out[j], static_cast<float>(j / n + static_cast<size_t>(i % 100)));
          }
        }
      }
    }
  });
}

// One rank never comes: the others wait until somebody aborts.
TEST(ThreadComm, AbortWakesEveryWaiterAndStays) {
  using Call = std::function<Status(Comm&, const Tensor&, const Tensor&)>;
  const Call calls[] = {
      [](Comm& c, const Tensor& x, const Tensor&) { return c.all_reduce_sum(x); },
      [](Comm& c, const Tensor& x, const Tensor& y) { return c.all_gather(x, y); },
      [](Comm& c, const Tensor& x, const Tensor&) { return c.broadcast(x, 0); },
      [](Comm& c, const Tensor& x, const Tensor&) { return c.send(x, 3); },
      [](Comm& c, const Tensor& x, const Tensor&) { return c.receive(x, 3); },
  };
  for (const Call& call : calls) {
    auto group = make_thread_group(4);
    std::atomic<int> woken{0};
    on_ranks(group, [&](Comm& comm) {
      if (comm.rank() == 3) {
        std::this_thread::sleep_for(std::chrono::milliseconds(30));
        EXPECT_EQ(woken, 0);
        comm.abort();
        return;
      }
      std::vector<float> x(10);
      std::vector<float> y(40);
      EXPECT_EQ(call(comm, view(x), view(y)).code(), Code::kUnavailable);
      EXPECT_EQ(call(comm, view(x), view(y)).code(), Code::kUnavailable);
      ++woken;
    });
    EXPECT_EQ(woken, 3);
  }
}

// An abort at a random moment: every rank ends, whatever it was in, and frees its tensors at once.
TEST(ThreadComm, AbortAtRandomMomentsEndsEveryRank) {
  for (int round = 0; round < 60; ++round) {
    auto group = make_thread_group(3);
    std::jthread killer([&] {
      std::this_thread::sleep_for(std::chrono::microseconds(round * 100));
      group[1]->abort();
    });
    on_ranks(group, [](Comm& comm) {
      Status status;
      while (status.is_ok()) {
        std::vector<float> x(20'000, 1.0F);
        status = comm.all_reduce_sum(view(x));
        if (!status.is_ok()) break;
        ASSERT_EQ(x[19'999], 3.0F);
        if (comm.rank() == 0) {
          status = comm.send(view(x), 1);
        } else if (comm.rank() == 1) {
          status = comm.receive(view(x), 0);
        }
      }
      ASSERT_EQ(status.code(), Code::kUnavailable);
    });
  }
}

TEST(ThreadCommDeathTest, RanksThatDisagreeOnAShapeEndTheProcess) {
  EXPECT_DEATH(
      {
        auto group = make_thread_group(2);
        on_ranks(group, [](Comm& comm) {
          std::vector<float> x(static_cast<size_t>(comm.rank()) + 1);
          (void)comm.all_reduce_sum(view(x));
        });
      },
      "different tensors");
}

}  // namespace
}  // namespace fathom
