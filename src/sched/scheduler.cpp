// Construction, the outer shape of plan and commit, and what the engine asks about.
#include "sched/scheduler.h"

#include <algorithm>
#include <limits>
#include <string>

#include "fathom/check.h"

namespace fathom {
namespace {

// Blocks of a window group that a sequence can need at once: the window behind the oldest position
// that may still be computed, the rows in flight, and a block begun at either end.
int32_t window_blocks_wanted(const SchedulerOptions& o, int32_t window, int32_t block_tokens) {
  const int32_t ahead = o.depth * (1 + o.speculative_tokens);
  return blocks_for(window + ahead, block_tokens) + 1;
}

Status check_group(const SchedulerOptions& o, const KvLayout& layout, size_t group) {
  const KvGroup& g = layout.groups[group];
  const int32_t blocks = o.blocks[group] - 1;
  int32_t least = 1;
  if (g.window_tokens) {
    if (*g.window_tokens < 1) {
      return invalid_argument("cache group '" + g.name + "' has an empty window");
    }
    least = window_blocks_wanted(o, *g.window_tokens, layout.block_tokens) +
            blocks_for(*g.window_tokens, layout.block_tokens);
  }
  if (blocks < least) {
    return invalid_argument("cache group '" + g.name + "' has " + std::to_string(blocks) +
                            " blocks beside the padding; it needs at least " +
                            std::to_string(least))
        .about("blocks");
  }
  return Status::ok();
}

ChunkShape chunk_shape(const KvLayout& layout) {
  const bool latent = std::ranges::any_of(layout.groups, &KvGroup::latent);
  return latent ? kLatentChunks : ChunkShape{};
}

struct Bound {
  const char* setting;
  int64_t value;
  int64_t least;
};

}  // namespace

Status Scheduler::validate(const SchedulerOptions& o, const KvLayout& layout) {
  if (layout.block_tokens < 1 || layout.groups.empty()) {
    return invalid_argument("the KV layout has no blocks or no cache groups").about("layout");
  }
  const Bound bounds[] = {
      {"max_model_len", o.max_model_len, 2},
      {"max_num_seqs", o.max_num_seqs, 1},
      {"max_num_batched_tokens", o.max_num_batched_tokens,
       std::max(layout.block_tokens, 1 + o.speculative_tokens)},
      {"speculative_tokens", o.speculative_tokens, 0},
      {"depth", o.depth, 1},
      {"queued_requests_max", o.queued_requests_max, 1},
      {"queued_tokens_max", o.queued_tokens_max, 1},
      {"answer_margin_tokens", o.answer_margin_tokens, 0},
      {"free_percent", o.free_percent, 0},
      {"preemptions_max", o.preemptions_max, 0},
      {"penalty_slots", o.penalty_slots, 0},
      {"priority_step_us", o.priority_step_us, 0},
  };
  for (const Bound& b : bounds) {
    if (b.value >= b.least) continue;
    return invalid_argument(std::string(b.setting) + " is " + std::to_string(b.value) +
                            "; it must be at least " + std::to_string(b.least))
        .about(b.setting);
  }
  if (o.speculative_tokens >= static_cast<int32_t>(TokenRun::kMax)) {
    return invalid_argument("speculative_tokens must be below " + std::to_string(TokenRun::kMax))
        .about("speculative_tokens");
  }
  if (o.prefill_chunk_tokens_max && *o.prefill_chunk_tokens_max < layout.block_tokens) {
    return invalid_argument("prefill_chunk_tokens_max is below one block")
        .about("prefill_chunk_tokens_max");
  }
  if (o.prefill_slowdown_max && !(*o.prefill_slowdown_max > 1.0)) {
    return invalid_argument("prefill_slowdown_max must be over 1").about("prefill_slowdown_max");
  }
  if (o.prefill_step_us_max && *o.prefill_step_us_max < 1) {
    return invalid_argument("prefill_step_us_max must be at least 1").about("prefill_step_us_max");
  }
  if (o.round_tokens && *o.round_tokens < 1) {
    return invalid_argument("round_tokens must be at least 1").about("round_tokens");
  }
  if (o.prompt_logprob_tokens_max && *o.prompt_logprob_tokens_max < layout.block_tokens) {
    return invalid_argument("prompt_logprob_tokens_max is below one block")
        .about("prompt_logprob_tokens_max");
  }
  if (o.queued_us_max && *o.queued_us_max < 1) {
    return invalid_argument("queued_us_max must be at least 1").about("queued_us_max");
  }
  if (o.free_percent > 90) {
    return invalid_argument("free_percent is over 90").about("free_percent");
  }
  if (o.blocks.size() != layout.groups.size()) {
    return invalid_argument("blocks has " + std::to_string(o.blocks.size()) + " entries for " +
                            std::to_string(layout.groups.size()) + " cache groups")
        .about("blocks");
  }
  for (size_t g = 0; g < layout.groups.size(); ++g) {
    FATHOM_RETURN_IF_ERROR(check_group(o, layout, g));
  }
  return Status::ok();
}

Scheduler::Scheduler(SchedulerOptions options, const KvLayout& layout, BlockHash hash)
    : options_(std::move(options)),
      kv_(layout, options_.blocks, options_.layout_id, std::move(hash)),
      chunk_shape_(chunk_shape(layout)),
      max_model_len_(options_.max_model_len),
      load_(layout.groups.size(), 0),
      flights_(options_.depth) {
  const Status valid = validate(options_, layout);
  FATHOM_CHECK(valid.is_ok(), valid.to_string());
  for (int32_t g = 0; g < kv_.groups(); ++g) {
    if (kv_.is_window(g)) continue;
    const int64_t held = int64_t{kv_.pool(g).total()} * kv_.block_tokens();
    max_model_len_ = static_cast<int32_t>(std::min<int64_t>(max_model_len_, held));
  }
  for (SlotId slot = options_.max_num_seqs; slot >= 1; --slot) free_slots_.push_back(slot);
}

Scheduler::~Scheduler() = default;

void Scheduler::emit(RequestId id, StreamEvent event) { events_.push_back({id, std::move(event)}); }

CommitOutput Scheduler::take_events() { return {std::exchange(events_, {})}; }

void Scheduler::cancel(RequestId id) {
  const auto it = live_.find(id);
  if (it == live_.end() || !it->second->is_live()) return;
  end(*it->second, FinishReason::kCancelled, Status::ok());
  sweep();
}

void Scheduler::expire(int64_t now_us) {
  while (!deadlines_.empty() && deadlines_.begin()->first <= now_us) {
    end(*live_.at(deadlines_.begin()->second), FinishReason::kDeadline,
        Status(Code::kDeadlineExceeded, "the request's deadline passed")
            .because("deadline_exceeded"));
  }
  while (!queue_deadlines_.empty() && queue_deadlines_.begin()->first <= now_us) {
    end(*live_.at(queue_deadlines_.begin()->second), FinishReason::kError,
        unavailable("the request waited longer than queue_seconds for its turn")
            .because("queue_timeout"));
  }
  sweep();
}

void Scheduler::fail_all(const Status& status) {
  failed_ = true;
  flight_count_ = 0;
  std::vector<Sequence*> all;
  for (auto& [id, s] : live_) all.push_back(s.get());
  std::ranges::sort(all, {}, &Sequence::order);
  for (Sequence* s : all) {
    s->plans = 0;
    s->tokens_ahead = 0;
    if (s->is_live()) {
      end(*s, FinishReason::kError, status);
    } else {
      leave(*s);
    }
  }
  sweep();
}

std::optional<StepPlan> Scheduler::plan(int64_t now_us) {
  expire(now_us);
  if (failed_ || flight_count_ == options_.depth) return std::nullopt;
  if (running_.empty() && waiting_.empty()) return std::nullopt;
  PlanInFlight& next = flight(flight_count_);
  next.rows.clear();
  Draft draft{{},
              std::move(next.rows),
              StepBudget(options_.max_num_batched_tokens, chunk_shape_),
              now_us,
              options_.prompt_logprob_tokens_max.value_or(options_.max_num_batched_tokens)};
  draft.plan.rows.reserve(running_.size());
  plan_decodes(draft);
  bound_prefills(draft);
  plan_prefills(draft);
  sweep();
  if (!draft.short_of_blocks) start_waiting(draft);
  if (draft.rows.empty()) {
    next.rows = std::move(draft.rows);
    return std::nullopt;
  }
  return launch(draft);
}

CommitOutput Scheduler::commit(StepResult result, int64_t now_us) {
  FATHOM_CHECK(flight_count_ > 0, "a result without a plan in flight");
  const PlanInFlight& done = flight(0);
  FATHOM_CHECK(result.number == done.number, "results must come in the order of plans");
  FATHOM_CHECK(result.rows.size() == done.rows.size(), "a result must have its plan's rows");
  events_.reserve(events_.size() + done.rows.size());
  count_step(done, result);
  for (size_t i = 0; i < done.rows.size(); ++i) apply_row(done.rows[i], result.rows[i]);
  flight_first_ = (flight_first_ + 1) % static_cast<int32_t>(flights_.size());
  --flight_count_;
  sweep();
  expire(now_us);
  return take_events();
}

void Scheduler::count_step(const PlanInFlight& step, const StepResult& result) {
  int32_t tokens = 0;
  PromptWork prompts;
  int32_t decode_rows = 0;
  for (const PlannedRow& row : step.rows) {
    tokens += row.tokens;
    if (row.kind == RowKind::kPrefill) {
      prompts += chunk_shape_.work(row.tokens, row.context);
    } else {
      ++decode_rows;
    }
  }
  pace_.observe(decode_rows, prompts, result.own_us);
  ++totals_.steps_total;
  totals_.step_tokens.add(kStepTokensBounds, tokens);
  totals_.step_seconds.add(kStepSecondsBounds, static_cast<double>(result.duration_us) * 1e-6);
}

std::optional<int64_t> Scheduler::next_deadline_us() const {
  std::optional<int64_t> next;
  for (const auto* set : {&deadlines_, &queue_deadlines_}) {
    if (set->empty()) continue;
    next = std::min(next.value_or(set->begin()->first), set->begin()->first);
  }
  return next;
}

EngineStats Scheduler::stats() const {
  EngineStats stats = totals_;
  stats.requests_waiting = static_cast<int32_t>(waiting_.size());
  stats.waiting_tokens =
      static_cast<int32_t>(std::min<int64_t>(waiting_tokens_, std::numeric_limits<int32_t>::max()));
  for (const Sequence* s : running_) stats.requests_running += s->is_live() ? 1 : 0;
  for (int32_t g = 0; g < kv_.groups(); ++g) {
    stats.blocks_total += kv_.pool(g).total();
    stats.blocks_used += kv_.pool(g).used_count();
    stats.blocks_cached += kv_.pool(g).cached_count();
  }
  return stats;
}

int32_t Scheduler::load(const Sequence& s, int32_t group) const {
  const HeldBlocks& held = s.groups[group];
  const int32_t wanted = s.phase == Phase::kRunning ? held.wanted : 0;
  if (kv_.is_window(group)) return std::max(wanted, held.own()) + held.hits;
  return std::max(0, wanted - held.held());
}

void Scheduler::unload(const Sequence& s) {
  for (int32_t g = 0; g < kv_.groups(); ++g) load_[g] -= load(s, g);
}

void Scheduler::reload(const Sequence& s) {
  for (int32_t g = 0; g < kv_.groups(); ++g) load_[g] += load(s, g);
}

int32_t Scheduler::blocks_wanted(const Sequence& s, int32_t group) const {
  if (kv_.is_window(group)) {
    return window_blocks_wanted(options_, kv_.window_tokens(group), kv_.block_tokens());
  }
  // After its last preemption a sequence gets all it can ever need: it must not run short again.
  const bool all = s.preemptions >= options_.preemptions_max;
  const int32_t tokens =
      all ? s.total_tokens_max
          : std::min<int64_t>(s.total_tokens_max,
                              int64_t{s.known()} + options_.answer_margin_tokens);
  return blocks_for(tokens, kv_.block_tokens());
}

}  // namespace fathom
