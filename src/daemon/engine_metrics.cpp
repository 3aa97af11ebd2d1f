// EngineStats to series.
#include "daemon/engine_metrics.h"

#include <algorithm>
#include <array>
#include <utility>

namespace fathom {

// A restarted engine counts from zero again: its count is then all new.
void EngineMetrics::add(CounterId id, uint64_t now, uint64_t& before) {
  const uint64_t grown = now >= before ? now - before : now;
  before = now;
  if (grown > 0) metrics_.add(id, static_cast<double>(grown));
}

template <size_t N>
void EngineMetrics::merge(HistogramId id, const BucketCounts<N>& now, BucketCounts<N>& before) {
  std::array<uint64_t, N + 1> grown;
  for (size_t i = 0; i <= N; ++i) {
    if (now.counts[i] < before.counts[i]) before = {};
  }
  for (size_t i = 0; i <= N; ++i) grown[i] = now.counts[i] - before.counts[i];
  metrics_.histogram(id).merge(grown, std::max(0.0, now.sum - before.sum));
  before = now;
}

void EngineMetrics::update(bool ready) {
  std::lock_guard lock(mutex_);
  const EngineStats stats = engine_.stats();
  const EngineHealth health = engine_.health();
  metrics_.set(GaugeId::kRequestsRunning, stats.requests_running);
  metrics_.set(GaugeId::kRequestsWaiting, stats.requests_waiting);
  metrics_.set(GaugeId::kQueuedTokens, stats.waiting_tokens);
  const double total = static_cast<double>(stats.blocks_total);
  metrics_.set(GaugeId::kKvBlocks, total);
  metrics_.set(GaugeId::kKvUsage, total > 0 ? static_cast<double>(stats.blocks_used) / total : 0.0);
  metrics_.set(GaugeId::kEngineReady, ready ? 1 : 0);
  metrics_.set(GaugeId::kLoadProgress, health.load_progress);
  add(CounterId::kPromptTokens, stats.prompt_tokens_total, last_.prompt_tokens_total);
  add(CounterId::kGenerationTokens, stats.generated_tokens_total, last_.generated_tokens_total);
  add(CounterId::kPrefixQueries, stats.prefix_query_tokens_total, last_.prefix_query_tokens_total);
  add(CounterId::kPrefixHits, stats.prefix_hit_tokens_total, last_.prefix_hit_tokens_total);
  add(CounterId::kPreemptions, stats.preemptions_total, last_.preemptions_total);
  add(CounterId::kDrafts, stats.drafting_rows_total, last_.drafting_rows_total);
  add(CounterId::kDraftTokens, stats.drafted_tokens_total, last_.drafted_tokens_total);
  add(CounterId::kAcceptedDraftTokens, stats.accepted_draft_tokens_total,
      last_.accepted_draft_tokens_total);
  merge(HistogramId::kStepTime, stats.step_seconds, last_.step_seconds);
  merge(HistogramId::kStepTokenCount, stats.step_tokens, last_.step_tokens);
}

}  // namespace fathom
