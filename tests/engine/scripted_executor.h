// ScriptedExecutor: an Executor with a rule instead of a model, on a thread of its own, for tests
// of the engine loop and the engine process. The token after a sequence is a function of its last
// token and its length; some prompts misbehave on purpose.
#pragma once

#include <atomic>
#include <condition_variable>
#include <deque>
#include <memory>
#include <mutex>
#include <thread>
#include <unordered_map>
#include <vector>

#include "base/thread.h"
#include "engine/engine_loader.h"
#include "engine/local_engine.h"
#include "fathom/executor.h"

namespace fathom {

inline constexpr int32_t kScriptVocab = 1000;
// First token of a prompt whose step ends the process, or reports that the executor failed, or
// never ends.
inline constexpr TokenId kCrashToken = 901;
inline constexpr TokenId kFailToken = 902;
inline constexpr TokenId kHangToken = 903;

// What every executor of this kind answers to `prompt`.
std::vector<TokenId> scripted_answer(std::vector<TokenId> prompt, int32_t tokens);

struct ScriptOptions {
  int32_t step_us = 0;
  int32_t depth = 2;
};

class ScriptedExecutor final : public Executor {
 public:
  explicit ScriptedExecutor(ScriptOptions options);
  ~ScriptedExecutor() override;

  int32_t depth() const override { return options_.depth; }
  void submit(StepPlan plan) override;
  std::optional<StepResult> poll() override;
  int event_fd() const override { return event_.fd(); }
  Status health() const override;

  // No step ends while held.
  void hold(bool held);
  uint64_t steps_run() const { return steps_run_.load(); }

 private:
  struct Slot {
    std::vector<TokenId> tokens;
    int32_t prompt_tokens = 0;
    int32_t computed = 0;
    bool finished = false;
    std::shared_ptr<const SamplingParams> sampling;
  };

  void run(std::stop_token stop);
  StepResult execute(const StepPlan& plan, const std::stop_token& stop);
  RowResult run_row(const PlanRow& row);
  void misbehave(TokenId first, const std::stop_token& stop);

  const ScriptOptions options_;
  const EventFd event_;
  std::unordered_map<SlotId, Slot> slots_;  // own thread
  std::atomic<uint64_t> steps_run_{0};
  mutable std::mutex mutex_;
  std::condition_variable_any changed_;
  std::deque<StepPlan> plans_;
  std::deque<StepResult> results_;
  Status failure_;
  bool held_ = false;
  std::jthread thread_;
};

// What the scripted executor is served with.
SchedulerOptions script_scheduler(int32_t max_num_seqs = 32);
KvLayout script_layout();
EngineInfo script_info();
LocalEngineOptions script_engine_options();
// Loads a ScriptedExecutor in place of a model; options.seed is its step_us.
Result<LoadedEngine> load_scripted(const EngineOptions& options, ProgressCallback on_progress);

}  // namespace fathom
