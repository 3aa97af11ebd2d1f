// CountOps under real model texts: the step of a tiny DeepSeek-V3 and a tiny Qwen2 against figures
// worked out by hand, and its workspace as a bound of what CpuOps really takes.
#include <gtest/gtest.h>
#include <unistd.h>

#include <filesystem>
#include <memory>
#include <thread>

#include "base/file.h"
#include "comm/thread_comm.h"
#include "engine/step_program.h"
#include "ops/count/count_ops.h"
#include "ops/cpu/cpu_ops.h"
#include "weights/synthetic.h"

namespace fathom {
namespace {

constexpr int32_t kBlockTokens = 64;
constexpr int32_t kTokensMax = 512;

// Two layers: dense, then experts. Head dimensions are the published ones.
std::string config_json(bool fp8) {
  const std::string quantization =
      fp8 ? R"("quantization_config":{"quant_method":"fp8","fmt":"e4m3",
               "activation_scheme":"dynamic","weight_block_size":[128,128]},)"
          : "";
  return "{" + quantization + R"("architectures":["DeepseekV3ForCausalLM"],
    "model_type":"deepseek_v3","num_hidden_layers":2,"num_nextn_predict_layers":1,
    "hidden_size":256,"intermediate_size":512,"moe_intermediate_size":128,"vocab_size":4096,
    "max_position_embeddings":512,"num_attention_heads":2,"num_key_value_heads":2,
    "q_lora_rank":128,"kv_lora_rank":512,"qk_nope_head_dim":128,"qk_rope_head_dim":64,
    "v_head_dim":128,"n_routed_experts":8,"n_shared_experts":1,"num_experts_per_tok":2,
    "n_group":4,"topk_group":2,"first_k_dense_replace":1,"moe_layer_freq":1,
    "scoring_func":"sigmoid","topk_method":"noaux_tc","norm_topk_prob":true,
    "routed_scaling_factor":2.5,"rope_theta":10000,"rms_norm_eps":1e-06,"hidden_act":"silu",
    "tie_word_embeddings":false,"attention_bias":false,"torch_dtype":"bfloat16",
    "bos_token_id":0,"eos_token_id":1})";
}

// Two layers with biases, four query heads a key head.
constexpr const char* kDenseConfig = R"({"architectures":["Qwen2ForCausalLM"],
    "num_hidden_layers":2,"hidden_size":256,"intermediate_size":512,"vocab_size":4096,
    "max_position_embeddings":512,"num_attention_heads":4,"num_key_value_heads":1,"head_dim":128,
    "rope_theta":10000,"rms_norm_eps":1e-06,"hidden_act":"silu","tie_word_embeddings":false,
    "torch_dtype":"bfloat16","bos_token_id":0,"eos_token_id":1})";

// A directory with config.json, and its generated weights.
class Checkpoint {
 public:
  explicit Checkpoint(const std::string& config) {
    std::string pattern = ::testing::TempDir() + "fathom-count-XXXXXX";
    directory_ = ::mkdtemp(pattern.data());
    EXPECT_TRUE(write_file(directory_ + "/config.json", config).is_ok());
    source_ = SyntheticSource::open(directory_, 1, false).value();
  }
  ~Checkpoint() {
    std::error_code ignored;
    std::filesystem::remove_all(directory_, ignored);
  }
  const std::string& directory() const { return directory_; }
  const WeightSource& source() const { return *source_; }

 private:
  std::string directory_;
  std::shared_ptr<const SyntheticSource> source_;
};

struct StepSizes {
  int32_t rows = 4;
  int32_t tokens = 64;
  int32_t drafts = 0;
};

// One rank: model and step program over any Ops.
struct Rank {
  Rank(const Checkpoint& checkpoint, Ops& ops, Comm* tp, const StepSizes& sizes) {
    const Groups groups{.tp = tp, .pp = nullptr, .world = nullptr};
    ModelOptions options;
    options.tokens_max = kTokensMax;
    options.draft_layers = sizes.drafts;
    auto loaded = load_model(checkpoint.directory(), checkpoint.source(), ops, groups, options);
    EXPECT_TRUE(loaded.is_ok()) << loaded.status().to_string();
    model = std::move(loaded).value();
    StepProgramOptions program_options;
    program_options.cache = model->kv_layout();
    program_options.blocks = 64;
    SlotLimits& slots = program_options.slots;
    slots.slots = sizes.rows + 1;
    slots.tokens_max = kTokensMax;
    slots.blocks_max = kTokensMax / kBlockTokens;
    slots.cache_groups = static_cast<int32_t>(program_options.cache.groups.size());
    slots.drafts_max = sizes.drafts;
    slots.vocab = slots.vocab_padded = 4096;
    slots.hidden = 256;
    slots.penalty_slots = sizes.rows;
    program_options.step = {sizes.rows, sizes.tokens, sizes.tokens};
    auto made = StepProgram::make(ops, *model, groups, program_options);
    EXPECT_TRUE(made.is_ok()) << made.status().to_string();
    program = std::move(made).value();
    cache_groups = slots.cache_groups;
  }
  std::unique_ptr<Model> model;
  std::unique_ptr<StepProgram> program;
  int32_t cache_groups = 1;
};

// Opens `rows` slots with `prompt` tokens each and prefills them.
StepPlan prefill_plan(int32_t rows, int32_t prompt, int32_t cache_groups, bool prompt_logprobs) {
  StepPlan plan;
  plan.number = 1;
  auto sampling = std::make_shared<SamplingParams>();
  sampling->prompt_logprobs = prompt_logprobs;
  sampling->logprobs = kLogprobsMax;
  sampling->max_tokens = 8;
  std::vector<TokenId> tokens;
  for (int32_t i = 0; i < prompt; ++i) tokens.push_back(2 + i * 37 % 4000);
  const auto shared = std::make_shared<const std::vector<TokenId>>(tokens);
  const int32_t blocks = prompt / kBlockTokens + 1;
  for (SlotId slot = 1; slot <= rows; ++slot) {
    plan.open.push_back({slot, shared, prompt, 0, sampling});
    for (int32_t group = 0; group < cache_groups; ++group) {
      std::vector<BlockId> ids;
      for (int32_t b = 0; b < blocks; ++b) ids.push_back(1 + (slot - 1) * blocks + b);
      plan.append.push_back({slot, group, 0, ids});
    }
    plan.rows.push_back({slot, RowKind::kPrefill, prompt, true});
  }
  return plan;
}

StepPlan decode_plan(int32_t rows, int32_t tokens) {
  StepPlan plan;
  plan.number = 2;
  const RowKind kind = tokens > 1 ? RowKind::kVerify : RowKind::kDecode;
  for (SlotId slot = 1; slot <= rows; ++slot) plan.rows.push_back({slot, kind, tokens, true});
  return plan;
}

// A matrix product of one row.
constexpr int64_t product(int64_t out, int64_t in) { return 2 * out * in; }

TEST(CountModel, ADecodeStepsFlopsAreThoseWorkedOutByHand) {
  const Checkpoint checkpoint(config_json(false));
  CountOps ops({.numerics = Numerics::kNative, .threads = 1});
  Rank rank(checkpoint, ops, nullptr, {});
  ASSERT_TRUE(rank.program->launch(prefill_plan(1, 10, rank.cache_groups, false)).is_ok());
  ops.reset_steps();
  ASSERT_TRUE(rank.program->launch(decode_plan(1, 1)).is_ok());

  constexpr int64_t kContext = 64;  // the host knows of one block
  constexpr int64_t kHeads = 2;
  constexpr int64_t kAttention = product(128 + 576, 256)       // q_a and kv_a
                                 + product(kHeads * 192, 128)  // q_b
                                 + 4 * 128                     // its norm
                                 + 4 * 512                     // the latent's norm
                                 + product(kHeads * 256, 512)  // up-projections, absorbed
                                 + 2 * kContext * kHeads * (512 + 512 + 64) + product(256, 256);
  constexpr int64_t kDense = product(1024, 256) + 5 * 512 + product(256, 512);
  constexpr int64_t kExpert = product(256, 256) + product(256, 128);
  constexpr int64_t kMoe = product(8, 256) + 2 * kExpert + kExpert;
  // Five norms of the stream; all but the first add a partial sum.
  constexpr int64_t kNorms = (4 + 4 * 5) * 256;
  constexpr int64_t kHead = product(4096, 256) + 4096;
  EXPECT_EQ(ops.report().flops, 2 * kAttention + kDense + kMoe + kNorms + kHead);
}

TEST(CountModel, WeightsAreThoseOfTheCheckpoint) {
  const Checkpoint checkpoint(config_json(false));
  CountOps ops({.numerics = Numerics::kNative, .threads = 1});
  ModelOptions options;
  options.tokens_max = kTokensMax;
  ASSERT_TRUE(load_model(checkpoint.directory(), checkpoint.source(), ops, {}, options).is_ok());
  constexpr int64_t kAttention = 2 * (704 * 256 + 384 * 128 + 256 * 256)  // bf16
                                 + 2 * (2 * 256 * 512)                    // kv_b, bf16
                                 + 4 * (256 + 256 + 128 + 512);           // norms
  constexpr int64_t kDense = 2 * (1024 * 256 + 256 * 512);
  constexpr int64_t kMoe = 4 * (8 * 256 + 8) + 2 * 9 * 3 * 128 * 256;
  constexpr int64_t kEnds = 2 * 2 * 4096 * 256 + 4 * 256;
  constexpr int64_t kRope = 2 * 4 * kTokensMax * 32;
  EXPECT_EQ(ops.report().weight_bytes, 2 * kAttention + kDense + kMoe + kEnds + kRope);
}

TEST(CountModel, ADenseDecodeStepsFlopsAreThoseWorkedOutByHand) {
  const Checkpoint checkpoint(kDenseConfig);
  CountOps ops({.numerics = Numerics::kNative, .threads = 1});
  Rank rank(checkpoint, ops, nullptr, {});
  constexpr int64_t kLayer = 2 * (768 * 256 + 256 * 512 + 1024 * 256 + 256 * 512)  // bf16
                             + 4 * (768 + 2 * 256);                                // bias, norms
  EXPECT_EQ(ops.report().weight_bytes, 2 * kLayer + 2 * 2 * 4096 * 256 + 4 * 256   // ends
                                           + 2 * 4 * kTokensMax * 64);             // rope
  ASSERT_TRUE(rank.program->launch(prefill_plan(1, 10, rank.cache_groups, false)).is_ok());
  ops.reset_steps();
  ASSERT_TRUE(rank.program->launch(decode_plan(1, 1)).is_ok());
  constexpr int64_t kContext = 64;  // the host knows of one block
  constexpr int64_t kAttention =
      product(768, 256) + 4 * kContext * 4 * 128 + product(256, 512);  // qkv, pairs, o
  constexpr int64_t kMlp = product(1024, 256) + 5 * 512 + product(256, 512);
  constexpr int64_t kNorms = (4 + 4 * 5) * 256;
  EXPECT_EQ(ops.report().flops, 2 * (kAttention + kMlp) + kNorms + product(4096, 256) + 4096);
}

struct Scenario {
  const char* name;
  int32_t rows;
  int32_t prompt;
  bool prompt_logprobs;
  int32_t decode_tokens;  // of a second step; 0: none
};
constexpr Scenario kScenarios[] = {
    {"one short prompt", 1, 5, false, 0},
    {"one long prompt", 1, 256, false, 0},
    {"one long prompt with logprobs", 1, 200, true, 0},
    {"many prompts", 8, 32, false, 0},
    {"one decode", 1, 5, false, 1},
    {"decode after a long prompt", 1, 300, false, 1},
    {"many decodes", 8, 40, false, 1},
    {"many verify rows", 8, 40, false, 2},
};

int64_t count_peak(const Checkpoint& checkpoint, Numerics numerics, int32_t threads, Comm* tp,
                   const Scenario& s, const StepSizes& sizes) {
  CountOps ops({.numerics = numerics, .threads = threads});
  Rank rank(checkpoint, ops, tp, sizes);
  EXPECT_TRUE(
      rank.program->launch(prefill_plan(s.rows, s.prompt, rank.cache_groups, s.prompt_logprobs))
          .is_ok());
  if (s.decode_tokens > 0) {
    EXPECT_TRUE(rank.program->launch(decode_plan(s.rows, s.decode_tokens)).is_ok());
  }
  return ops.report().arena_peak_bytes;
}

int64_t cpu_peak(const Checkpoint& checkpoint, Numerics numerics, int32_t threads, Comm* tp,
                 const Scenario& s, const StepSizes& sizes) {
  const auto ops =
      make_cpu_ops({.numerics = numerics, .threads = threads, .arena_bytes = int64_t{1} << 30});
  Rank rank(checkpoint, *ops, tp, sizes);
  EXPECT_TRUE(
      rank.program->launch(prefill_plan(s.rows, s.prompt, rank.cache_groups, s.prompt_logprobs))
          .is_ok());
  EXPECT_TRUE(rank.program->collect().is_ok());
  if (s.decode_tokens > 0) {
    EXPECT_TRUE(rank.program->launch(decode_plan(s.rows, s.decode_tokens)).is_ok());
    EXPECT_TRUE(rank.program->collect().is_ok());
  }
  return ops->arena().peak();
}

// The engine gives CpuOps an arena of CountOps' peak: it must suffice, and not by waste.
TEST(CountModel, WorkspaceBoundsWhatTheCpuTakes) {
  for (const std::string& config :
       {config_json(false), config_json(true), std::string(kDenseConfig)}) {
    const Checkpoint checkpoint(config);
    const bool drafts = config != kDenseConfig;
    for (const Numerics numerics : {Numerics::kReference, Numerics::kNative}) {
      for (const int32_t threads : {1, 3}) {
        for (const Scenario& s : kScenarios) {
          if (s.decode_tokens > 1 && !drafts) continue;
          StepSizes sizes{s.rows, std::max(s.rows * s.prompt, 64), s.decode_tokens > 1 ? 1 : 0};
          const int64_t bound = count_peak(checkpoint, numerics, threads, nullptr, s, sizes);
          const int64_t taken = cpu_peak(checkpoint, numerics, threads, nullptr, s, sizes);
          EXPECT_LE(taken, bound) << s.name << ", threads " << threads << config;
          EXPECT_LT(bound, 4 * taken + (1 << 20)) << s.name << config;
        }
      }
    }
  }
}

TEST(CountModel, WorkspaceBoundsWhatTwoRanksTake) {
  const Checkpoint checkpoint(config_json(true));
  for (const Scenario& s : kScenarios) {
    const StepSizes sizes{s.rows, std::max(s.rows * s.prompt, 64), s.decode_tokens > 1 ? 1 : 0};
    auto group = make_thread_group(2);
    const int64_t bound = count_peak(checkpoint, Numerics::kNative, 1, group[0].get(), s, sizes);
    int64_t taken[2] = {0, 0};
    {
      std::vector<std::jthread> ranks;
      for (size_t r = 0; r < 2; ++r) {
        ranks.emplace_back([&, r] {
          taken[r] = cpu_peak(checkpoint, Numerics::kNative, 1, group[r].get(), s, sizes);
        });
      }
    }
    EXPECT_LE(std::max(taken[0], taken[1]), bound) << s.name;
  }
}

}  // namespace
}  // namespace fathom
