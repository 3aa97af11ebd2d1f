// Order of service, order of giving way, chunk sizes.
#include "sched/policy.h"

#include <algorithm>

namespace fathom {

int64_t queue_key(int64_t arrival_us, int32_t priority, int64_t priority_step_us) {
  return arrival_us + priority * priority_step_us;
}

bool runs_before(const Sequence& a, const Sequence& b) {
  if (a.queue_key != b.queue_key) return a.queue_key < b.queue_key;
  return a.order < b.order;
}

bool gives_way_before(const Sequence& a, const Sequence& b) {
  if (a.priority != b.priority) return a.priority > b.priority;
  return a.order > b.order;
}

Sequence* choose_victim(std::span<Sequence* const> running, const Sequence& needy, int32_t group,
                        int32_t preemptions_max) {
  const Sequence* oldest = nullptr;
  for (const Sequence* s : running) {
    if (s->phase != Phase::kRunning) continue;
    if (oldest == nullptr || s->order < oldest->order) oldest = s;
  }
  Sequence* victim = nullptr;
  for (Sequence* s : running) {
    if (s->phase != Phase::kRunning || s == oldest || s->preemptions >= preemptions_max) continue;
    if (s != &needy && s->groups[group].held() == 0) continue;
    if (victim == nullptr || gives_way_before(*s, *victim)) victim = s;
  }
  return victim == &needy ? nullptr : victim;
}

int32_t prefill_chunk(int32_t rest, int32_t tokens_left, int32_t block_tokens, int32_t unit) {
  if (rest <= tokens_left) return rest;
  return tokens_left < block_tokens ? 0 : tokens_left / unit * unit;
}

int32_t whole_rounds(int32_t tokens, int32_t round_tokens) {
  if (tokens <= round_tokens / 2) return tokens;
  const int32_t whole = tokens / round_tokens * round_tokens;
  if (whole > 0 && tokens - whole <= tokens / 3) return whole;
  const int32_t quarter = std::max(round_tokens / 4, 1);
  return tokens / quarter * quarter;
}

bool uses_penalties(const SamplingParams& sampling) {
  return sampling.presence_penalty != 0.0F || sampling.frequency_penalty != 0.0F ||
         sampling.repetition_penalty != 1.0F;
}

}  // namespace fathom
