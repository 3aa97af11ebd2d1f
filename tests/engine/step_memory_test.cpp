// What the host allocates for a step of answers that go on: its results, whatever their number.
#include <gtest/gtest.h>

#include <atomic>
#include <cstdlib>
#include <new>

#include "engine/step_program.h"
#include "model/tiny_model.h"
#include "support/forward_ops.h"

namespace {

std::atomic<int64_t> allocations = 0;

}  // namespace

void* operator new(std::size_t bytes) {
  ++allocations;
  void* p = std::malloc(bytes);
  if (p == nullptr) std::abort();
  return p;
}
void operator delete(void* p) noexcept { std::free(p); }
void operator delete(void* p, std::size_t) noexcept { std::free(p); }

namespace fathom::testing {
namespace {

constexpr int kWarmSteps = 4;
constexpr int kSteps = 16;

// A device whose steps are launched and done, each row with a new token.
class InstantOps final : public ForwardOps {
 public:
  using ForwardOps::ForwardOps;

  Result<Tensor> reserve_output(DType dtype, std::initializer_list<int64_t> shape) override {
    FATHOM_ASSIGN(const Tensor t, ForwardOps::reserve_output(dtype, shape));
    if (dtype == DType::kI32) std::fill_n(t.as<int32_t>(), t.elements(), 1);
    return t;
  }
  void edit_slots(const SlotTable&, const StepPlan&) override {}
  void advance(const SlotTable&, const StepPlan&, BatchView&) override {}
  Status run_step(const StepShape&, int32_t, const std::function<Status()>&) override {
    return Status::ok();
  }
};

StepPlan answers(uint64_t number, int32_t rows) {
  StepPlan plan;
  plan.number = number;
  for (SlotId slot = 1; slot <= rows; ++slot)
    plan.rows.push_back({slot, RowKind::kDecode, 1, true});
  return plan;
}

StepPlan opening(int32_t rows) {
  StepPlan plan = answers(1, rows);
  auto sampling = std::make_shared<const SamplingParams>();
  auto tokens = std::make_shared<const std::vector<TokenId>>(8, 1);
  for (SlotId slot = 1; slot <= rows; ++slot) plan.open.push_back({slot, tokens, 8, 7, sampling});
  return plan;
}

int64_t allocations_of_steps(int32_t rows) {
  TinyModel tiny{TinyOptions{}};
  InstantOps ops(*tiny.ops);
  StepProgramOptions options;
  options.cache = tiny.model->kv_layout();
  options.blocks = 2;
  options.step = {rows, rows, rows};
  options.slots = {.slots = rows + 1,
                   .tokens_max = 32,
                   .blocks_max = 1,
                   .vocab = tiny.model->info().vocab,
                   .vocab_padded = tiny.model->info().vocab,
                   .hidden = tiny.model->info().hidden};
  const auto program = std::move(StepProgram::make(ops, *tiny.model, {}, options)).value();
  EXPECT_TRUE(program->launch(opening(rows)).is_ok());
  int64_t counted = 0;
  for (int number = 2; number < 2 + kWarmSteps + kSteps; ++number) {
    const StepPlan plan = answers(static_cast<uint64_t>(number), rows);
    const int64_t before = allocations;
    const Status launched = program->launch(plan);
    const Result<StepResult> result = program->collect();
    if (number >= 2 + kWarmSteps) counted += allocations - before;
    EXPECT_TRUE(launched.is_ok());
    EXPECT_EQ(result->rows.size(), static_cast<size_t>(rows));
    EXPECT_EQ(result->rows.back().tokens, TokenRun{1});
  }
  return counted;
}

TEST(StepMemory, AStepAllocatesItsResultsAlone) {
  for (const int32_t rows : {1, 8, 64}) EXPECT_EQ(allocations_of_steps(rows), kSteps) << rows;
}

}  // namespace
}  // namespace fathom::testing
