// Plans by hand: slots opened with their context computed, then steps two in flight, as a worker
// runs them.
#include "step_runner.h"

#include <algorithm>
#include <cstdio>
#include <numeric>
#include <random>

#include "ops/cuda/cuda_scratch.h"
#include "step_clock.h"

namespace fathom::bench {
namespace {

constexpr int32_t kBlockTokens = 64;
constexpr int32_t kMoreTokens = 256;  // that a sequence may grow by while it is timed
constexpr int32_t kPasses = 3;
constexpr double kSlowUs = 2e5;  // steps that are slower are run less often
constexpr int64_t kMoreArenaBytes = int64_t{1} << 30;

int32_t length_of(const StepCase& one) { return one.context + one.prompt + kMoreTokens; }
int32_t blocks_of(const StepCase& one) {
  return (length_of(one) + kBlockTokens - 1) / kBlockTokens;
}

StepShape shape_of(const StepCase& one) {
  StepShape shape;
  shape.rows = one.all_rows();
  shape.context_tokens_max = std::max(one.context, one.prompt_context() + one.prompt);
  shape.sample_rows = one.all_rows();
  shape.tokens = one.all_tokens();
  shape.prefill_tokens_max = one.prompt;
  shape.decode_rows = one.rows;
  shape.query_tokens_max = one.rows > 0 ? 1 : 0;
  return shape;
}

// As the memory plan takes it: as many rows, tokens and as long a context as any step has.
StepShape worst_shape(const StepLimits& limits, int32_t context) {
  StepShape shape;
  shape.rows = limits.rows_max;
  shape.decode_rows = std::max(limits.rows_max - 1, 1);
  shape.tokens = limits.tokens_max;
  shape.query_tokens_max = 1;
  shape.prefill_tokens_max = limits.tokens_max;
  shape.context_tokens_max = context;
  shape.sample_rows = limits.sample_rows_max;
  return shape;
}

int32_t warm_ups_of(const StepCase& one) { return one.prompt > 0 ? 2 : 5; }

// Drawn, each row with a seed of its own: greedy rows of a random model soon say the same.
std::shared_ptr<const SamplingParams> sampling_of(int32_t row, bool greedy) {
  auto sampling = std::make_shared<SamplingParams>();
  sampling->temperature = greedy ? 0.0F : 1.0F;
  sampling->seed = static_cast<uint64_t>(row) + 1;
  sampling->max_tokens = kMoreTokens;
  sampling->ignore_eos = true;
  return sampling;
}

// Sampled while it lives: nvidia-smi is slow to start.
class GpuState {
 public:
  GpuState()
      : pipe_(::popen("nvidia-smi --query-gpu=clocks.sm,clocks.mem,power.draw,temperature.gpu "
                      "--format=csv,noheader 2>/dev/null",
                      "r")) {}
  ~GpuState() { text(); }
  GpuState(const GpuState&) = delete;
  GpuState& operator=(const GpuState&) = delete;

  std::string text() {
    if (pipe_ == nullptr) return text_;
    char line[256] = {};
    if (std::fgets(line, sizeof line, pipe_) != nullptr) text_ = line;
    ::pclose(pipe_);
    pipe_ = nullptr;
    while (!text_.empty() && text_.back() == '\n') text_.pop_back();
    return text_;
  }

 private:
  FILE* pipe_;
  std::string text_;
};

}  // namespace

double median(std::vector<double> values) {
  if (values.empty()) return 0.0;
  const auto middle = values.begin() + static_cast<std::ptrdiff_t>(values.size() / 2);
  std::nth_element(values.begin(), middle, values.end());
  return *middle;
}

Result<std::unique_ptr<StepRunner>> StepRunner::make(const std::string& directory,
                                                     const std::vector<StepCase>& cases,
                                                     const StepLoad& how) {
  std::unique_ptr<StepRunner> runner(new StepRunner());
  const double begin = now_us();
  FATHOM_RETURN_IF_ERROR(runner->load(directory, cases, how));
  runner->load_seconds_ = 1e-6 * (now_us() - begin);
  return runner;
}

Status StepRunner::load(const std::string& directory, const std::vector<StepCase>& cases,
                        const StepLoad& how) {
  StepProgramOptions options;
  int32_t blocks = 1;
  ModelOptions model_options;
  model_options.block_tokens = kBlockTokens;
  greedy_ = how.greedy;
  model_options.fp8_cache = how.fp8_cache;
  model_options.pack_weights = how.pack_weights;
  for (const StepCase& one : cases) {
    model_options.tokens_max = std::max(model_options.tokens_max, length_of(one));
    options.step.rows_max = std::max(options.step.rows_max, one.all_rows());
    options.step.tokens_max = std::max(options.step.tokens_max, one.all_tokens());
    blocks = std::max(blocks, 1 + one.all_rows() * blocks_of(one));
  }
  options.step.sample_rows_max = options.step.rows_max;
  FATHOM_ASSIGN(const auto source, ShapeSource::open(directory));
  FATHOM_ASSIGN(const int32_t sms, device_multiprocessors());
  scratch_ = std::make_unique<CudaScratch>(Numerics::kNative, sms);
  FATHOM_ASSIGN(counted_,
                CountedModel::load(directory, *source, model_options, scratch_.get()));
  const StepShape worst = worst_shape(options.step, model_options.tokens_max);
  workspace_planned_ = counted_->step(worst, counted_->info().vocab).arena_bytes;
  // More than planned, so that a bound that is broken is seen and not died of.
  FATHOM_ASSIGN(ops_, SyntheticOps::make(counted_->weight_bytes(),
                                         workspace_planned_ + kMoreArenaBytes));
  FATHOM_ASSIGN(model_, load_model(directory, *source, *ops_, {}, model_options));

  slots_.slots = options.step.rows_max + 1;
  slots_.tokens_max = model_options.tokens_max;
  slots_.blocks_max = (slots_.tokens_max + kBlockTokens - 1) / kBlockTokens;
  slots_.vocab = slots_.vocab_padded = model_->info().vocab;
  slots_.hidden = model_->info().hidden;
  slots_.penalty_slots = slots_.slots;
  options.slots = slots_;
  options.cache = model_->kv_layout();
  options.blocks = blocks;
  FATHOM_ASSIGN(program_, StepProgram::make(*ops_, *model_, {}, options));
  FATHOM_RETURN_IF_ERROR(program_->warm());
  return ops_->seal();
}

StepCosts StepRunner::costs(const StepCase& one) {
  return counted_->step(shape_of(one), counted_->info().vocab);
}

Result<StepCosts> StepRunner::costs_of(const std::string& directory, const StepCase& one,
                                       const StepLoad& how) {
  ModelOptions options;
  options.fp8_cache = how.fp8_cache;
  options.tokens_max = length_of(one);
  options.block_tokens = kBlockTokens;
  FATHOM_ASSIGN(const auto source, ShapeSource::open(directory));
  FATHOM_ASSIGN(const auto counted, CountedModel::load(directory, *source, options));
  return counted->step(shape_of(one), counted->info().vocab);
}

// Closes what is open; slots 1 on get random tokens and scattered blocks.
StepPlan StepRunner::open_rows(const StepCase& one) {
  StepPlan plan;
  plan.number = ++number_;
  plan.close = std::move(open_);
  open_.clear();
  std::mt19937 random(static_cast<uint32_t>(number_));
  const int32_t rows = one.rows > 0 ? one.rows : one.prompts;
  std::vector<BlockId> blocks(static_cast<size_t>(rows * blocks_of(one)));
  std::iota(blocks.begin(), blocks.end(), 1);
  std::shuffle(blocks.begin(), blocks.end(), random);
  for (int32_t row = 0; row < rows; ++row) {
    const int32_t prompt = one.rows > 0 ? 0 : one.prompt;
    std::vector<TokenId> tokens(static_cast<size_t>(one.context + prompt));
    for (TokenId& id : tokens) {
      id = static_cast<TokenId>(random() % static_cast<uint32_t>(slots_.vocab));
    }
    OpenSlot open;
    open.slot = row + 1;
    open.prompt_tokens = static_cast<int32_t>(tokens.size());
    open.computed_tokens = one.rows > 0 ? one.context - 1 : one.context;
    open.tokens = std::make_shared<const std::vector<TokenId>>(std::move(tokens));
    open.sampling = sampling_of(row, greedy_);
    plan.open.push_back(open);
    const auto first = blocks.begin() + row * blocks_of(one);
    plan.append.push_back({open.slot, 0, 0, {first, first + blocks_of(one)}});
    open_.push_back(open.slot);
  }
  return plan;
}

StepPlan StepRunner::step_of(const StepCase& one) {
  if (one.rows == 0) {
    StepPlan plan = open_rows(one);
    for (SlotId slot = 1; slot <= one.prompts; ++slot)
      plan.rows.push_back({slot, RowKind::kPrefill, one.prompt, true});
    return plan;
  }
  StepPlan plan;
  plan.number = ++number_;
  for (SlotId slot = 1; slot <= one.rows; ++slot)
    plan.rows.push_back({slot, RowKind::kDecode, 1, true});
  if (one.prompt > 0) open_prompt(one, plan);
  return plan;
}

// A new prompt beside the rows that decode, in the slot and the blocks behind theirs.
void StepRunner::open_prompt(const StepCase& one, StepPlan& plan) {
  const SlotId slot = one.rows + 1;
  if (open_.size() > static_cast<size_t>(one.rows)) {
    plan.close.push_back(slot);
  } else {
    open_.push_back(slot);
  }
  OpenSlot open;
  open.slot = slot;
  open.prompt_tokens = one.prompt;
  open.computed_tokens = 0;
  open.tokens = std::make_shared<const std::vector<TokenId>>(
      static_cast<size_t>(one.prompt), static_cast<TokenId>(number_ % 1000));
  open.sampling = sampling_of(one.rows, greedy_);
  plan.open.push_back(open);
  std::vector<BlockId> blocks(static_cast<size_t>(blocks_of(one)));
  std::iota(blocks.begin(), blocks.end(), 1 + one.rows * blocks_of(one));
  plan.append.push_back({slot, 0, 0, std::move(blocks)});
  plan.rows.push_back({slot, RowKind::kPrefill, one.prompt, true});
}

Status StepRunner::run(const StepPlan& plan) {
  FATHOM_RETURN_IF_ERROR(program_->launch(plan));
  FATHOM_ASSIGN(const StepResult result, program_->collect());
  return ops_->synchronize();
}

Status StepRunner::run_many(const StepCase& one, int32_t steps, double seconds_max,
                            StepTimes& times) {
  const int32_t warm_ups = warm_ups_of(one);
  const double begin = now_us();
  double last = 0.0;
  int32_t launched = 0;
  int32_t collected = 0;
  double host = 0.0;
  const auto collect = [&]() -> Status {
    const double start = now_us();
    const double apart = ops_->apart_us();
    FATHOM_ASSIGN(const StepResult result, program_->collect());
    const double end = now_us();
    host += end - start - (ops_->apart_us() - apart);
    if (++collected > warm_ups) {
      times.step_us.push_back(end - last);
      times.host_us.push_back(host);
    }
    host = 0.0;
    last = end;
    return Status::ok();
  };
  while (launched < steps) {
    const bool late = 1e-6 * (now_us() - begin) > seconds_max;
    if (late && launched > warm_ups + 2) break;
    const StepPlan plan = step_of(one);
    const double start = now_us();
    const double apart = ops_->apart_us();
    FATHOM_RETURN_IF_ERROR(program_->launch(plan));
    const double took = now_us() - start - (ops_->apart_us() - apart);
    host += took;
    if (++launched > warm_ups) times.launch_us.push_back(took);
    if (launched - collected == 2) FATHOM_RETURN_IF_ERROR(collect());
  }
  while (collected < launched) FATHOM_RETURN_IF_ERROR(collect());
  return ops_->synchronize();
}

// A pass that is held, several times; then one that only counts.
Status StepRunner::break_down(const StepCase& one, double step_us, StepTimes& times) {
  cudaStream_t stream = ops_->cuda().stream();
  ops_->run_eagerly(true);
  OpClock clock(stream, step_us < 5e4 ? 30'000 : 0);
  ops_->observe(&clock);
  std::map<std::string, std::vector<double>> passes;
  for (int32_t i = 0; i < (step_us < kSlowUs ? kPasses : 1); ++i) {
    FATHOM_RETURN_IF_ERROR(run(step_of(one)));
    for (const auto& [label, us] : clock.totals_us()) passes[label].push_back(us);
  }
  for (const auto& [label, all] : passes) times.ops_us[label] = median(all);
  LaunchCounter counter(stream);
  ops_->observe(&counter);
  FATHOM_RETURN_IF_ERROR(run(step_of(one)));
  ops_->observe(nullptr);
  ops_->run_eagerly(false);
  times.launches = counter.launches();
  return Status::ok();
}

Status StepRunner::replay(const StepCase& one, int32_t steps) {
  StepTimes times;
  return run_many(one, steps, 1e9, times);
}

Result<StepTimes> StepRunner::time(const StepCase& one, int32_t rounds, double seconds_max) {
  StepTimes times;
  FATHOM_RETURN_IF_ERROR(run(open_rows(one)));
  {
    StepClock clock(ops_->cuda().stream());
    ops_->observe(&clock);
    GpuState state;
    FATHOM_RETURN_IF_ERROR(run_many(one, warm_ups_of(one) + rounds, seconds_max, times));
    ops_->observe(nullptr);
    const auto first = static_cast<size_t>(warm_ups_of(one));
    times.gpu_us = clock.steps_us(first);
    times.between_us = clock.gaps_us(first);
    times.gpu_state = state.text();
  }
  FATHOM_RETURN_IF_ERROR(break_down(one, median(times.gpu_us), times));
  return times;
}

}  // namespace fathom::bench
