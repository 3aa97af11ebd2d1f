// The worlds: what a seed decides before the clock starts.
#include <algorithm>

#include "simulation.h"

namespace fathom {
namespace {

KvLayout make_layout(SimRandom& random) {
  KvLayout layout;
  layout.block_tokens = random.one_in(2) ? 4 : random.between(2, 8);
  layout.groups.resize(random.between(1, 3));
  for (size_t g = 0; g < layout.groups.size(); ++g) {
    layout.groups[g].name = "group " + std::to_string(g);
    // Now and then every group is a window.
    const bool window = g == 0 ? random.one_in(12) : random.one_in(2);
    if (window) layout.groups[g].window_tokens = random.between(1, 20);
  }
  return layout;
}

SchedulerOptions make_options(SimRandom& random, const KvLayout& layout) {
  SchedulerOptions o;
  const int32_t block_tokens = layout.block_tokens;
  o.max_num_seqs = random.between(1, 12);
  o.speculative_tokens = random.one_in(2) ? 0 : random.between(1, 4);
  o.max_num_batched_tokens =
      std::max(block_tokens, 1 + o.speculative_tokens) + random.between(0, 48);
  o.depth = random.one_in(4) ? random.between(1, 4) : 2;
  o.enable_prefix_caching = !random.one_in(5);
  o.queued_requests_max = random.between(2, 24);
  o.queued_tokens_max = random.between(50, 2000);
  o.answer_margin_tokens = random.between(0, 12);
  o.free_percent = random.between(0, 10);
  o.preemptions_max = random.one_in(4) ? random.between(0, 3) : 2;
  o.penalty_slots = random.between(0, 3);
  o.priority_step_us = random.between(0, 2000);
  o.max_model_len = random.between(12, 90);
  for (const KvGroup& g : layout.groups) {
    int32_t blocks = 1 + random.between(2, 60);
    if (g.window_tokens) {
      const int32_t ahead = *g.window_tokens + o.depth * (1 + o.speculative_tokens);
      blocks = 1 + random.between(4, 30) + 2 * (ahead / block_tokens + 1);
    }
    o.blocks.push_back(blocks);
  }
  return o;
}

SimOptions make_executor(SimRandom& random, const KvLayout& layout, const SchedulerOptions& o) {
  SimOptions e;
  e.depth = o.depth;
  e.slots = o.max_num_seqs + 1;
  e.tokens_max = o.max_model_len;
  e.drafts_max = o.speculative_tokens;
  e.blocks = o.blocks;
  e.block_tokens = layout.block_tokens;
  e.seed = random.next();
  e.step_us_max = random.between(1, 100);
  e.failure_period = random.one_in(4) ? random.between(50, 2000) : 0;
  e.model.vocab = 500;
  e.model.eos_period = random.one_in(4) ? 0 : random.between(4, 60);
  for (const KvGroup& g : layout.groups) e.model.windows.push_back(g.window_tokens);
  return e;
}

}  // namespace

SimulationSetup make_setup(uint64_t seed) {
  SimRandom random(seed ^ 0x5EED);
  SimulationSetup s;
  s.layout = make_layout(random);
  s.scheduler = make_options(random, s.layout);
  s.executor = make_executor(random, s.layout, s.scheduler);
  s.tenants = random.between(1, 3);
  s.prefixes = random.between(1, 3);
  s.prompt_tokens_max = random.between(4, s.scheduler.max_model_len + 4);
  s.answer_tokens_max = random.between(1, s.scheduler.max_model_len);
  s.arrival_period = random.between(1, 12);
  s.burst_max = random.one_in(3) ? 8 : 1;
  if (random.one_in(3)) {
    // Short prompts with long answers outgrow what admission foresaw: preemptions.
    s.scheduler.answer_margin_tokens = 0;
    s.scheduler.free_percent = 0;
    s.prompt_tokens_max = random.between(2, 12);
    s.answer_tokens_max = s.scheduler.max_model_len;
    s.executor.model.eos_period = 0;
  }
  s.cancel_period = random.between(5, 200);
  s.deadline_period = random.between(2, 40);
  s.priorities = random.between(1, 3);
  s.colliding_hash = random.one_in(10);
  if (random.one_in(4)) s.scheduler.queued_us_max = random.between(1, 5000);
  if (random.one_in(4)) {
    s.scheduler.prefill_chunk_tokens_max = s.layout.block_tokens + random.between(0, 16);
  }
  if (random.one_in(3)) {
    s.scheduler.prefill_slowdown_max = 1.0 + 0.1 * static_cast<double>(random.between(1, 20));
    s.scheduler.prefill_tokens_min = random.between(0, 12);
  }
  if (random.one_in(4)) {
    s.scheduler.prompt_logprob_tokens_max = s.layout.block_tokens + random.between(0, 16);
  }
  s.scheduler.deterministic = random.one_in(3);
  if (random.one_in(4)) s.scheduler.prefill_step_us_max = random.between(1, 5000);
  s.layout.groups[0].latent = seed % 2 == 0;
  if (random.one_in(3)) s.scheduler.round_tokens = random.between(1, 24);
  return s;
}

void SimulationCounts::add(const SimulationCounts& other) {
  steps += other.steps;
  requests += other.requests;
  tokens += other.tokens;
  cached_tokens += other.cached_tokens;
  preemptions += other.preemptions;
  cancels += other.cancels;
  deadlines += other.deadlines;
  refusals += other.refusals;
  failures += other.failures;
  surplus_rows += other.surplus_rows;
  draft_rejections += other.draft_rejections;
  wait_ratio_max = std::max(wait_ratio_max, other.wait_ratio_max);
}

}  // namespace fathom
