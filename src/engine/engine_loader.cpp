// Turns options and the memory plan into ranks. On the thread that starts an engine.
#include "engine/engine_loader.h"

#include <algorithm>
#include <utility>

#include "base/log.h"
#include "engine/backends.h"
#include "engine/memory_plan.h"
#include "engine/rank_executor.h"
#include "weights/checkpoint.h"
#include "weights/synthetic.h"

namespace fathom {
namespace {

SchedulerOptions scheduler_options(const EngineOptions& options, const MemoryPlan& plan) {
  SchedulerOptions s;
  s.max_model_len = plan.max_model_len;
  s.max_num_seqs = options.max_num_seqs;
  s.max_num_batched_tokens = options.max_num_batched_tokens;
  s.speculative_tokens = options.speculative_tokens;
  s.blocks.assign(plan.cache.groups.size(), plan.blocks);
  s.enable_prefix_caching = options.prefix_caching;
  s.queued_requests_max = options.queued_requests_max;
  s.queued_tokens_max = options.queued_tokens_max;
  s.queued_us_max = options.queued_us_max;
  s.prefill_chunk_tokens_max = options.prefill_chunk_tokens;
  s.prefill_slowdown_max = options.prefill_slowdown;
  s.prefill_step_us_max = options.prefill_step_us;
  s.prompt_logprob_tokens_max = plan.prompt_logprob_tokens_max;
  s.penalty_slots = plan.slots.penalty_slots;
  s.deterministic = options.deterministic;
  s.layout_id = static_cast<uint64_t>(options.numerics) << 1 | (options.fp8_cache ? 1U : 0U);
  return s;
}

WorkerSetup worker_setup(const EngineOptions& options, const MemoryPlan& plan,
                         std::shared_ptr<const WeightSource> weights, int32_t rank) {
  const StageMemory& stage = plan.stages[static_cast<size_t>(rank / plan.grid.tensor)];
  WorkerSetup setup;
  setup.ops = {.rank = rank,
               .numerics = options.numerics,
               .arena_bytes = stage.workspace_bytes,
               .weight_bytes = stage.weight_bytes + stage.packed_bytes,
               .threads = threads_per_rank(options),
               .deterministic = options.deterministic};
  setup.model_dir = options.model_dir;
  setup.weights = std::move(weights);
  setup.model.tokens_max = plan.slots.tokens_max;
  setup.model.block_tokens = options.block_tokens;
  setup.model.fp8_cache = options.fp8_cache;
  setup.model.pack_weights = plan.packs_weights();
  setup.model.draft_layers = options.speculative_tokens > 0 ? 1 : 0;
  setup.program.slots = plan.slots;
  setup.program.step = plan.step;
  setup.program.cache = plan.cache;
  setup.program.blocks = plan.blocks;
  return setup;
}

EngineInfo engine_info(const EngineOptions& options, const MemoryPlan& plan) {
  EngineInfo info;
  info.model = plan.model;
  info.max_model_len = plan.max_model_len;
  info.block_tokens = options.block_tokens;
  info.blocks_total = plan.blocks - 1;
  info.device = plan.device;
  info.device_id = plan.device_id;
  info.numerics = options.numerics == Numerics::kNative ? "native" : "reference";
  info.plan_table = plan.table();
  return info;
}

// What an operator can act on when a device has less than it said: what was to be put there.
Status with_table(const Status& status, const MemoryPlan& plan) {
  if (status.code() != Code::kResourceExhausted) return status;
  return resource_exhausted("the device has no room for what was planned: " + status.message() +
                            "\n" + plan.table())
      .about("model");
}

}  // namespace

Result<std::shared_ptr<const WeightSource>> open_weights(const EngineOptions& options,
                                                         bool shapes_only) {
  if (options.load_format == EngineOptions::LoadFormat::kSynthetic) {
    FATHOM_ASSIGN(std::shared_ptr<const SyntheticSource> source,
                  SyntheticSource::open(options.model_dir, options.seed, shapes_only));
    return std::shared_ptr<const WeightSource>(std::move(source));
  }
  FATHOM_ASSIGN(std::shared_ptr<const Checkpoint> checkpoint, Checkpoint::open(options.model_dir));
  for (const std::string& warning : checkpoint->warnings()) Logger("engine").warn(warning);
  return std::shared_ptr<const WeightSource>(std::move(checkpoint));
}

Result<LoadedEngine> load_engine(const EngineOptions& options, ProgressCallback on_progress) {
  FATHOM_RETURN_IF_ERROR(check_options(options));
  FATHOM_ASSIGN(std::shared_ptr<const WeightSource> weights, open_weights(options, false));
  if (options.load_format == EngineOptions::LoadFormat::kSafetensors) {
    const WeightSource& shapes = *weights;
    return load_engine_from(options, std::move(weights), shapes, std::move(on_progress));
  }
  // Generated values cost time: the plan looks at a source without them.
  FATHOM_ASSIGN(const std::shared_ptr<const WeightSource> shapes, open_weights(options, true));
  return load_engine_from(options, std::move(weights), *shapes, std::move(on_progress));
}

Result<LoadedEngine> load_engine_from(const EngineOptions& options,
                                      std::shared_ptr<const WeightSource> weights,
                                      const WeightSource& shapes, ProgressCallback on_progress) {
  FATHOM_ASSIGN(std::unique_ptr<Backend> backend, make_backend(options.device));
  return load_engine_on(std::move(backend), options, std::move(weights), shapes,
                        std::move(on_progress));
}

Result<LoadedEngine> load_engine_on(std::unique_ptr<Backend> backend, const EngineOptions& options,
                                    std::shared_ptr<const WeightSource> weights,
                                    const WeightSource& shapes, ProgressCallback on_progress) {
  if (options.deterministic && !backend->deterministic()) {
    return unimplemented("deterministic is not there on " + backend->device_name() +
                         ": its sums depend on how many rows a step has")
        .about("deterministic");
  }
  FATHOM_ASSIGN(const MemoryPlan plan, plan_memory(options, shapes, *backend));

  const int32_t round_tokens = plan.model.routed ? 0 : backend->round_tokens(plan.model.hidden);

  std::vector<WorkerSetup> setups;
  for (int32_t rank = 0; rank < plan.grid.ranks(); ++rank) {
    setups.push_back(worker_setup(options, plan, weights, rank));
  }
  if (on_progress) {
    // The first rank speaks for all: they load shards of the same size at the same time.
    setups[0].model.on_progress = [on_progress](int64_t done, int64_t total) {
      on_progress(total > 0 ? std::min(1.0, static_cast<double>(done) / total) : 0.0);
    };
  }
  LoadedEngine loaded;
  Result<std::unique_ptr<RankExecutor>> executor =
      RankExecutor::start(std::move(backend), plan.grid, std::move(setups));
  if (!executor.is_ok()) return with_table(executor.status(), plan);
  loaded.executor = std::move(*executor);
  loaded.scheduler = scheduler_options(options, plan);
  if (round_tokens > 0 && !options.deterministic) loaded.scheduler.round_tokens = round_tokens;
  loaded.layout = plan.cache;
  loaded.info = engine_info(options, plan);
  return loaded;
}

}  // namespace fathom
