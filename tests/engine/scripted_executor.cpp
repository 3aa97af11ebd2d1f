// The script, and its slots.
#include "scripted_executor.h"

#include <chrono>
#include <cstdlib>

namespace fathom {
namespace {

TokenId next_token(TokenId last, size_t length) {
  return static_cast<TokenId>((static_cast<size_t>(last) * 31 + length * 7 + 3) % 900);
}

}  // namespace

std::vector<TokenId> scripted_answer(std::vector<TokenId> prompt, int32_t tokens) {
  const size_t prompt_tokens = prompt.size();
  for (int32_t i = 0; i < tokens; ++i) prompt.push_back(next_token(prompt.back(), prompt.size()));
  return {prompt.begin() + static_cast<ptrdiff_t>(prompt_tokens), prompt.end()};
}

ScriptedExecutor::ScriptedExecutor(ScriptOptions options)
    : options_(options), event_(std::move(EventFd::make()).value()) {
  thread_ = start_thread("script", [this](std::stop_token stop) { run(stop); });
}

ScriptedExecutor::~ScriptedExecutor() {
  thread_.request_stop();
  changed_.notify_all();
}

void ScriptedExecutor::submit(StepPlan plan) {
  std::lock_guard lock(mutex_);
  plans_.push_back(std::move(plan));
  changed_.notify_all();
}

std::optional<StepResult> ScriptedExecutor::poll() {
  std::lock_guard lock(mutex_);
  if (results_.empty()) {
    event_.consume();
    return std::nullopt;
  }
  StepResult result = std::move(results_.front());
  results_.pop_front();
  return result;
}

Status ScriptedExecutor::health() const {
  std::lock_guard lock(mutex_);
  return failure_;
}

void ScriptedExecutor::hold(bool held) {
  std::lock_guard lock(mutex_);
  held_ = held;
  changed_.notify_all();
}

void ScriptedExecutor::run(std::stop_token stop) {
  while (!stop.stop_requested()) {
    StepPlan plan;
    {
      std::unique_lock lock(mutex_);
      changed_.wait(lock, stop, [this] { return !plans_.empty() && !held_; });
      if (stop.stop_requested()) return;
      plan = std::move(plans_.front());
      plans_.pop_front();
    }
    if (options_.step_us > 0) {
      std::this_thread::sleep_for(std::chrono::microseconds(options_.step_us));
    }
    StepResult result = execute(plan, stop);
    {
      std::unique_lock lock(mutex_);
      changed_.wait(lock, stop, [this] { return !held_; });
      results_.push_back(std::move(result));
    }
    steps_run_.fetch_add(1);
    event_.notify();
  }
}

StepResult ScriptedExecutor::execute(const StepPlan& plan, const std::stop_token& stop) {
  for (SlotId slot : plan.close) slots_.erase(slot);
  for (const OpenSlot& open : plan.open) {
    misbehave(open.tokens->front(), stop);
    slots_[open.slot] = {*open.tokens, open.prompt_tokens, open.computed_tokens, false,
                         open.sampling};
  }
  StepResult result;
  result.number = plan.number;
  for (const PlanRow& row : plan.rows) result.rows.push_back(run_row(row));
  return result;
}

RowResult ScriptedExecutor::run_row(const PlanRow& row) {
  Slot& slot = slots_.at(row.slot);
  RowResult result;
  result.slot = row.slot;
  if (slot.finished) return result;
  const bool prefill = row.kind == RowKind::kPrefill;
  result.accepted = prefill ? row.tokens : 1;
  slot.computed += result.accepted;
  if (prefill && slot.sampling->prompt_logprobs) {
    const int32_t known = static_cast<int32_t>(slot.tokens.size());
    for (int32_t at = slot.computed - result.accepted + 1; at <= slot.computed; ++at) {
      if (at < known) result.prompt_logprobs.push_back({static_cast<float>(-at), {}});
    }
  }
  if (prefill && !row.sample) return result;
  const TokenId token = next_token(slot.tokens.back(), slot.tokens.size());
  slot.tokens.push_back(token);
  result.tokens.push_back(token);
  if (slot.sampling->logprobs) {
    result.logprobs.push_back({-0.5F, {{token, -0.5F}}});
  }
  const auto length_max =
      static_cast<size_t>(slot.prompt_tokens) + static_cast<size_t>(slot.sampling->max_tokens);
  if (slot.tokens.size() >= length_max) {
    slot.finished = true;
    result.finish = FinishReason::kLength;
  }
  return result;
}

void ScriptedExecutor::misbehave(TokenId first, const std::stop_token& stop) {
  if (first == kCrashToken) std::_Exit(42);
  if (first == kFailToken) {
    {
      std::lock_guard lock(mutex_);
      failure_ = internal_error("a rank was lost, as the script says");
    }
    event_.notify();
  }
  if (first == kHangToken) {
    while (!stop.stop_requested()) {
      std::this_thread::sleep_for(std::chrono::milliseconds(20));
    }
  }
}

SchedulerOptions script_scheduler(int32_t max_num_seqs) {
  SchedulerOptions options;
  options.max_model_len = 4096;
  options.max_num_seqs = max_num_seqs;
  options.max_num_batched_tokens = 512;
  options.blocks = {4096};
  return options;
}

KvLayout script_layout() {
  KvLayout layout;
  layout.block_tokens = 64;
  KvGroup group;
  group.name = "latent";
  group.entry_elements = 8;
  group.layers = 1;
  layout.groups.push_back(group);
  return layout;
}

EngineInfo script_info() {
  EngineInfo info;
  info.model.architecture = "Script";
  info.model.layers = 1;
  info.model.hidden = 1;
  info.model.vocab = kScriptVocab;
  info.model.positions_max = 4096;
  info.max_model_len = 4096;
  info.blocks_total = 4095;
  info.device = "none";
  info.numerics = "native";
  return info;
}

LocalEngineOptions script_engine_options() {
  return {script_scheduler(), script_layout(), script_info(), {}};
}

Result<LoadedEngine> load_scripted(const EngineOptions& options, ProgressCallback on_progress) {
  if (options.model_dir == "missing") return not_found("no such model directory: missing");
  on_progress(0.5);
  LoadedEngine loaded;
  loaded.executor = std::make_unique<ScriptedExecutor>(
      ScriptOptions{.step_us = static_cast<int32_t>(options.seed)});
  loaded.scheduler = script_scheduler(options.max_num_seqs);
  loaded.layout = script_layout();
  loaded.info = script_info();
  return loaded;
}

}  // namespace fathom
