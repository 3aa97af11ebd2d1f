// StepRunner: a model of generated weights behind the engine's StepProgram, and its steps timed.
// One thread.
#pragma once

#include <map>
#include <memory>
#include <string>
#include <vector>

#include "engine/step_program.h"
#include "step_costs.h"
#include "synthetic_ops.h"

namespace fathom::bench {

// `rows` sequences with `context` tokens each decode; without rows, `prompts` prompts of `prompt`
// tokens, each on a cached prefix of `context`; with both, they decode beside a prompt that has
// none.
struct StepCase {
  int32_t rows = 0;
  int32_t context = 0;
  int32_t prompt = 0;
  int32_t prompts = 1;

  int32_t all_rows() const { return rows + (prompt > 0 ? prompts : 0); }
  int32_t all_tokens() const { return rows + prompts * prompt; }
  int32_t prompt_context() const { return rows > 0 ? 0 : context; }
};

// How the model is loaded, and what its rows ask for.
struct StepLoad {
  bool fp8_cache = false;
  bool pack_weights = false;
  bool greedy = false;  // else a draw at temperature 1
};

struct StepTimes {
  std::vector<double> gpu_us;      // a step's forward and sampling
  std::vector<double> between_us;  // from its last kernel to the next one's first after advance
  std::vector<double> step_us;     // from result to result
  std::vector<double> launch_us;   // host: StepProgram::launch
  // host: launch and collect, without waits and the clock's own events
  std::vector<double> host_us;
  std::map<std::string, double> ops_us;
  int64_t launches = 0;   // kernels of a step after advance
  std::string gpu_state;  // clocks, power, temperature while steps ran, as nvidia-smi says
};

class StepRunner {
 public:
  // Sized for `cases`.
  static Result<std::unique_ptr<StepRunner>> make(const std::string& directory,
                                                  const std::vector<StepCase>& cases,
                                                  const StepLoad& how);

  Result<StepTimes> time(const StepCase& one, int32_t rounds, double seconds_max);
  // Without clocks: opens the case's rows, then runs steps of them, one ahead.
  Status open(const StepCase& one) { return run(open_rows(one)); }
  Status replay(const StepCase& one, int32_t steps);
  StepCosts costs(const StepCase& one);
  // The same without a GPU.
  static Result<StepCosts> costs_of(const std::string& directory, const StepCase& one,
                                    const StepLoad& how);
  const ModelInfo& info() const { return counted_->info(); }
  double load_seconds() const { return load_seconds_; }
  // Bytes of the step arena: what the memory plan would reckon, and the most that was taken so far.
  int64_t workspace_planned() const { return workspace_planned_; }
  int64_t workspace_used() const { return ops_->arena().peak(); }

 private:
  StepRunner() = default;

  Status load(const std::string& directory, const std::vector<StepCase>& cases,
              const StepLoad& how);
  StepPlan open_rows(const StepCase& one);
  StepPlan step_of(const StepCase& one);
  void open_prompt(const StepCase& one, StepPlan& plan);
  Status run(const StepPlan& plan);
  Status run_many(const StepCase& one, int32_t steps, double seconds_max, StepTimes& times);
  Status break_down(const StepCase& one, double step_us, StepTimes& times);

  std::unique_ptr<ScratchBounds> scratch_;
  std::unique_ptr<CountedModel> counted_;
  std::unique_ptr<SyntheticOps> ops_;
  std::unique_ptr<Model> model_;
  std::unique_ptr<StepProgram> program_;
  SlotLimits slots_;
  std::vector<SlotId> open_;
  bool greedy_ = false;
  uint64_t number_ = 0;
  double load_seconds_ = 0.0;
  int64_t workspace_planned_ = 0;
};

double median(std::vector<double> values);

}  // namespace fathom::bench
