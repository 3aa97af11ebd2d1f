// The ranges of an engine's settings.
#include "engine/engine_options.h"

namespace fathom {
namespace {

Status check_range(const char* setting, int64_t value, int64_t low, int64_t high) {
  if (value >= low && value <= high) return Status::ok();
  return invalid_argument(std::string(setting) + " must be from " + std::to_string(low) + " to " +
                          std::to_string(high) + ", not " + std::to_string(value))
      .about(setting);
}

}  // namespace

Status check_options(const EngineOptions& o) {
  if (o.model_dir.empty()) return invalid_argument("model must name a directory").about("model");
  FATHOM_RETURN_IF_ERROR(check_range("tensor_parallel_size", o.tensor_parallel, 1, 64));
  FATHOM_RETURN_IF_ERROR(check_range("pipeline_parallel_size", o.pipeline_parallel, 1, 64));
  if (o.max_model_len) {
    FATHOM_RETURN_IF_ERROR(check_range("max_model_len", *o.max_model_len, 1, 1 << 24));
  }
  FATHOM_RETURN_IF_ERROR(check_range("max_num_seqs", o.max_num_seqs, 1, 4096));
  if (o.fp8_cache && o.numerics != Numerics::kNative) {
    return invalid_argument("kv_cache_dtype fp8 needs numerics native").about("kv_cache_dtype");
  }
  if (o.pack_weights == PackWeights::kOn && (o.deterministic || o.numerics != Numerics::kNative)) {
    return invalid_argument("pack_weights on needs numerics native, and not deterministic")
        .about("pack_weights");
  }
  FATHOM_RETURN_IF_ERROR(check_range("block_size", o.block_tokens, 16, 256));
  FATHOM_RETURN_IF_ERROR(
      check_range("max_num_batched_tokens", o.max_num_batched_tokens, o.block_tokens, 1 << 18));
  FATHOM_RETURN_IF_ERROR(check_range("speculative_tokens", o.speculative_tokens, 0, 1));
  if (o.kv_cache_bytes) {
    FATHOM_RETURN_IF_ERROR(
        check_range("kv_cache_memory_bytes", *o.kv_cache_bytes, 1, int64_t{1} << 50));
  }
  if (!(o.memory_fraction > 0.0 && o.memory_fraction <= 1.0)) {
    return invalid_argument("gpu_memory_utilization must be over 0 and at most 1")
        .about("gpu_memory_utilization");
  }
  FATHOM_RETURN_IF_ERROR(check_range("cpu_threads", o.threads, 0, 1024));
  if (o.vocab_tokens) {
    FATHOM_RETURN_IF_ERROR(check_range("vocabulary", *o.vocab_tokens, 1, 1 << 24));
  }
  FATHOM_RETURN_IF_ERROR(check_range("max_queued_requests", o.queued_requests_max, 1, 1 << 20));
  if (o.queued_us_max) {
    FATHOM_RETURN_IF_ERROR(
        check_range("queue_seconds", *o.queued_us_max, 1, int64_t{86'400} * 1'000'000));
  }
  if (o.prefill_chunk_tokens) {
    FATHOM_RETURN_IF_ERROR(
        check_range("prefill_chunk_tokens", *o.prefill_chunk_tokens, o.block_tokens, 1 << 18));
  }
  if (o.prefill_slowdown && !(*o.prefill_slowdown > 1.0 && *o.prefill_slowdown <= 1000.0)) {
    return invalid_argument("prefill_slowdown must be over 1 and at most 1000")
        .about("prefill_slowdown");
  }
  if (o.prefill_step_us) {
    FATHOM_RETURN_IF_ERROR(
        check_range("prefill_step_ms", *o.prefill_step_us, 1, int64_t{60'000'000}));
  }
  return check_range("max_queued_tokens", o.queued_tokens_max, 1, int64_t{1} << 40);
}

}  // namespace fathom
