// Native values to messages.
#include <cstring>

#include "engine/protocol_messages.h"

namespace fathom::wire {
namespace {

// Longer texts are cut: a frame has room for them.
constexpr size_t kTextBytesMax = 32 * 1024;

std::string cut(const std::string& text) { return text.substr(0, kTextBytesMax); }

void to_message(const SamplingParams& s, pb::Sampling& m) {
  m.set_temperature(s.temperature);
  m.set_top_p(s.top_p);
  m.set_top_k(s.top_k);
  m.set_min_p(s.min_p);
  m.set_presence_penalty(s.presence_penalty);
  m.set_frequency_penalty(s.frequency_penalty);
  m.set_repetition_penalty(s.repetition_penalty);
  m.set_seed(s.seed);
  m.set_max_tokens(s.max_tokens);
  m.set_min_tokens(s.min_tokens);
  m.set_ignore_eos(s.ignore_eos);
  if (s.logprobs) m.set_logprobs(*s.logprobs);
  m.set_prompt_logprobs(s.prompt_logprobs);
  m.set_stop_token_ids(pack_ids(s.stop_token_ids));
  std::vector<TokenId> bias_ids;
  for (const auto& [id, bias] : s.logit_bias) {
    bias_ids.push_back(id);
    m.add_logit_bias_values(bias);
  }
  m.set_logit_bias_ids(pack_ids(bias_ids));
}

void to_message(const std::vector<TokenLogprobs>& logprobs, pb::Logprobs& m) {
  std::vector<TokenId> ids;
  for (const TokenLogprobs& one : logprobs) {
    m.add_chosen(one.chosen);
    m.add_top_count(static_cast<uint32_t>(one.top.size()));
    for (const auto& [id, value] : one.top) {
      ids.push_back(id);
      m.add_top_values(value);
    }
  }
  m.set_top_ids(pack_ids(ids));
}

struct EventEncoder {
  pb::Event& m;

  void operator()(const StartedEvent& e) const {
    m.mutable_started()->set_prompt_tokens(e.prompt_tokens);
    m.mutable_started()->set_cached_tokens(e.cached_tokens);
    m.mutable_started()->set_queued_us(e.queued_us);
  }
  void operator()(const TokensEvent& e) const {
    pb::Tokens& tokens = *m.mutable_tokens();
    tokens.set_tokens(pack_ids(e.tokens));
    tokens.set_drafted(e.drafted);
    if (!e.logprobs.empty()) to_message(e.logprobs, *tokens.mutable_logprobs());
    if (!e.prompt_logprobs.empty()) {
      to_message(e.prompt_logprobs, *tokens.mutable_prompt_logprobs());
    }
  }
  void operator()(const FinishedEvent& e) const {
    m.mutable_finished()->set_reason(static_cast<uint32_t>(e.reason));
    if (!e.status.is_ok()) wire::to_message(e.status, *m.mutable_finished()->mutable_status());
  }
};

template <size_t N>
void to_message(const BucketCounts<N>& b, pb::Buckets& m) {
  m.mutable_counts()->Add(b.counts.begin(), b.counts.end());
  m.set_sum(b.sum);
}

void to_message(const EngineStats& s, pb::Stats& m) {
  m.set_requests_running(s.requests_running);
  m.set_requests_waiting(s.requests_waiting);
  m.set_waiting_tokens(s.waiting_tokens);
  m.set_blocks_total(s.blocks_total);
  m.set_blocks_used(s.blocks_used);
  m.set_blocks_cached(s.blocks_cached);
  m.set_steps_total(s.steps_total);
  m.set_prompt_tokens_total(s.prompt_tokens_total);
  m.set_generated_tokens_total(s.generated_tokens_total);
  m.set_prefix_query_tokens_total(s.prefix_query_tokens_total);
  m.set_prefix_hit_tokens_total(s.prefix_hit_tokens_total);
  m.set_preemptions_total(s.preemptions_total);
  m.set_drafted_tokens_total(s.drafted_tokens_total);
  m.set_accepted_draft_tokens_total(s.accepted_draft_tokens_total);
  m.set_drafting_rows_total(s.drafting_rows_total);
  to_message(s.step_seconds, *m.mutable_step_seconds());
  to_message(s.step_tokens, *m.mutable_step_tokens());
}

}  // namespace

std::string pack_ids(std::span<const TokenId> ids) {
  std::string bytes(ids.size() * sizeof(TokenId), '\0');
  if (!ids.empty()) std::memcpy(bytes.data(), ids.data(), bytes.size());
  return bytes;
}

void to_message(const Status& status, pb::Status& m) {
  m.set_code(static_cast<int32_t>(status.code()));
  m.set_message(cut(status.message()));
  m.set_subject(cut(status.subject()));
  m.set_reason(cut(status.reason()));
}

void to_message(const OptionsFrame& frame, pb::Options& m) {
  const EngineOptions& o = frame.options;
  m.set_parent_pid(frame.parent_pid);
  m.set_model_dir(o.model_dir);
  m.set_load_format(static_cast<uint32_t>(o.load_format));
  m.set_numerics(static_cast<uint32_t>(o.numerics));
  m.set_fp8_cache(o.fp8_cache);
  m.set_device(static_cast<uint32_t>(o.device));
  m.set_tensor_parallel(o.tensor_parallel);
  m.set_pipeline_parallel(o.pipeline_parallel);
  if (o.max_model_len) m.set_max_model_len(*o.max_model_len);
  m.set_max_num_seqs(o.max_num_seqs);
  m.set_max_num_batched_tokens(o.max_num_batched_tokens);
  m.set_block_tokens(o.block_tokens);
  if (o.kv_cache_bytes) m.set_kv_cache_bytes(*o.kv_cache_bytes);
  m.set_memory_fraction(o.memory_fraction);
  m.set_speculative_tokens(o.speculative_tokens);
  m.set_prefix_caching(o.prefix_caching);
  m.set_deterministic(o.deterministic);
  m.set_pack_weights(static_cast<uint32_t>(o.pack_weights));
  m.set_threads(o.threads);
  m.set_seed(o.seed);
  if (o.vocab_tokens) m.set_vocab_tokens(*o.vocab_tokens);
  m.set_queued_requests_max(o.queued_requests_max);
  m.set_queued_tokens_max(o.queued_tokens_max);
  if (o.queued_us_max) m.set_queued_us_max(*o.queued_us_max);
  if (o.prefill_chunk_tokens) m.set_prefill_chunk_tokens(*o.prefill_chunk_tokens);
  if (o.prefill_slowdown) m.set_prefill_slowdown(*o.prefill_slowdown);
  if (o.prefill_step_us) m.set_prefill_step_us(*o.prefill_step_us);
  m.set_log_json(o.log_json);
  m.set_log_level(o.log_level);
}

void to_message(const SubmitFrame& frame, pb::Submit& m) {
  const Request& r = frame.request;
  m.set_id(r.id);
  m.set_trace_id(r.trace_id);
  m.set_prompt_tokens(frame.prompt_tokens);
  m.set_prompt(pack_ids(r.prompt));
  to_message(r.sampling, *m.mutable_sampling());
  m.set_priority(r.priority);
  if (r.deadline_us) m.set_deadline_us(*r.deadline_us);
  m.set_tenant(r.tenant);
  m.set_cache_prefix(r.cache_prefix);
}

void to_message(const EventsFrame& frame, pb::Events& m) {
  for (const RequestEvent& event : frame.events) {
    pb::Event& one = *m.add_events();
    one.set_id(event.id);
    std::visit(EventEncoder{one}, event.event);
  }
}

void to_message(const HeartbeatFrame& frame, pb::Heartbeat& m) {
  m.set_state(static_cast<uint32_t>(frame.health.state));
  m.set_load_progress(frame.health.load_progress);
  m.set_last_progress_us(frame.health.last_progress_us);
  to_message(frame.stats, *m.mutable_stats());
  m.set_ping_number(frame.ping_number);
}

void to_message(const ReadyFrame& frame, pb::Ready& m) {
  const EngineInfo& info = frame.info;
  m.set_architecture(cut(info.model.architecture));
  m.set_layers(info.model.layers);
  m.set_draft_layers(info.model.draft_layers);
  m.set_hidden(info.model.hidden);
  m.set_vocab(info.model.vocab);
  m.set_positions_max(info.model.positions_max);
  m.set_eos(pack_ids(info.model.eos));
  m.set_bos(info.model.bos);
  m.set_parameters(info.model.parameters);
  m.set_max_model_len(info.max_model_len);
  m.set_block_tokens(info.block_tokens);
  m.set_blocks_total(info.blocks_total);
  m.set_device(cut(info.device));
  m.set_numerics(cut(info.numerics));
  m.set_plan_table(cut(info.plan_table));
  m.set_device_id(cut(info.device_id));
}

}  // namespace fathom::wire
