// Measures each stage with CountOps and divides what is left into KV blocks.
#include "engine/memory_plan.h"

#include <algorithm>
#include <array>
#include <cstdio>
#include <span>

#include "engine/backends.h"
#include "ops/count/count_ops.h"

namespace fathom {
namespace {

// Nothing but a rank's place: what CountOps hands to collectives is counted by CountOps.
class PlaceComm final : public Comm {
 public:
  PlaceComm(int32_t rank, int32_t size) : rank_(rank), size_(size) {}
  int32_t rank() const override { return rank_; }
  int32_t size() const override { return size_; }
  Status all_reduce_sum(const Tensor&) override { return Status::ok(); }
  Status all_gather(const Tensor&, const Tensor&) override { return Status::ok(); }
  Status broadcast(const Tensor&, int32_t) override { return Status::ok(); }
  Status send(const Tensor&, int32_t) override { return Status::ok(); }
  Status receive(const Tensor&, int32_t) override { return Status::ok(); }
  void abort() override {}

 private:
  const int32_t rank_;
  const int32_t size_;
};

// A host without a limit of its own for the KV cache gives it this part of what is left.
constexpr double kHostKvFraction = 0.5;

// Tokens of prompts whose logprobs are wanted, in one step: logits of a whole step's tokens would
// take gigabytes of a large vocabulary.
constexpr int32_t kPromptLogprobTokens = 512;

OpenSlot worst_slot(SlotId slot, const MemoryPlan& plan, bool prompt_logprobs) {
  static const auto tokens = std::make_shared<const std::vector<TokenId>>(1, 0);
  auto sampling = std::make_shared<SamplingParams>();
  sampling->logprobs = kLogprobsMax;
  sampling->prompt_logprobs = prompt_logprobs;
  return {.slot = slot,
          .tokens = tokens,
          .prompt_tokens = plan.max_model_len,
          .computed_tokens = 0,
          .sampling = std::move(sampling)};
}

// How a worst step is made up.
struct StepMix {
  int32_t decodes = 0;           // rows, with all drafts that they may carry
  bool prompt_logprobs = false;  // a prefill row with as many tokens that want logprobs as may be
  int32_t prefills = 0;          // further prefill rows, which share the rest
};

// Every slot open with the longest context.
StepPlan worst_step(const MemoryPlan& plan, const StepMix& mix) {
  StepPlan step;
  const int32_t blocks = plan.slots.blocks_max;
  int32_t left = plan.step.tokens_max;
  int32_t rows_left = plan.step.rows_max;
  auto add = [&](RowKind kind, int32_t tokens, bool prompt_logprobs) {
    const auto slot = static_cast<SlotId>(step.rows.size() + 1);
    step.open.push_back(worst_slot(slot, plan, prompt_logprobs));
    for (int32_t group = 0; group < plan.slots.cache_groups; ++group) {
      step.append.push_back({slot, group, 0, std::vector<BlockId>(blocks, 0)});
    }
    step.rows.push_back({slot, kind, tokens, true});
    left -= tokens;
    --rows_left;
  };
  const int32_t drafts = plan.slots.drafts_max;
  const RowKind kind = drafts > 0 ? RowKind::kVerify : RowKind::kDecode;
  for (int32_t i = 0; i < mix.decodes && left > drafts; ++i) add(kind, 1 + drafts, false);
  const int32_t wanted = std::min(left, plan.prompt_logprob_tokens_max);
  if (mix.prompt_logprobs && rows_left > 0 && wanted > 0) add(RowKind::kPrefill, wanted, true);
  const int32_t prefills = std::min({mix.prefills, rows_left, left});
  for (int32_t i = 0; i < prefills; ++i) add(RowKind::kPrefill, left / (prefills - i), false);
  return step;
}

Result<StageMemory> measure_stage(const EngineOptions& options, const WeightSource& weights,
                                  const ScratchBounds* scratch, const MemoryPlan& plan,
                                  int32_t stage) {
  CountOps ops({.numerics = options.numerics,
                .threads = threads_per_rank(options),
                .scratch = scratch});
  PlaceComm tp(0, options.tensor_parallel);
  PlaceComm pp(stage, options.pipeline_parallel);
  const Groups groups{.tp = &tp, .pp = &pp, .world = nullptr};
  ModelOptions model_options;
  model_options.tokens_max = plan.slots.tokens_max;
  model_options.block_tokens = options.block_tokens;
  model_options.fp8_cache = options.fp8_cache;
  model_options.pack_weights = options.pack_weights != PackWeights::kOff && !options.deterministic;
  model_options.draft_layers = options.speculative_tokens > 0 ? 1 : 0;
  FATHOM_ASSIGN(std::unique_ptr<Model> model,
                load_model(options.model_dir, weights, ops, groups, model_options));
  StageMemory memory;
  memory.layout = model->kv_layout();
  memory.weight_bytes = ops.report().weight_bytes;
  memory.packed_bytes = ops.report().packed_bytes;
  memory.kv_block_bytes = memory.layout.block_bytes();

  StepProgramOptions program_options;
  program_options.slots = plan.slots;
  program_options.slots.cache_groups = static_cast<int32_t>(memory.layout.groups.size());
  program_options.step = plan.step;
  program_options.cache = memory.layout;
  program_options.blocks = 1;
  const int32_t rows = plan.step.rows_max;
  const std::array<StepMix, 5> steps = {{{rows, false, 0},
                                         {std::max(rows - 1, 0), true, 0},
                                         {std::max(rows - 2, 0), true, 1},
                                         {0, false, 1},
                                         {0, false, rows}}};
  for (size_t i = 0; i < steps.size(); ++i) {
    FATHOM_ASSIGN(auto program, StepProgram::make(ops, *model, groups, program_options));
    if (i == 0) memory.fixed_bytes = ops.report().reserved_bytes - memory.kv_block_bytes;
    FATHOM_RETURN_IF_ERROR(program->launch(worst_step(plan, steps[i])));
  }
  memory.workspace_bytes = ops.report().arena_peak_bytes;
  return memory;
}

Status check_against_model(const EngineOptions& options, const ModelInfo& model) {
  if (options.max_model_len && *options.max_model_len > model.positions_max) {
    return invalid_argument("max_model_len " + std::to_string(*options.max_model_len) +
                            " is over the model's " + std::to_string(model.positions_max))
        .about("max_model_len");
  }
  if (options.speculative_tokens > 0 && model.draft_layers == 0) {
    return invalid_argument("speculative_tokens needs a draft (MTP) layer, which the model lacks")
        .about("speculative_tokens");
  }
  if (options.pipeline_parallel > model.layers) {
    return invalid_argument("pipeline_parallel_size is over the model's " +
                            std::to_string(model.layers) + " layers")
        .about("pipeline_parallel_size");
  }
  if (options.vocab_tokens && *options.vocab_tokens > model.vocab) {
    return invalid_argument("the tokenizer has " + std::to_string(*options.vocab_tokens) +
                            " tokens, the model only " + std::to_string(model.vocab))
        .about("vocabulary");
  }
  return Status::ok();
}

// What follows from options and model alone.
void set_limits(const EngineOptions& options, MemoryPlan& plan) {
  plan.max_model_len = options.max_model_len.value_or(plan.model.positions_max);
  plan.step.rows_max = std::min(options.max_num_seqs, options.max_num_batched_tokens);
  plan.step.tokens_max = options.max_num_batched_tokens;
  plan.prompt_logprob_tokens_max = std::max(kPromptLogprobTokens, options.block_tokens);
  plan.step.sample_rows_max = std::min(
      options.max_num_batched_tokens,
      plan.step.rows_max * (1 + options.speculative_tokens) + plan.prompt_logprob_tokens_max);
  plan.slots.slots = options.max_num_seqs + 1;
  plan.slots.tokens_max = plan.max_model_len;
  plan.slots.blocks_max = (plan.max_model_len + options.block_tokens - 1) / options.block_tokens;
  plan.slots.drafts_max = options.speculative_tokens;
  plan.slots.vocab = options.vocab_tokens.value_or(plan.model.vocab);
  plan.slots.vocab_padded = plan.model.vocab;
  plan.slots.hidden = plan.model.hidden;
  plan.slots.penalty_slots = options.max_num_seqs;
}

// Of each cache group, in what is left beside everything else.
int64_t blocks_that_fit(const EngineOptions& options, const MemoryPlan& plan) {
  const bool host = plan.device == "cpu";
  const double share = host && !options.kv_cache_bytes ? kHostKvFraction : 1.0;
  int64_t blocks = INT64_MAX;
  for (const StageMemory& stage : plan.stages) {
    const int64_t left = plan.available_bytes_per_rank - plan.rank_bytes(stage);
    const auto usable = static_cast<int64_t>(share * static_cast<double>(left));
    blocks = std::min(blocks, usable / std::max<int64_t>(stage.kv_block_bytes, 1));
  }
  return blocks;
}

// Of all ranks.
int64_t block_bytes(const EngineOptions& options, const MemoryPlan& plan) {
  int64_t bytes = 0;
  for (const StageMemory& stage : plan.stages) {
    bytes += stage.kv_block_bytes * options.tensor_parallel;
  }
  return std::max<int64_t>(bytes, 1);
}

// One sequence of the length that was asked for, or of any length, must fit beside block 0.
int64_t blocks_least(const EngineOptions& options, const MemoryPlan& plan) {
  return 1 + (options.max_model_len ? plan.slots.blocks_max : 1);
}

// Every stage was measured with packed weights where they are not off.
Status choose_packing(const EngineOptions& options, MemoryPlan& plan) {
  int64_t packed = 0;
  int64_t weights = 0;
  for (const StageMemory& stage : plan.stages) {
    packed += stage.packed_bytes;
    weights += stage.weight_bytes;
  }
  if (options.pack_weights == PackWeights::kOn && packed == 0) {
    return invalid_argument("pack_weights on: on " + plan.device +
                            " no matrix of this model has a packed form (bfloat16 ones of linear "
                            "layers on an H100 have)")
        .about("pack_weights");
  }
  if (options.pack_weights != PackWeights::kAuto || packed == 0) return Status::ok();
  MemoryPlan plain = plan;
  for (StageMemory& stage : plain.stages) stage.packed_bytes = 0;
  const int64_t fit = blocks_that_fit(options, plan);
  const int64_t wanted =
      options.kv_cache_bytes
          ? *options.kv_cache_bytes / block_bytes(options, plan)
          : std::max(blocks_that_fit(options, plain) / 2, blocks_least(options, plan));
  if (fit < wanted || packed < weights / 2) plan.stages = std::move(plain.stages);
  return Status::ok();
}

// Chooses the number of blocks: on a GPU all that fit, since what running sequences do not need
// keeps prefixes; on the host, whose memory others use, at most what all sequences at their longest
// need.
Status choose_blocks(const EngineOptions& options, MemoryPlan& plan) {
  const int64_t blocks_fit = blocks_that_fit(options, plan);
  const int64_t needed = int64_t{options.max_num_seqs} * plan.slots.blocks_max + 1;
  int64_t blocks = plan.device == "cpu" ? std::min(needed, blocks_fit) : blocks_fit;
  if (options.kv_cache_bytes) blocks = *options.kv_cache_bytes / block_bytes(options, plan);
  plan.blocks = static_cast<int32_t>(std::clamp<int64_t>(blocks, 0, INT32_MAX / 2));

  const int64_t least = blocks_least(options, plan);
  if (plan.blocks >= least && plan.blocks <= blocks_fit) return Status::ok();
  const std::string why =
      options.kv_cache_bytes && plan.blocks > blocks_fit
          ? "kv_cache_memory_bytes asks for more than the device has"
          : "no room for the KV cache of one sequence of " +
                std::to_string(options.max_model_len.value_or(options.block_tokens)) + " tokens";
  plan.blocks = static_cast<int32_t>(std::max<int64_t>(plan.blocks, least));
  return resource_exhausted("the model does not fit: " + why + "\n" + plan.table())
      .about(options.kv_cache_bytes ? "kv_cache_memory_bytes" : "model");
}

}  // namespace

bool MemoryPlan::packs_weights() const {
  return std::any_of(stages.begin(), stages.end(),
                     [](const StageMemory& stage) { return stage.packed_bytes > 0; });
}

int64_t MemoryPlan::kv_bytes() const {
  int64_t bytes = 0;
  for (const StageMemory& stage : stages) {
    bytes += int64_t{blocks} * stage.kv_block_bytes * grid.tensor;
  }
  return bytes;
}

int64_t MemoryPlan::total_bytes() const {
  int64_t bytes = 0;
  for (const StageMemory& stage : stages) bytes += rank_bytes(stage) * grid.tensor;
  return bytes;
}

std::string MemoryPlan::table() const {
  std::string text;
  auto line = [&](const char* name, auto bytes_of) {
    char cell[64];
    std::snprintf(cell, sizeof cell, "%-24s", name);
    text += cell;
    for (const StageMemory& stage : stages) {
      std::snprintf(cell, sizeof cell, "%12.1f", static_cast<double>(bytes_of(stage)) / (1 << 20));
      text += cell;
    }
    text += '\n';
  };
  text += "MiB per rank of stage   ";
  for (size_t i = 0; i < stages.size(); ++i) {
    char cell[32];
    std::snprintf(cell, sizeof cell, "%12zu", i);
    text += cell;
  }
  text += '\n';
  line("weights", [](const StageMemory& s) { return s.weight_bytes; });
  if (packs_weights()) line("packed weights", [](const StageMemory& s) { return s.packed_bytes; });
  line("KV cache", [&](const StageMemory& s) { return int64_t{blocks} * s.kv_block_bytes; });
  line("step workspace", [](const StageMemory& s) { return s.workspace_bytes; });
  line("slots and step arrays", [](const StageMemory& s) { return s.fixed_bytes; });
  line("together", [&](const StageMemory& s) { return rank_bytes(s); });
  line("available", [&](const StageMemory&) { return available_bytes_per_rank; });
  text += std::to_string(grid.ranks()) + " rank(s) on " + device +
          "; KV cache: " + std::to_string(std::max(blocks - 1, 0)) + " blocks of " +
          std::to_string(cache.block_tokens) + " tokens; longest sequence " +
          std::to_string(max_model_len) + " tokens\n";
  return text;
}

int32_t threads_per_rank(const EngineOptions& options) {
  const int32_t all = options.threads > 0 ? options.threads : usable_cores();
  return std::max(1, all / (options.tensor_parallel * options.pipeline_parallel));
}

Result<MemoryPlan> plan_memory(const EngineOptions& options, const WeightSource& weights,
                               Backend& backend) {
  FATHOM_RETURN_IF_ERROR(check_options(options));
  MemoryPlan plan;
  plan.grid = {options.tensor_parallel, options.pipeline_parallel};
  plan.device = backend.device_name();
  plan.device_id = backend.device_id();
  FATHOM_ASSIGN(plan.model, read_model_info(options.model_dir));
  FATHOM_RETURN_IF_ERROR(check_against_model(options, plan.model));
  set_limits(options, plan);
  std::vector<KvLayout> layouts;
  const std::unique_ptr<ScratchBounds> scratch = backend.scratch_bounds(options.numerics);
  for (int32_t stage = 0; stage < options.pipeline_parallel; ++stage) {
    FATHOM_ASSIGN(StageMemory memory, measure_stage(options, weights, scratch.get(), plan, stage));
    memory.workspace_bytes = backend.workspace_bytes(memory.workspace_bytes);
    layouts.push_back(memory.layout);
    plan.stages.push_back(std::move(memory));
  }
  plan.cache = merge_layouts(layouts);
  plan.slots.cache_groups = static_cast<int32_t>(plan.cache.groups.size());
  FATHOM_ASSIGN(plan.available_bytes_per_rank,
                backend.memory_bytes_per_rank(plan.grid, options.memory_fraction));
  FATHOM_RETURN_IF_ERROR(choose_packing(options, plan));
  FATHOM_RETURN_IF_ERROR(choose_blocks(options, plan));
  return plan;
}

Result<MemoryPlan> plan_memory(const EngineOptions& options) {
  FATHOM_ASSIGN(const std::shared_ptr<const WeightSource> weights, open_weights(options, true));
  FATHOM_ASSIGN(const std::unique_ptr<Backend> backend, make_backend(options.device));
  return plan_memory(options, *weights, *backend);
}

}  // namespace fathom
