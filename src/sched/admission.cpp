// Admission: into the queue, and from the queue into a slot.
#include <algorithm>
#include <string>

#include "fathom/check.h"
#include "sched/scheduler.h"

namespace fathom {

Status Scheduler::check_request(const Request& request) const {
  const auto prompt = static_cast<int64_t>(request.prompt.size());
  if (request.id == 0) return invalid_argument("a request needs an id").about("id");
  if (live_.contains(request.id)) {
    return Status(Code::kAlreadyExists, "a request with this id has not ended yet").about("id");
  }
  if (prompt == 0) return invalid_argument("the prompt is empty").about("prompt");
  if (prompt >= max_model_len_) {
    return invalid_argument("the prompt has " + std::to_string(prompt) +
                            " tokens; with at least one token of answer this model takes at most " +
                            std::to_string(max_model_len_))
        .about("prompt")
        .because("context_length_exceeded");
  }
  if (request.sampling.max_tokens < 1) {
    return invalid_argument("max_tokens must be at least 1").about("max_tokens");
  }
  if (options_.penalty_slots == 0 && uses_penalties(request.sampling)) {
    return invalid_argument("penalties are off in this engine (penalty_slots is 0)")
        .about("penalties");
  }
  return Status::ok();
}

Status Scheduler::check_queue(const Request& request) const {
  const bool full = static_cast<int32_t>(waiting_.size()) >= options_.queued_requests_max;
  const int64_t tokens = waiting_tokens_ + static_cast<int64_t>(request.prompt.size());
  if (!full && (waiting_.empty() || tokens <= options_.queued_tokens_max)) return Status::ok();
  return resource_exhausted("the queue is full: " + std::to_string(waiting_.size()) +
                            " requests with " + std::to_string(waiting_tokens_) + " tokens wait")
      .because("queue_full");
}

Status Scheduler::admit(Request request, int64_t now_us) {
  if (failed_) return unavailable("the engine has failed").because("engine_failed");
  FATHOM_RETURN_IF_ERROR(check_request(request));
  FATHOM_RETURN_IF_ERROR(check_queue(request));
  auto s = std::make_unique<Sequence>();
  s->id = request.id;
  s->order = next_order_++;
  s->arrived_us = now_us;
  s->queue_key = queue_key(now_us, request.priority, options_.priority_step_us);
  s->priority = request.priority;
  s->deadline_us = request.deadline_us;
  s->tenant = request.tenant;
  s->cache_prefix = request.cache_prefix && options_.enable_prefix_caching;
  s->tokens = std::move(request.prompt);
  s->prompt_tokens = s->known();
  SamplingParams& sampling = request.sampling;
  sampling.max_tokens = std::min(sampling.max_tokens, max_model_len_ - s->prompt_tokens);
  s->total_tokens_max = s->prompt_tokens + sampling.max_tokens;
  s->uses_penalties = uses_penalties(sampling);
  s->sampling = std::make_shared<const SamplingParams>(std::move(sampling));
  s->groups.resize(kv_.groups());
  if (s->deadline_us) deadlines_.emplace(*s->deadline_us, s->id);
  if (options_.queued_us_max) queue_deadlines_.emplace(now_us + *options_.queued_us_max, s->id);
  enqueue(*s);
  live_.emplace(s->id, std::move(s));
  return Status::ok();
}

void Scheduler::enqueue(Sequence& s) {
  s.phase = Phase::kWaiting;
  const auto before = [](const Sequence* a, const Sequence* b) { return runs_before(*a, *b); };
  waiting_.insert(std::upper_bound(waiting_.begin(), waiting_.end(), &s, before), &s);
  waiting_tokens_ += s.known();
}

void Scheduler::remove_waiting(const Sequence& s) {
  const auto it = std::ranges::find(waiting_, &s);
  FATHOM_CHECK(it != waiting_.end(), "a waiting sequence is not in the queue");
  waiting_.erase(it);
  waiting_tokens_ -= s.known();
}

void Scheduler::start_waiting(Draft& draft) {
  for (size_t i = 0; i < waiting_.size();) {
    Sequence& s = *waiting_[i];
    if (free_slots_.empty()) return;
    // Others may pass where they do not compete for what it waits for.
    if (s.uses_penalties && penalties_running_ == options_.penalty_slots) {
      ++i;
      continue;
    }
    const Start start = try_start(s, draft);
    if (start == Start::kNoRoom) return;
    if (start == Start::kLater) ++i;
  }
}

// Of all groups: blocks that are neither used nor promised.
int64_t Scheduler::unpromised_blocks() const {
  int64_t n = 0;
  for (int32_t g = 0; g < kv_.groups(); ++g) n += kv_.pool(g).available() - load_[g];
  return n;
}

Scheduler::Start Scheduler::try_start(Sequence& s, Draft& draft) {
  const int64_t free_blocks = unpromised_blocks();
  if (!running_.empty() && blocked_.id == s.id && free_blocks <= blocked_.free_blocks) {
    return Start::kNoRoom;
  }
  // Left to compute even after the longest hit: a lookup takes a while for a long prompt.
  const int32_t rest_min = (s.known() - 1) % kv_.block_tokens() + 1;
  if (draft.budget.tokens_left() < rest_min) return Start::kNoRoom;
  if (look_up_prefix(s) && prefix_is_coming(s)) return Start::kLater;
  const int32_t cached = match_.blocks * kv_.block_tokens();
  if (next_chunk(s.known() - cached, prefill_tokens_left(s, cached, draft)) == 0)
    return Start::kNoRoom;
  if (!fits(s)) {
    blocked_ = {s.id, free_blocks};
    return Start::kNoRoom;
  }
  open(s, draft);
  add_prefill_row(s, draft);
  FATHOM_CHECK(s.plans == 1, "an admitted sequence must have room for its first chunk");
  return Start::kBegun;
}

// Fills match_ with what the sequence may take from the cache: never its last token, because at
// least one must be computed to sample from. False: it does not read the cache.
bool Scheduler::look_up_prefix(Sequence& s) {
  match_.blocks = 0;
  match_.last = PrefixCache::kRoot;
  match_.entries.clear();
  const bool wants_logprobs =
      s.sampling->prompt_logprobs && s.prompt_logprobs_sent < s.prompt_tokens - 1;
  if (!s.cache_prefix || wants_logprobs) return false;
  const int32_t blocks_max = (s.known() - 1) / kv_.block_tokens();
  kv_.cache().extend_hashes(s.tenant, s.tokens, blocks_max, s.block_hashes);
  kv_.match(s.tenant, s.tokens, s.block_hashes, blocks_max, match_);
  return true;
}

// A running sequence is computing the block after the match, for the same prefix: to wait for its
// commit is cheaper than to compute the block twice (n choices of one prompt arrive together).
// Bounded by that prefill; should it be preempted or leave, nobody computes the block any more.
bool Scheduler::prefix_is_coming(const Sequence& s) const {
  const int32_t next = match_.blocks;
  const int32_t end = (next + 1) * kv_.block_tokens();
  if (end >= s.known()) return false;
  return std::ranges::any_of(running_, [&](const Sequence* other) {
    return other->phase == Phase::kRunning && other->cache_prefix &&
           other->remembered_blocks <= next && other->open_tokens >= end &&
           static_cast<int32_t>(other->block_hashes.size()) > next &&
           other->block_hashes[next] == s.block_hashes[next];
  });
}

// Room for the known tokens, a margin for the answer, and a reserve. A request alone needs no
// reserve: with nothing running it would wait for nobody.
bool Scheduler::fits(const Sequence& s) const {
  const bool alone = running_.empty();
  for (int32_t g = 0; g < kv_.groups(); ++g) {
    const BlockPool& pool = kv_.pool(g);
    const int64_t reserve = alone ? 0 : (int64_t{pool.total()} * options_.free_percent + 99) / 100;
    const int64_t wanted = blocks_wanted(s, g);
    const int64_t hits = match_.blocks - kv_.first_needed(g, match_.blocks);
    int64_t room = 0;
    if (kv_.is_window(g)) {
      room = pool.total() - load_[g] - hits;
    } else {
      room = pool.available() - load_[g] - kv_.unreferenced(match_, g) + hits;
    }
    if (room < wanted + reserve) return false;
  }
  return true;
}

// Takes a slot and the match's blocks; the plan's OpenSlot and their AppendBlocks.
void Scheduler::open(Sequence& s, Draft& draft) {
  remove_waiting(s);
  blocked_ = {};
  s.phase = Phase::kRunning;
  s.slot = free_slots_.back();
  free_slots_.pop_back();
  s.open_tokens = s.known();
  s.cached_tokens = match_.blocks * kv_.block_tokens();
  s.computed = s.cached_tokens;
  s.reserved = s.cached_tokens;
  s.remembered_blocks = match_.blocks;
  s.remembered = match_.last;
  s.prompt_logprobs_seen = 0;
  if (s.uses_penalties) ++penalties_running_;
  const auto before = [](const Sequence* a, const Sequence* b) { return runs_before(*a, *b); };
  running_.insert(std::upper_bound(running_.begin(), running_.end(), &s, before), &s);
  for (int32_t g = 0; g < kv_.groups(); ++g) {
    HeldBlocks& held = s.groups[g];
    held.wanted = blocks_wanted(s, g);
    held.first = kv_.first_needed(g, match_.blocks);
    held.hits = match_.blocks - held.first;
    held.ids.assign(match_.blocks, 0);
    for (int32_t b = held.first; b < match_.blocks; ++b) held.ids[b] = kv_.take(match_, g, b);
    if (held.hits == 0) continue;
    draft.plan.append.push_back(
        {s.slot, g, held.first, {held.ids.begin() + held.first, held.ids.end()}});
  }
  reload(s);
  if (s.sampling->prompt_logprobs && s.prompt_logprobs_sent >= s.prompt_tokens - 1) {
    auto without = std::make_shared<SamplingParams>(*s.sampling);
    without->prompt_logprobs = false;
    s.sampling = std::move(without);
  }
  draft.plan.open.push_back({s.slot, std::make_shared<const std::vector<TokenId>>(s.tokens),
                             s.prompt_tokens, s.cached_tokens, s.sampling});
  announce_start(s, draft.now_us);
}

void Scheduler::stop_queue_clock(const Sequence& s) {
  if (!options_.queued_us_max || s.started) return;
  queue_deadlines_.erase({s.arrived_us + *options_.queued_us_max, s.id});
}

void Scheduler::announce_start(Sequence& s, int64_t now_us) {
  totals_.prefix_query_tokens_total += s.known();
  totals_.prefix_hit_tokens_total += s.cached_tokens;
  if (s.started) return;
  stop_queue_clock(s);
  s.started = true;
  totals_.prompt_tokens_total += s.prompt_tokens;
  emit(s.id,
       StartedEvent{s.prompt_tokens, s.cached_tokens, std::max<int64_t>(0, now_us - s.arrived_us)});
}

}  // namespace fathom
