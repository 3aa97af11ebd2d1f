// The simulator's own test: a bug of each kind, planted in a scheduler, its plans or its engine,
// is caught. Each is tried on many seeds, because not every world lets every bug show.
#include <gtest/gtest.h>

#include <string>

#include "simulation.h"
#include "test_access.h"

namespace fathom {
namespace {

// A simulation with one bug, planted after `healthy_steps_`.
class Mutant : public Simulation {
 public:
  explicit Mutant(uint64_t seed) : Simulation(seed, make_setup(seed)) {}
  Mutant(uint64_t seed, SimulationSetup setup) : Simulation(seed, std::move(setup)) {}

  bool planted() const { return planted_; }

 protected:
  bool ripe() const { return counts().steps > 50; }

  bool planted_ = false;
};

// A block that somebody holds, of any group.
struct HeldBlock {
  int32_t group = 0;
  BlockId block = 0;
};

std::optional<HeldBlock> find_held(SchedulerTestAccess& access) {
  for (const Sequence* s : access.running()) {
    if (s->phase != Phase::kRunning) continue;
    for (size_t g = 0; g < s->groups.size(); ++g) {
      const HeldBlocks& held = s->groups[g];
      if (held.held() > 0) return HeldBlock{static_cast<int32_t>(g), held.ids.back()};
    }
  }
  return std::nullopt;
}

class Leak : public Mutant {
 public:
  using Mutant::Mutant;

 protected:
  void after_commit(Scheduler& scheduler) override {
    if (!ripe()) return;
    SchedulerTestAccess access(scheduler);
    const std::optional<HeldBlock> held = find_held(access);
    if (!held) return;
    access.leak(held->group, held->block);
    planted_ = true;
  }
};

class DoubleFree : public Mutant {
 public:
  using Mutant::Mutant;

 protected:
  void before_plan(Scheduler& scheduler) override {
    if (!ripe() || planted_) return;
    SchedulerTestAccess access(scheduler);
    const std::optional<HeldBlock> held = find_held(access);
    if (!held) return;
    access.free_early(held->group, held->block);
    planted_ = true;
  }
};

class LostRequest : public Mutant {
 public:
  using Mutant::Mutant;

 protected:
  void after_commit(Scheduler& scheduler) override {
    if (ripe() && !planted_) planted_ = SchedulerTestAccess(scheduler).lose_waiting();
  }
};

// The queue always puts one request last. It has no deadline, or that would end its wait.
// Clients come faster than they are served: the queue is never empty.
class Starvation : public Mutant {
 public:
  explicit Starvation(uint64_t seed) : Mutant(seed, overloaded(make_setup(seed))) {}

 protected:
  void before_plan(Scheduler& scheduler) override {
    SchedulerTestAccess access(scheduler);
    if (!planted_ && ripe()) {
      for (const Sequence* s : access.waiting()) {
        if (s->deadline_us || s->uses_penalties) continue;
        victim_ = s->id;
        planted_ = true;
      }
    }
    if (planted_ && access.waiting().size() > 1) access.move_back(victim_);
  }

 private:
  static SimulationSetup overloaded(SimulationSetup setup) {
    setup.arrival_period = 1;
    setup.burst_max = 4;
    setup.scheduler.queued_requests_max = 8;
    setup.scheduler.queued_tokens_max = 2000;
    setup.executor.failure_period = 0;
    setup.cancel_period = 0;
    return setup;
  }

  RequestId victim_ = 0;
};

// Two sequences of one plan get each other's new blocks.
class SwappedBlocks : public Mutant {
 public:
  using Mutant::Mutant;

 protected:
  void change_plan(StepPlan& plan) override {
    if (!ripe() || planted_) return;
    for (size_t i = 1; i < plan.append.size() && !planted_; ++i) {
      AppendBlocks& a = plan.append[i - 1];
      AppendBlocks& b = plan.append[i];
      if (a.group != b.group || a.slot == b.slot) continue;
      std::swap(a.blocks.back(), b.blocks.back());
      planted_ = true;
    }
  }
};

// Two cached prefixes name each other's blocks: a hit finds another prompt's values.
class WrongHit : public Mutant {
 public:
  using Mutant::Mutant;

 protected:
  void before_plan(Scheduler& scheduler) override {
    if (!ripe() || !random_.one_in(8)) return;
    planted_ |= SchedulerTestAccess(scheduler).swap_cached_blocks(0);
  }
};

// A row of one sequence is run on another's slot.
class SwappedRows : public Mutant {
 public:
  using Mutant::Mutant;

 protected:
  std::optional<StepResult> take_result(SimExecutor& executor) override {
    std::optional<StepResult> result = executor.poll();
    if (!result || !ripe()) return result;
    for (size_t i = 1; i < result->rows.size(); ++i) {
      RowResult& a = result->rows[i - 1];
      RowResult& b = result->rows[i];
      if (a.tokens.size() != b.tokens.size() || a.tokens == b.tokens) continue;
      std::swap(a.tokens, b.tokens);
      planted_ = true;
    }
    return result;
  }
};

// The engine reads a step's token ids before the step is complete.
class UncommittedRead : public Mutant {
 public:
  using Mutant::Mutant;

 protected:
  std::optional<StepResult> take_result(SimExecutor& executor) override {
    if (!ripe() || planted_ || !executor.next_ready_us()) return executor.poll();
    const StepResult early = executor.output_before_completion();
    executor.advance_to(*executor.next_ready_us());
    std::optional<StepResult> result = executor.poll();
    if (!result) return result;
    for (size_t i = 0; i < result->rows.size(); ++i) {
      TokenRun& tokens = result->rows[i].tokens;
      if (tokens.empty()) continue;
      tokens.assign(early.rows[i].tokens.begin(), early.rows[i].tokens.begin() + tokens.size());
      read_ = true;
    }
    return result;
  }
  // A request that was cancelled meanwhile gets nothing, and shows nothing.
  void after_commit(Scheduler&) override { planted_ |= read_; }

 private:
  bool read_ = false;
};

// A slot is closed by a plan that still runs a row of it.
class EarlyClose : public Mutant {
 public:
  using Mutant::Mutant;

 protected:
  void change_plan(StepPlan& plan) override {
    if (ripe() && !plan.rows.empty()) {
      plan.close.push_back(plan.rows.front().slot);
      planted_ = true;
    }
  }
};

// What became of one bug over the seeds.
struct Verdict {
  int32_t planted = 0;
  int32_t caught = 0;
  std::string example;
};

constexpr uint64_t kSeeds = 60;

template <typename Bug>
Verdict try_bug(int32_t steps = 300) {
  Verdict verdict;
  for (uint64_t seed = 1; seed <= kSeeds; ++seed) {
    Bug mutant(seed);
    const std::optional<std::string> problem = mutant.run(steps);
    if (!mutant.planted()) {
      EXPECT_FALSE(problem) << "without its bug, seed " << seed << ": " << *problem;
      continue;
    }
    ++verdict.planted;
    if (!problem) continue;
    ++verdict.caught;
    verdict.example = *problem;
  }
  return verdict;
}

void expect_always_caught(const Verdict& v) {
  EXPECT_GT(v.planted, static_cast<int32_t>(kSeeds / 4));
  EXPECT_EQ(v.caught, v.planted);
}

// Where a world may hide the bug: another request may never read what was spoiled.
void expect_often_caught(const Verdict& v) {
  EXPECT_GT(v.planted, static_cast<int32_t>(kSeeds / 4));
  EXPECT_GT(v.caught * 2, v.planted);
}

bool says(const Verdict& v, const char* text) { return v.example.find(text) != std::string::npos; }

TEST(PlantedBug, LeakIsCaughtByTheBooks) {
  const Verdict v = try_bug<Leak>();
  expect_always_caught(v);
  EXPECT_TRUE(says(v, "references are not exact")) << v.example;
}

TEST(PlantedBug, DoubleFreeIsCaughtByTheBooks) { expect_always_caught(try_bug<DoubleFree>()); }

TEST(PlantedBug, LostRequestIsCaught) {
  const Verdict v = try_bug<LostRequest>();
  expect_often_caught(v);
  EXPECT_TRUE(says(v, "never ended") || says(v, "starves")) << v.example;
}

TEST(PlantedBug, StarvationIsCaught) {
  const Verdict v = try_bug<Starvation>(3000);
  expect_often_caught(v);
  EXPECT_TRUE(says(v, "starves")) << v.example;
}

TEST(PlantedBug, MixedTokensOfSwappedBlocksAreCaught) {
  expect_often_caught(try_bug<SwappedBlocks>());
}

TEST(PlantedBug, MixedTokensOfAWrongPrefixHitAreCaught) {
  const Verdict v = try_bug<WrongHit>(1500);
  expect_often_caught(v);
  EXPECT_TRUE(says(v, "wrong token")) << v.example;
}

TEST(PlantedBug, MixedTokensOfSwappedRowsAreCaught) {
  const Verdict v = try_bug<SwappedRows>();
  expect_often_caught(v);
  EXPECT_TRUE(says(v, "wrong token")) << v.example;
}

TEST(PlantedBug, ReadOfAnUncommittedValueIsCaught) {
  const Verdict v = try_bug<UncommittedRead>();
  expect_often_caught(v);
  EXPECT_TRUE(says(v, "uncommitted")) << v.example;
}

TEST(PlantedBug, SlotClosedTooEarlyIsCaught) { expect_always_caught(try_bug<EarlyClose>()); }

}  // namespace
}  // namespace fathom
