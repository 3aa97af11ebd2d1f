// The scheduler's simulator: `--seeds` worlds of `--steps` steps each, from `--first-seed` on.
#include <gtest/gtest.h>

#include <chrono>
#include <cstdio>
#include <cstdlib>
#include <string>

#include "simulation.h"

namespace fathom {
namespace {

struct Arguments {
  uint64_t first_seed = 1;
  uint64_t seeds = 1000;
  int32_t steps = 1000;
};

Arguments& arguments() {
  static Arguments a;
  return a;
}

bool read_argument(const std::string& text) {
  const size_t equals = text.find('=');
  if (equals == std::string::npos) return false;
  const std::string name = text.substr(0, equals);
  const auto value = std::strtoull(text.c_str() + equals + 1, nullptr, 10);
  if (name == "--first-seed") arguments().first_seed = value;
  if (name == "--seeds") arguments().seeds = value;
  if (name == "--steps") arguments().steps = static_cast<int32_t>(value);
  return name == "--first-seed" || name == "--seeds" || name == "--steps";
}

TEST(SchedulerSimulation, EverySeedKeepsEveryRule) {
  const Arguments& a = arguments();
  const auto start = std::chrono::steady_clock::now();
  SimulationCounts total;
  for (uint64_t seed = a.first_seed; seed < a.first_seed + a.seeds; ++seed) {
    Simulation simulation(seed, make_setup(seed));
    const std::optional<std::string> problem = simulation.run(a.steps);
    ASSERT_FALSE(problem) << "seed " << seed << ", " << *problem
                          << "\nrun: sched_sim_test --first-seed=" << seed
                          << " --seeds=1 --steps=" << a.steps;
    total.add(simulation.counts());
  }
  const std::chrono::duration<double> seconds = std::chrono::steady_clock::now() - start;
  std::printf(
      "%llu steps of %llu seeds in %.1f s: %.0f steps/s\n"
      "requests %llu, tokens %llu, cached tokens %llu, preemptions %llu, cancels %llu, deadlines "
      "%llu,\nrefusals %llu, failures %llu, surplus rows %llu, rejected drafts %llu, longest wait "
      "%.2f of its bound\n",
      static_cast<unsigned long long>(total.steps), static_cast<unsigned long long>(a.seeds),
      seconds.count(), static_cast<double>(total.steps) / seconds.count(),
      static_cast<unsigned long long>(total.requests),
      static_cast<unsigned long long>(total.tokens),
      static_cast<unsigned long long>(total.cached_tokens),
      static_cast<unsigned long long>(total.preemptions),
      static_cast<unsigned long long>(total.cancels),
      static_cast<unsigned long long>(total.deadlines),
      static_cast<unsigned long long>(total.refusals),
      static_cast<unsigned long long>(total.failures),
      static_cast<unsigned long long>(total.surplus_rows),
      static_cast<unsigned long long>(total.draft_rejections), total.wait_ratio_max);
  EXPECT_GE(total.steps, a.seeds * static_cast<uint64_t>(a.steps));
  if (a.seeds < 100) return;
  // A simulation that never gets somewhere says nothing about it.
  EXPECT_GT(total.requests, a.seeds);
  EXPECT_GT(total.cached_tokens, a.seeds);
  EXPECT_GT(total.preemptions, a.seeds);
  EXPECT_GT(total.cancels, a.seeds);
  EXPECT_GT(total.deadlines, a.seeds);
  EXPECT_GT(total.refusals, a.seeds);
  EXPECT_GT(total.failures, a.seeds / 10);
  EXPECT_GT(total.surplus_rows, a.seeds);
  EXPECT_GT(total.draft_rejections, a.seeds);
}

}  // namespace
}  // namespace fathom

int main(int argc, char** argv) {
  ::testing::InitGoogleTest(&argc, argv);
  for (int i = 1; i < argc; ++i) {
    if (fathom::read_argument(argv[i])) continue;
    std::fprintf(stderr, "unknown argument %s\n", argv[i]);
    return 2;
  }
  return RUN_ALL_TESTS();
}
