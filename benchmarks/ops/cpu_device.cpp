// The CPU backend under the op benchmark.
#include <algorithm>
#include <chrono>
#include <cstring>
#include <numeric>
#include <thread>

#include "device.h"
#include "ops/cpu/cpu_ops.h"
#include "ops/op_inputs.h"

namespace fathom::bench {
namespace {

constexpr int32_t kWarmUps = 3;

double now_us() {
  const auto now = std::chrono::steady_clock::now().time_since_epoch();
  return std::chrono::duration<double, std::micro>(now).count();
}

std::vector<double> time_body(const std::function<void()>& body, int32_t rounds) {
  std::vector<double> times;
  for (int32_t i = 0; i < kWarmUps + rounds; ++i) {
    const double begin = now_us();
    body();
    if (i >= kWarmUps) times.push_back(now_us() - begin);
  }
  return times;
}

class CpuDevice final : public Device {
 public:
  explicit CpuDevice(int32_t threads) : threads_(threads) {}

  std::string name() const override { return "cpu, " + std::to_string(threads_) + " threads"; }

  Result<Bandwidth> measure_bandwidth() override {
    constexpr size_t kWords = size_t{32} << 20;  // 256 MB
    std::vector<uint64_t> from(kWords);
    std::vector<uint64_t> to(kWords);
    for (size_t i = 0; i < kWords; ++i) from[i] = testing::splitmix64(i);
    std::vector<uint64_t> sums(static_cast<size_t>(threads_));
    const auto split = [&](const std::function<void(size_t, size_t, size_t)>& part) {
      std::vector<std::jthread> threads;
      const size_t each = kWords / sums.size();
      for (size_t t = 0; t < sums.size(); ++t) {
        threads.emplace_back([&, t] { part(t, t * each, (t + 1) * each); });
      }
    };
    const auto read = time_body(
        [&] {
          split([&](size_t t, size_t begin, size_t end) {
            sums[t] = std::accumulate(from.begin() + static_cast<int64_t>(begin),
                                      from.begin() + static_cast<int64_t>(end), uint64_t{0});
          });
        },
        20);
    const auto copy = time_body(
        [&] {
          split([&](size_t, size_t begin, size_t end) {
            std::memcpy(&to[begin], &from[begin], (end - begin) * sizeof(uint64_t));
          });
        },
        20);
    FATHOM_CHECK(to[kWords / 4] == from[kWords / 4] && sums[0] != 0, "the copy is not one");
    constexpr double kBytes = kWords * sizeof(uint64_t);
    return Bandwidth{kBytes / median(read) * 1e6, 2 * kBytes / median(copy) * 1e6};
  }

  Result<std::unique_ptr<Ops>> make_ops(Numerics numerics, int64_t arena_bytes) override {
    return make_cpu_ops({numerics, threads_, arena_bytes});
  }

  Result<std::vector<double>> time_rounds(Ops&, const std::function<void()>& body,
                                          int32_t rounds) override {
    return time_body(body, rounds);
  }

  testing::CopyToHost copy_to_host() const override { return testing::copy_from_host; }

 private:
  int32_t threads_;
};

}  // namespace

double median(std::vector<double> values) {
  std::sort(values.begin(), values.end());
  const size_t n = values.size();
  return n == 0 ? 0.0 : 0.5 * (values[(n - 1) / 2] + values[n / 2]);
}

std::unique_ptr<Device> make_cpu_device(int32_t threads) {
  return std::make_unique<CpuDevice>(threads);
}

}  // namespace fathom::bench
