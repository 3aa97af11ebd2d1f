// A rank in miniature: slot table, blocks with content, rows in order.
#include "support/sim_executor.h"

#include <sys/eventfd.h>
#include <unistd.h>

#include <algorithm>
#include <utility>

#include "fathom/check.h"

namespace fathom {

float sim_logprob(TokenId token) { return -static_cast<float>(token % 1000) / 100.0F; }

SimExecutor::SimExecutor(SimOptions options)
    : options_(std::move(options)),
      memory_(options_.block_tokens, options_.model.windows, options_.blocks, options_.slots),
      random_(options_.seed),
      slots_(options_.slots),
      computed_(options_.slots, 0),
      open_ahead_(options_.slots, 0),
      named_(options_.slots, 0) {
  FATHOM_CHECK(options_.blocks.size() == options_.model.windows.size(),
               "SimOptions.blocks needs one entry per cache group of the model");
  if (options_.step_us_max > 0) return;
  event_fd_ = eventfd(0, EFD_NONBLOCK | EFD_CLOEXEC);
  FATHOM_CHECK(event_fd_ >= 0, "eventfd failed");
}

SimExecutor::~SimExecutor() {
  if (event_fd_ >= 0) close(event_fd_);
}

void SimExecutor::signal() {
  if (event_fd_ < 0) return;
  const uint64_t one = 1;
  FATHOM_CHECK(write(event_fd_, &one, sizeof one) == sizeof one, "eventfd write failed");
}

void SimExecutor::clear_signal() {
  uint64_t count = 0;
  if (event_fd_ >= 0 && read(event_fd_, &count, sizeof count) < 0) return;
}

// What must hold when a plan is handed over, while others are still in flight.
void SimExecutor::check_plan(const StepPlan& plan) {
  if (static_cast<int32_t>(pending_.size()) >= options_.depth) memory_.report("too many plans");
  if (last_number_ != 0 && plan.number != last_number_ + 1) {
    memory_.report("plan numbers skip or repeat");
  }
  last_number_ = plan.number;
  for (SlotId slot : plan.close) {
    if (!open_ahead_[slot]) memory_.report("a plan closes a slot that is not open");
    if (named_[slot] > 0) memory_.report("a plan closes a slot that a plan in flight names");
    open_ahead_[slot] = 0;
  }
  for (const OpenSlot& open : plan.open) {
    if (open.slot <= 0 || open.slot >= options_.slots) memory_.report("no such slot");
    if (open_ahead_[open.slot]) memory_.report("a plan opens a slot that is open");
    if (named_[open.slot] > 0) memory_.report("a plan opens a slot that a plan in flight names");
    open_ahead_[open.slot] = 1;
  }
  for (const PlanRow& row : plan.rows) {
    if (!open_ahead_[row.slot]) memory_.report("a row of a slot that is not open");
    ++named_[row.slot];
  }
}

void SimExecutor::submit(StepPlan plan) {
  check_plan(plan);
  int64_t start_us = now_us_;
  if (!pending_.empty()) start_us = std::max(start_us, pending_.back().ready_us);
  const int32_t duration_us =
      options_.step_us_max > 0 ? random_.between(1, options_.step_us_max) : 0;
  pending_.push_back({std::move(plan), start_us + duration_us, duration_us});
  signal();
}

void SimExecutor::advance_to(int64_t now_us) { now_us_ = std::max(now_us_, now_us); }

std::optional<int64_t> SimExecutor::next_ready_us() const {
  if (pending_.empty() || !health_.is_ok()) return std::nullopt;
  return pending_.front().ready_us;
}

std::optional<StepResult> SimExecutor::poll() {
  const bool ready = !pending_.empty() && health_.is_ok() && pending_.front().ready_us <= now_us_;
  if (!ready) {
    clear_signal();
    return std::nullopt;
  }
  if (random_.one_in(options_.failure_period)) {
    health_ = unavailable("the simulated rank failed");
    return std::nullopt;
  }
  StepResult result = execute(pending_.front().plan);
  result.own_us = pending_.front().own_us;
  pending_.erase(pending_.begin());
  return result;
}

StepResult SimExecutor::output_before_completion() const {
  StepResult result;
  const StepPlan& plan = pending_.front().plan;
  result.number = plan.number;
  for (const PlanRow& row : plan.rows) {
    RowResult& r = result.rows.emplace_back();
    r.slot = row.slot;
    r.accepted = row.tokens;
    const int32_t made = row.kind == RowKind::kPrefill ? int32_t{row.sample} : row.tokens;
    for (int32_t i = 0; i < made; ++i) r.tokens.push_back(kPoisonToken);
  }
  return result;
}

void SimExecutor::open_slot(const OpenSlot& open) {
  Slot& slot = slots_[open.slot];
  slot.open = true;
  slot.history = *open.tokens;
  slot.prompt_tokens = open.prompt_tokens;
  slot.sampling = open.sampling;
  slot.length_max = std::min(options_.tokens_max, open.prompt_tokens + open.sampling->max_tokens);
  slot.shared_blocks = open.computed_tokens / options_.block_tokens;
  slot.finished = FinishReason::kNone;
  slot.value = 0;
  computed_[open.slot] = open.computed_tokens;
  memory_.open(open.slot);
  if (memory_.groups() > 0) return;
  for (int32_t p = 0; p < open.computed_tokens; ++p) {
    slot.value = SimModel::cache_value(slot.value, slot.history[p]);
  }
}

void SimExecutor::edit_slots(const StepPlan& plan) {
  for (SlotId id : plan.close) {
    Slot& slot = slots_[id];
    slot.open = false;
    std::ranges::fill(slot.history, kPoisonToken);
    slot.sampling = nullptr;
    memory_.close(id);
  }
  for (const OpenSlot& open : plan.open) open_slot(open);
  if (memory_.groups() == 0) return;
  for (const AppendBlocks& append : plan.append) {
    memory_.append(append, slots_[append.slot].shared_blocks, computed_);
  }
}

StepResult SimExecutor::execute(const StepPlan& plan) {
  edit_slots(plan);
  StepResult result;
  result.number = plan.number;
  result.rows.reserve(plan.rows.size());
  for (const PlanRow& row : plan.rows) {
    --named_[row.slot];
    result.rows.push_back(run_row(row));
  }
  return result;
}

RowResult SimExecutor::run_row(const PlanRow& row) {
  RowResult result;
  result.slot = row.slot;
  Slot& slot = slots_[row.slot];
  if (!slot.open) {
    memory_.report("a row reads a closed slot");
    return result;
  }
  if (slot.finished != FinishReason::kNone) return result;
  if (row.kind == RowKind::kPrefill) {
    run_prefill(row, slot, result);
  } else {
    run_decode(row, slot, result);
  }
  result.finish = slot.finished;
  return result;
}

void SimExecutor::run_prefill(const PlanRow& row, Slot& slot, RowResult& result) {
  int32_t& computed = computed_[row.slot];
  const auto length = static_cast<int32_t>(slot.history.size());
  if (computed + row.tokens > length || row.sample != (computed + row.tokens == length)) {
    memory_.report("a prefill row does not fit its prompt");
    return;
  }
  for (int32_t i = 0; i < row.tokens; ++i, ++computed) {
    slot.value = compute(row.slot, computed, slot.value, slot.history[computed]);
    if (!slot.sampling->prompt_logprobs || computed + 1 >= slot.prompt_tokens) continue;
    result.prompt_logprobs.push_back({sim_logprob(slot.history[computed + 1]), {}});
  }
  result.accepted = row.tokens;
  if (row.sample) push_token(slot, sample(row.slot, slot, computed - 1, slot.value), result);
}

void SimExecutor::run_decode(const PlanRow& row, Slot& slot, RowResult& result) {
  int32_t& computed = computed_[row.slot];
  const auto length = static_cast<int32_t>(slot.history.size());
  if (computed != length - 1) return memory_.report("a decode row of a prompt not yet computed");
  if (length + row.tokens > slot.length_max) memory_.report("a row leads past the last token");
  const int32_t drafts = row.kind == RowKind::kVerify
                             ? random_.between(0, std::min(options_.drafts_max, row.tokens - 1))
                             : 0;
  const int32_t kept = random_.between(0, drafts);
  uint64_t value = slot.value;
  for (int32_t i = 0; i <= drafts; ++i) {
    // A draft that is kept is the token just sampled; the others are anything.
    const bool good = i <= kept;
    const TokenId input = good ? slot.history.back() : static_cast<TokenId>(random_.next() % 97);
    value = compute(row.slot, computed + i, value, input);
    if (!good || slot.finished != FinishReason::kNone) continue;
    slot.value = value;
    push_token(slot, sample(row.slot, slot, computed + i, value), result);
    ++result.accepted;
  }
  computed += result.accepted;
  result.drafted = drafts;
}

uint64_t SimExecutor::compute(SlotId id, int32_t position, uint64_t before, TokenId token) {
  if (memory_.groups() > 0) before = position == 0 ? 0 : memory_.read(id, 0, position - 1);
  const uint64_t value = SimModel::cache_value(before, token);
  memory_.write(id, position, value);
  return value;
}

TokenId SimExecutor::sample(SlotId id, const Slot& slot, int32_t position, uint64_t value) {
  sums_.clear();
  for (int32_t g = 0; g < memory_.groups(); ++g) sums_.push_back(memory_.sum(id, g, position));
  const auto generated = static_cast<int32_t>(slot.history.size()) - slot.prompt_tokens;
  return options_.model.next_token(value, sums_, *slot.sampling, generated);
}

void SimExecutor::push_token(Slot& slot, TokenId token, RowResult& result) {
  slot.history.push_back(token);
  result.tokens.push_back(token);
  const auto length = static_cast<int32_t>(slot.history.size());
  slot.finished = options_.model.finish(token, *slot.sampling, length - slot.prompt_tokens, length,
                                        slot.length_max);
  if (!slot.sampling->logprobs) return;
  TokenLogprobs& l = result.logprobs.emplace_back();
  l.chosen = sim_logprob(token);
  for (int32_t i = 0; i < *slot.sampling->logprobs; ++i) {
    const TokenId other = (token + i) % options_.model.vocab;
    l.top.emplace_back(other, l.chosen - static_cast<float>(i));
  }
}

}  // namespace fathom
