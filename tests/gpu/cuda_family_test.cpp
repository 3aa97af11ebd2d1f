// Every tiny checkpoint of tests/model/goldens/families through the engine's steps on CUDA: the
// scheduler, chunked prompts mixed with decodes, captured steps. In `reference` against what
// transformers computed, in `native` against the CPU backend, which is the definition. Needs a GPU.
#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <cstdio>
#include <map>

#include "model/family_golden.h"
#include "ops/cpu/cpu_ops.h"
#include "ops/cuda/cuda_ops.h"
#include "support/forward_ops.h"
#include "support/step_loop.h"
#include "weights/synthetic.h"

namespace fathom::testing {
namespace {

// Prompts in chunks of at most 64 tokens, beside the decodes of other requests.
constexpr StepLoopOptions kOptions{
    .rows = 4, .tokens_max = 64, .model_len = 128, .drafts = 0, .blocks = 40};
constexpr int64_t kArenaBytes = int64_t{256} << 20;
constexpr RequestId kForced = 1;
// Parts of the golden answer that requests after it have as the end of their prompts.
constexpr int32_t kKnown[] = {0, 5, 11, 17, 26};
// Of the choices, those that must count; near ties of experts, which are left out, do not.
constexpr double kCountedShare = 0.6;

// Largest error of a logit, as a share of the logits' root mean square (docs/numerics.md).
constexpr float kReferenceBound = 2e-4F;
// In native numerics a model answers for its own bound: CUDA may lie as far from the CPU as the CPU
// lies from itself when one of so many numbers that linear layers write falls to the other side of
// a tie (tests/ops/tolerances.h, kFp8ProductBF16), and half as far again, for a few runs' largest
// is not the largest of all.
constexpr uint32_t kStepsOf = 30;
constexpr int kMovedRuns = 3;
constexpr float kOverMoved = 1.5F;
// Routers whose choice is nearer than this may choose otherwise (relative gap of the scores, which
// moves by as much as the logits do).
constexpr float kReferenceTie = 1e-5F;
constexpr float kNativeTie = 0.05F;

// The CPU, some of whose linear layers' numbers are moved by a step of bf16.
class MovedOps final : public ForwardOps {
 public:
  MovedOps(Ops& inner, uint32_t seed) : ForwardOps(inner), state_(seed) {}

  Tensor linear(const Act& x, const Weight& w) override { return moved(inner_.linear(x, w)); }
  Partial linear_partial(const Act& x, const Weight& w, const Tensor& out) override {
    return Partial{moved(inner_.linear_partial(x, w, out).data)};
  }

 private:
  Tensor moved(const Tensor& t) {
    FATHOM_CHECK(t.dtype == DType::kBF16, "native numerics write bf16");
    for (int64_t i = 0; i < t.elements(); ++i) {
      state_ = state_ * 1664525U + 1013904223U;
      const uint32_t random = state_ >> 8;
      if (random % kStepsOf != 0) continue;
      t.as<uint16_t>()[i] += random / kStepsOf % 2 == 0 ? 1 : -1;
    }
    return t;
  }

  uint32_t state_;
};

struct Served {
  std::map<RequestId, StepAnswer> answers;
  int64_t vocab = 0;
};

Served serve(Ops& ops, const std::string& name, const FamilyGolden& golden) {
  const std::string directory = families_directory() + "/" + name;
  const auto weights = SyntheticSource::open(directory, golden.seed, false).value();
  ModelOptions options;
  options.tokens_max = kOptions.model_len;
  const auto model = load_model(directory, *weights, ops, {}, options).value();
  StepLoop loop(ops, *model, kOptions);
  SamplingParams sampling;
  sampling.temperature = 0.0F;
  sampling.logprobs = kLogprobsMax;
  sampling.ignore_eos = true;
  // All tokens are forced, so that one chosen otherwise hides no other.
  SamplingParams forced = sampling;
  forced.prompt_logprobs = true;
  forced.max_tokens = 1;
  std::vector<TokenId> tokens = golden.prompt;
  tokens.insert(tokens.end(), golden.greedy.begin(), golden.greedy.end());
  loop.submit(kForced, tokens, forced);
  RequestId id = kForced;
  for (const int32_t known : kKnown) {
    loop.turn();
    tokens.resize(golden.prompt.size() + static_cast<size_t>(known));
    std::copy_n(golden.greedy.begin(), known, tokens.begin() + golden.prompt.size());
    sampling.max_tokens = static_cast<int32_t>(golden.greedy.size()) - known;
    loop.submit(++id, tokens, sampling);
  }
  loop.run_until_idle();
  return {loop.answers(), model->info().vocab};
}

// Positions that were compared, and what was found.
struct Found {
  float error = 0.0F;                           // largest, of a difference of two logits
  float relative = 0.0F;                        // largest, over the position's root mean square
  std::vector<float> by_position;               // the largest of each
  int32_t near_ties = 0;                        // positions left out
  std::vector<std::pair<float, bool>> choices;  // the reference's margin; the same token

  void add(float difference, float rms) {
    const bool larger = difference > error || difference != difference;
    error = larger ? difference : error;
    relative = std::max(relative, difference / rms);
    by_position.back() = std::max(by_position.back(), difference / rms);
  }
  // What three of four positions stay below.
  float usual() const {
    std::vector<float> sorted = by_position;
    std::sort(sorted.begin(), sorted.end());
    return sorted.empty() ? 0.0F : sorted[sorted.size() * 3 / 4];
  }
  int64_t counted() const {
    return std::count_if(choices.begin(), choices.end(),
                         [&](const auto& c) { return c.first > 4 * error; });
  }
  int64_t counted_equal() const {
    return std::count_if(choices.begin(), choices.end(),
                         [&](const auto& c) { return c.first > 4 * error && c.second; });
  }
};

std::optional<float> value_of(const TokenLogprobs& entry, TokenId id) {
  for (const auto& [other, value] : entry.top) {
    if (other == id) return value;
  }
  return {};
}

// Log probabilities against logits: both as distances to the reference's best token.
void compare_to_golden(const StepAnswer& answer, const FamilyGolden& golden, Found& found) {
  ASSERT_EQ(answer.prompt_logprobs.size(), golden.positions.size());
  for (size_t i = 0; i < golden.positions.size(); ++i) {
    const GoldenPosition& at = golden.positions[i];
    found.near_ties += at.routing_gap < kReferenceTie ? 1 : 0;
    if (found.near_ties > 0) continue;  // an expert chosen otherwise is seen by all that follow
    const TokenLogprobs& made = answer.prompt_logprobs[i];
    found.choices.emplace_back(at.margin(), made.top.at(0).first == at.top_ids[0]);
    const auto best = value_of(made, at.top_ids[0]);
    ASSERT_TRUE(best) << "position " << i;
    found.by_position.push_back(0.0F);
    for (size_t k = 1; k < at.top_ids.size(); ++k) {
      const auto value = value_of(made, at.top_ids[k]);
      ASSERT_TRUE(value) << "position " << i;
      found.add(std::fabs(*value - *best - (at.top_values[k] - at.top_values[0])), at.rms);
    }
  }
}

void compare_to_cpu(const StepAnswer& answer, const StepAnswer& cpu, const FamilyGolden& golden,
                    float tie, Found& found) {
  ASSERT_EQ(answer.prompt_logprobs.size(), cpu.prompt_logprobs.size());
  for (size_t i = 0; i < cpu.prompt_logprobs.size(); ++i) {
    const GoldenPosition& at = golden.positions.at(i);
    if (at.routing_gap < tie) {
      ++found.near_ties;
      continue;
    }
    const TokenLogprobs& expected = cpu.prompt_logprobs[i];
    const TokenLogprobs& made = answer.prompt_logprobs[i];
    found.choices.emplace_back(expected.top.at(0).second - expected.top.at(1).second,
                               expected.top.at(0).first == made.top.at(0).first);
    found.by_position.push_back(0.0F);
    for (size_t k = 0; k < expected.top.size() / 2; ++k) {
      const auto value = value_of(made, expected.top[k].first);
      ASSERT_TRUE(value) << "position " << i;
      found.add(std::fabs(*value - expected.top[k].second), at.rms);
    }
  }
}

// Answers up to each one's first difference; margins are the reference's.
void compare_answers(const std::vector<TokenId>& made, const std::vector<TokenId>& expected,
                     const std::vector<float>& margins, Found& found) {
  ASSERT_EQ(made.size(), expected.size());
  for (size_t i = 0; i < made.size(); ++i) {
    found.choices.emplace_back(margins.at(i), made[i] == expected[i]);
    if (made[i] != expected[i]) return;
  }
}

bool is_dense(const FamilyGolden& golden) {
  return std::all_of(golden.positions.begin(), golden.positions.end(),
                     [](const GoldenPosition& at) { return at.routing_gap >= 1.0F; });
}

// How many tokens of an answer after `known` golden ones are compared: all of a dense model's; of a
// model with experts those that the golden has too, before the first near tie.
size_t comparable(const std::vector<TokenId>& expected, const FamilyGolden& golden, size_t known,
                  float tie) {
  if (is_dense(golden)) return expected.size();
  size_t count = 0;
  while (count < expected.size() &&
         golden.positions[golden.prompt.size() - 1 + known + count].routing_gap >= tie &&
         expected[count] == golden.greedy[known + count]) {
    ++count;
  }
  return count;
}

// `error`: of `found`, what the bound is of.
void expect_good(const std::string& name, const Found& found, float error, float bound,
                 double share) {
  const auto all = static_cast<double>(found.choices.size()) + found.near_ties;
  std::printf(
      "%-24s largest error %.2g of the logits' size, usual %.2g (bound %.2g); %.0f choices, %ld "
      "counted (%.0f %%), %ld equal; %d near ties left out\n",
      name.c_str(), static_cast<double>(found.relative), static_cast<double>(found.usual()),
      static_cast<double>(bound), all, static_cast<long>(found.counted()),
      100.0 * static_cast<double>(found.counted()) / all, static_cast<long>(found.counted_equal()),
      found.near_ties);
  EXPECT_LT(error, bound);
  EXPECT_EQ(found.counted_equal(), found.counted());
  EXPECT_GE(static_cast<double>(found.counted()), share * all);
}

class CudaFamily : public ::testing::TestWithParam<std::string> {
 protected:
  void SetUp() override { golden_ = read_family_golden(GetParam()); }

  // Every known part's request, its id and the number of golden tokens that it starts with.
  template <typename Compare>
  void for_each_answer(const Compare& compare) {
    RequestId id = kForced;
    for (const int32_t known : kKnown) compare(++id, static_cast<size_t>(known));
  }

  FamilyGolden golden_;
};

TEST_P(CudaFamily, ReferenceEqualsTransformers) {
  auto ops = CudaOps::make({Numerics::kReference, kArenaBytes});
  ASSERT_TRUE(ops.is_ok()) << ops.status().to_string();
  const Served served = serve(**ops, GetParam(), golden_);
  Found found;
  compare_to_golden(served.answers.at(kForced), golden_, found);
  for_each_answer([&](RequestId id, size_t known) {
    const std::vector<TokenId> expected(golden_.greedy.begin() + static_cast<int64_t>(known),
                                        golden_.greedy.end());
    std::vector<float> margins;
    for (size_t i = golden_.prompt.size() - 1 + known; i < golden_.positions.size(); ++i) {
      margins.push_back(golden_.positions[i].margin());
    }
    if (found.near_ties == 0) {
      compare_answers(served.answers.at(id).tokens, expected, margins, found);
    }
  });
  EXPECT_GE(found.choices.size(), 43U) << "too many positions follow a near tie of experts";
  expect_good(GetParam(), found, found.relative, kReferenceBound, kCountedShare);
}

TEST_P(CudaFamily, NativeEqualsTheCpu) {
  const auto cpu_ops = make_cpu_ops({Numerics::kNative, 8, kArenaBytes});
  const Served cpu = serve(*cpu_ops, GetParam(), golden_);
  auto ops = CudaOps::make({Numerics::kNative, kArenaBytes});
  ASSERT_TRUE(ops.is_ok()) << ops.status().to_string();
  const Served served = serve(**ops, GetParam(), golden_);
  EXPECT_GT((*ops)->replay_count(), 0);
  Found found;
  compare_to_cpu(served.answers.at(kForced), cpu.answers.at(kForced), golden_, kNativeTie, found);
  for_each_answer([&](RequestId id, size_t known) {
    const StepAnswer& expected = cpu.answers.at(id);
    std::vector<float> margins;
    for (const TokenLogprobs& entry : expected.logprobs) {
      margins.push_back(entry.top.at(0).second - entry.top.at(1).second);
    }
    std::vector<TokenId> first = expected.tokens;
    std::vector<TokenId> made = served.answers.at(id).tokens;
    ASSERT_EQ(made.size(), first.size());
    first.resize(comparable(first, golden_, known, kNativeTie));
    made.resize(first.size());
    compare_answers(made, first, margins, found);
  });
  // An expert that was chosen otherwise is seen by positions that follow, far from any tie.
  const bool dense = is_dense(golden_);
  const auto error_of = [&](const Found& of) { return dense ? of.relative : of.usual(); };
  float bound = 0.0F;
  for (uint32_t run = 1; run <= kMovedRuns; ++run) {
    const auto inner = make_cpu_ops({Numerics::kNative, 8, kArenaBytes});
    MovedOps moved(*inner, run);
    const Served other = serve(moved, GetParam(), golden_);
    Found from_itself;
    compare_to_cpu(other.answers.at(kForced), cpu.answers.at(kForced), golden_, kNativeTie,
                   from_itself);
    bound = std::max(bound, kOverMoved * error_of(from_itself));
  }
  expect_good(GetParam(), found, error_of(found), bound, kCountedShare);
}

INSTANTIATE_TEST_SUITE_P(Families, CudaFamily, ::testing::ValuesIn(family_names()),
                         [](const auto& info) { return info.param; });

}  // namespace
}  // namespace fathom::testing
