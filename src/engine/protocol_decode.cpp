// Messages to native values, with every bound checked.
#include <algorithm>
#include <cmath>
#include <cstring>

#include "engine/protocol_messages.h"

namespace fathom::wire {
namespace {

constexpr size_t kTraceIdBytesMax = 256;
constexpr int32_t kPromptTokensMax = 1 << 24;
constexpr size_t kEosMax = 64;
constexpr int32_t kCancelIdsMax = 16 * 1024;

template <typename Enum>
Status read_enum(const char* field, uint32_t value, Enum last, Enum& out) {
  if (value > static_cast<uint32_t>(last)) return bad_field(field, "is not one of its values");
  out = static_cast<Enum>(value);
  return Status::ok();
}

// protobuf checks UTF-8 of strings only when asked to; whoever prints them escapes them.
bool is_code(int32_t value) {
  return code_name(static_cast<Code>(value)) != code_name(static_cast<Code>(-1));
}

Result<SamplingParams> read_sampling(const pb::Sampling& m) {
  SamplingParams s;
  s.temperature = m.temperature();
  s.top_p = m.top_p();
  s.top_k = m.top_k();
  s.min_p = m.min_p();
  s.presence_penalty = m.presence_penalty();
  s.frequency_penalty = m.frequency_penalty();
  s.repetition_penalty = m.repetition_penalty();
  s.seed = m.seed();
  s.max_tokens = m.max_tokens();
  s.min_tokens = m.min_tokens();
  s.ignore_eos = m.ignore_eos();
  if (m.has_logprobs()) s.logprobs = m.logprobs();
  if (s.logprobs && (*s.logprobs < 0 || *s.logprobs > kLogprobsMax)) {
    return bad_field("logprobs", "is out of range");
  }
  s.prompt_logprobs = m.prompt_logprobs();
  FATHOM_ASSIGN(s.stop_token_ids,
                unpack_ids("stop_token_ids", m.stop_token_ids(), kStopTokenIdsMax));
  FATHOM_ASSIGN(const std::vector<TokenId> bias_ids,
                unpack_ids("logit_bias_ids", m.logit_bias_ids(), kLogitBiasMax));
  if (bias_ids.size() != static_cast<size_t>(m.logit_bias_values_size())) {
    return bad_field("logit_bias_values", "has not one value for each id");
  }
  for (size_t i = 0; i < bias_ids.size(); ++i) {
    s.logit_bias.emplace_back(bias_ids[i], m.logit_bias_values(static_cast<int>(i)));
  }
  return s;
}

Result<std::vector<TokenLogprobs>> read_logprobs(const pb::Logprobs& m) {
  if (m.chosen_size() != m.top_count_size()) {
    return bad_field("top_count", "has not one count for each token");
  }
  FATHOM_ASSIGN(const std::vector<TokenId> ids,
                unpack_ids("top_ids", m.top_ids(), kFrameBytesMax / sizeof(TokenId)));
  if (ids.size() != static_cast<size_t>(m.top_values_size())) {
    return bad_field("top_values", "has not one value for each id");
  }
  std::vector<TokenLogprobs> all;
  size_t next = 0;
  for (int i = 0; i < m.chosen_size(); ++i) {
    const uint32_t count = m.top_count(i);
    if (count > kLogprobsMax || count > ids.size() - next) {
      return bad_field("top_count", "is out of range");
    }
    TokenLogprobs one{.chosen = m.chosen(i), .top = {}};
    for (uint32_t k = 0; k < count; ++k, ++next) {
      one.top.emplace_back(ids[next], m.top_values(static_cast<int>(next)));
    }
    all.push_back(std::move(one));
  }
  if (next != ids.size()) return bad_field("top_ids", "has ids that no token owns");
  return all;
}

Result<StreamEvent> read_tokens(const pb::Tokens& m) {
  TokensEvent event;
  FATHOM_ASSIGN(const std::vector<TokenId> tokens,
                unpack_ids("tokens", m.tokens(), TokenRun::kMax));
  event.tokens.assign(tokens.begin(), tokens.end());
  FATHOM_ASSIGN(event.logprobs, read_logprobs(m.logprobs()));
  FATHOM_ASSIGN(event.prompt_logprobs, read_logprobs(m.prompt_logprobs()));
  if (!event.logprobs.empty() && event.logprobs.size() != event.tokens.size()) {
    return bad_field("logprobs", "has not one entry for each token");
  }
  if (m.drafted() < 0) return bad_field("drafted", "is negative");
  event.drafted = m.drafted();
  return StreamEvent(std::move(event));
}

Result<StreamEvent> read_event(const pb::Event& m) {
  switch (m.event_case()) {
    case pb::Event::kStarted: {
      const pb::Started& s = m.started();
      if (s.prompt_tokens() < 0 || s.cached_tokens() < 0 || s.cached_tokens() > s.prompt_tokens()) {
        return bad_field("cached_tokens", "is out of range");
      }
      if (s.queued_us() < 0) return bad_field("queued_us", "is negative");
      return StreamEvent(StartedEvent{s.prompt_tokens(), s.cached_tokens(), s.queued_us()});
    }
    case pb::Event::kTokens: return read_tokens(m.tokens());
    case pb::Event::kFinished: {
      FinishedEvent event;
      FATHOM_RETURN_IF_ERROR(
          read_enum("reason", m.finished().reason(), FinishReason::kError, event.reason));
      if (event.reason == FinishReason::kNone) return bad_field("reason", "is none");
      if (m.finished().has_status()) event.status = status_from(m.finished().status());
      return StreamEvent(std::move(event));
    }
    default: return bad_field("event", "is missing");
  }
}

template <size_t N>
Status read_buckets(const char* field, const pb::Buckets& m, BucketCounts<N>& out) {
  if (m.counts_size() == 0) return Status::ok();  // nothing counted yet
  if (static_cast<size_t>(m.counts_size()) != out.counts.size()) {
    return bad_field(field, "has not one count for each bucket");
  }
  if (!(m.sum() >= 0.0)) return bad_field(field, "has a sum that is no amount");
  std::ranges::copy(m.counts(), out.counts.begin());
  out.sum = m.sum();
  return Status::ok();
}

Result<EngineStats> read_stats(const pb::Stats& m) {
  EngineStats s;
  s.requests_running = m.requests_running();
  s.requests_waiting = m.requests_waiting();
  s.waiting_tokens = m.waiting_tokens();
  s.blocks_total = m.blocks_total();
  s.blocks_used = m.blocks_used();
  s.blocks_cached = m.blocks_cached();
  s.steps_total = m.steps_total();
  s.prompt_tokens_total = m.prompt_tokens_total();
  s.generated_tokens_total = m.generated_tokens_total();
  s.prefix_query_tokens_total = m.prefix_query_tokens_total();
  s.prefix_hit_tokens_total = m.prefix_hit_tokens_total();
  s.preemptions_total = m.preemptions_total();
  s.drafted_tokens_total = m.drafted_tokens_total();
  s.accepted_draft_tokens_total = m.accepted_draft_tokens_total();
  s.drafting_rows_total = m.drafting_rows_total();
  FATHOM_RETURN_IF_ERROR(read_buckets("step_seconds", m.step_seconds(), s.step_seconds));
  FATHOM_RETURN_IF_ERROR(read_buckets("step_tokens", m.step_tokens(), s.step_tokens));
  return s;
}

}  // namespace

Status bad_field(const char* field, std::string_view why) {
  return data_loss("engine protocol: field " + std::string(field) + " " + std::string(why))
      .about(field);
}

Result<std::vector<TokenId>> unpack_ids(const char* field, const std::string& bytes,
                                        size_t count_max) {
  if (bytes.size() % sizeof(TokenId) != 0) return bad_field(field, "is not whole token ids");
  if (bytes.size() / sizeof(TokenId) > count_max) return bad_field(field, "has too many token ids");
  std::vector<TokenId> ids(bytes.size() / sizeof(TokenId));
  if (!ids.empty()) std::memcpy(ids.data(), bytes.data(), bytes.size());
  return ids;
}

Status status_from(const pb::Status& m) {
  if (!is_code(m.code())) return bad_field("code", "is not a canonical code");
  if (m.code() == 0) return Status::ok();
  return Status(static_cast<Code>(m.code()), m.message()).about(m.subject()).because(m.reason());
}

Result<Frame> from_message(const pb::Options& m) {
  OptionsFrame frame;
  EngineOptions& o = frame.options;
  if (m.parent_pid() <= 0) return bad_field("parent_pid", "is not a process id");
  frame.parent_pid = m.parent_pid();
  o.model_dir = m.model_dir();
  FATHOM_RETURN_IF_ERROR(read_enum("load_format", m.load_format(),
                                   EngineOptions::LoadFormat::kSynthetic, o.load_format));
  FATHOM_RETURN_IF_ERROR(read_enum("numerics", m.numerics(), Numerics::kNative, o.numerics));
  FATHOM_RETURN_IF_ERROR(read_enum("device", m.device(), EngineOptions::Device::kCuda, o.device));
  o.fp8_cache = m.fp8_cache();
  o.tensor_parallel = m.tensor_parallel();
  o.pipeline_parallel = m.pipeline_parallel();
  if (m.has_max_model_len()) o.max_model_len = m.max_model_len();
  o.max_num_seqs = m.max_num_seqs();
  o.max_num_batched_tokens = m.max_num_batched_tokens();
  o.block_tokens = m.block_tokens();
  if (m.has_kv_cache_bytes()) o.kv_cache_bytes = m.kv_cache_bytes();
  o.memory_fraction = m.memory_fraction();
  o.speculative_tokens = m.speculative_tokens();
  o.prefix_caching = m.prefix_caching();
  o.deterministic = m.deterministic();
  FATHOM_RETURN_IF_ERROR(
      read_enum("pack_weights", m.pack_weights(), PackWeights::kAuto, o.pack_weights));
  o.threads = m.threads();
  o.seed = m.seed();
  if (m.has_vocab_tokens()) o.vocab_tokens = m.vocab_tokens();
  o.queued_requests_max = m.queued_requests_max();
  o.queued_tokens_max = m.queued_tokens_max();
  if (m.has_queued_us_max()) o.queued_us_max = m.queued_us_max();
  if (m.has_prefill_chunk_tokens()) o.prefill_chunk_tokens = m.prefill_chunk_tokens();
  if (m.has_prefill_slowdown()) o.prefill_slowdown = m.prefill_slowdown();
  if (m.has_prefill_step_us()) o.prefill_step_us = m.prefill_step_us();
  o.log_json = m.log_json();
  o.log_level = m.log_level();
  if (o.log_level < 0 || o.log_level > 5) return bad_field("log_level", "is out of range");
  FATHOM_RETURN_IF_ERROR(check_options(o));
  return Frame(std::move(frame));
}

Result<Frame> from_message(const pb::Submit& m) {
  SubmitFrame frame;
  Request& r = frame.request;
  if (m.id() == 0) return bad_field("id", "is zero");
  if (m.trace_id().size() > kTraceIdBytesMax) return bad_field("trace_id", "is too long");
  if (m.prompt_tokens() < 1 || m.prompt_tokens() > kPromptTokensMax) {
    return bad_field("prompt_tokens", "is out of range");
  }
  r.id = m.id();
  r.trace_id = m.trace_id();
  frame.prompt_tokens = m.prompt_tokens();
  FATHOM_ASSIGN(r.prompt, unpack_ids("prompt", m.prompt(), kPromptPieceTokensMax));
  if (r.prompt.empty() || r.prompt.size() > static_cast<size_t>(m.prompt_tokens())) {
    return bad_field("prompt", "is empty or longer than prompt_tokens");
  }
  FATHOM_ASSIGN(r.sampling, read_sampling(m.sampling()));
  r.priority = m.priority();
  if (m.has_deadline_us()) r.deadline_us = m.deadline_us();
  r.tenant = m.tenant();
  r.cache_prefix = m.cache_prefix();
  return Frame(std::move(frame));
}

Result<Frame> from_message(const pb::Events& m) {
  EventsFrame frame;
  frame.events.reserve(static_cast<size_t>(m.events_size()));
  for (const pb::Event& event : m.events()) {
    if (event.id() == 0) return bad_field("id", "is zero");
    FATHOM_ASSIGN(StreamEvent one, read_event(event));
    frame.events.push_back(RequestEvent{event.id(), std::move(one)});
  }
  return Frame(std::move(frame));
}

Result<Frame> from_message(const pb::Heartbeat& m) {
  HeartbeatFrame frame;
  FATHOM_RETURN_IF_ERROR(read_enum("state", m.state(), EngineState::kFailed, frame.health.state));
  if (!(m.load_progress() >= 0.0 && m.load_progress() <= 1.0)) {
    return bad_field("load_progress", "is out of range");
  }
  frame.health.load_progress = m.load_progress();
  frame.health.last_progress_us = m.last_progress_us();
  FATHOM_ASSIGN(frame.stats, read_stats(m.stats()));
  frame.ping_number = m.ping_number();
  return Frame(std::move(frame));
}

Result<Frame> from_message(const pb::Ready& m) {
  ReadyFrame frame;
  EngineInfo& info = frame.info;
  if (m.layers() < 1 || m.draft_layers() < 0 || m.hidden() < 1 || m.vocab() < 1 ||
      m.positions_max() < 1 || m.max_model_len() < 1 || m.block_tokens() < 1 ||
      m.blocks_total() < 0 || m.parameters() < 0) {
    return bad_field("model", "has a size out of range");
  }
  info.model.architecture = m.architecture();
  info.model.layers = m.layers();
  info.model.draft_layers = m.draft_layers();
  info.model.hidden = m.hidden();
  info.model.vocab = m.vocab();
  info.model.positions_max = m.positions_max();
  FATHOM_ASSIGN(info.model.eos, unpack_ids("eos", m.eos(), kEosMax));
  info.model.bos = m.bos();
  info.model.parameters = m.parameters();
  info.max_model_len = m.max_model_len();
  info.block_tokens = m.block_tokens();
  info.blocks_total = m.blocks_total();
  info.device = m.device();
  info.numerics = m.numerics();
  info.plan_table = m.plan_table();
  info.device_id = m.device_id();
  return Frame(std::move(frame));
}

Result<Frame> from_message(const pb::PromptPiece& m) {
  if (m.id() == 0) return bad_field("id", "is zero");
  PromptPieceFrame frame{.id = m.id(), .tokens = {}};
  FATHOM_ASSIGN(frame.tokens, unpack_ids("tokens", m.tokens(), kPromptPieceTokensMax));
  if (frame.tokens.empty()) return bad_field("tokens", "is empty");
  return Frame(std::move(frame));
}

Result<Frame> from_message(const pb::Cancel& m) {
  if (m.ids_size() > kCancelIdsMax) return bad_field("ids", "has too many entries");
  return Frame(CancelFrame{{m.ids().begin(), m.ids().end()}});
}

Result<Frame> from_message(const pb::Drain&) { return Frame(DrainFrame{}); }

Result<Frame> from_message(const pb::Ping& m) { return Frame(PingFrame{m.number()}); }

Result<Frame> from_message(const pb::Failed& m) {
  Status status = status_from(m.status());
  if (status.is_ok()) return bad_field("status", "is ok in a failure");
  return Frame(FailedFrame{std::move(status)});
}

}  // namespace fathom::wire
