// A loaded tiny DeepSeek-V3 on the CPU backend, for the tests of this folder.
#pragma once

#include <memory>
#include <optional>
#include <string>

#include "model/deepseek_v3.h"
#include "ops/cpu/cpu_ops.h"
#include "support/hash_checkpoint.h"
#include "support/step_driver.h"
#include "support/test_config.h"

namespace fathom::testing {

struct TinyOptions {
  HashFormat format = HashFormat::kFp8;
  bool ue8m0 = false;
  Numerics numerics = Numerics::kReference;
  int32_t threads = 1;
  int32_t block_tokens = 16;
  MlaForm form = MlaForm::kChosen;
  DriverLimits limits;
  Json config = tiny_config();
};

// The generated checkpoint of a config is made once per process.
inline const HashCheckpoint& tiny_checkpoint(const DeepseekConfig& config, HashFormat format,
                                             bool ue8m0) {
  static std::map<std::string, std::unique_ptr<HashCheckpoint>> made;
  const std::string key = std::to_string(int(format)) + (ue8m0 ? "u" : "f") +
                          std::to_string(config.q_lora.value_or(0)) + "_" +
                          std::to_string(config.layers);
  auto& slot = made[key];
  if (!slot) slot = std::make_unique<HashCheckpoint>(config, format, ue8m0);
  return *slot;
}

// One rank.
struct TinyModel {
  explicit TinyModel(const TinyOptions& options, const Groups& groups = {}) {
    const ModelDirectory directory(options.config);
    const DeepseekConfig config = read_deepseek_config(directory.path()).value();
    const HashCheckpoint& checkpoint = tiny_checkpoint(config, options.format, options.ue8m0);
    ops = make_cpu_ops({options.numerics, options.threads, int64_t{64} << 20});
    ModelOptions model_options;
    model_options.tokens_max = options.limits.tokens_max + options.limits.drafts_max;
    model_options.block_tokens = options.block_tokens;
    model_options.draft_layers = options.limits.drafts_max > 0 ? 1 : 0;
    model_options.mla_form = options.form;
    model = DeepseekV3::load(config, checkpoint, *ops, groups, model_options).value();
    driver.emplace(*ops, *model, options.limits, groups);
  }

  std::unique_ptr<Ops> ops;
  std::unique_ptr<Model> model;
  std::optional<StepDriver> driver;
};

inline float largest_difference(const std::vector<std::vector<float>>& a,
                                const std::vector<std::vector<float>>& b) {
  FATHOM_CHECK(a.size() == b.size(), "logits of different lengths");
  float largest = 0.0F;
  for (size_t i = 0; i < a.size(); ++i) {
    for (size_t k = 0; k < a[i].size(); ++k) {
      const float d = std::abs(a[i][k] - b[i][k]);
      largest = d > largest || d != d ? d : largest;
    }
  }
  return largest;
}

inline SamplingParams greedy(int32_t tokens) {
  SamplingParams sampling;
  sampling.temperature = 0.0F;
  sampling.max_tokens = tokens;
  sampling.ignore_eos = true;
  return sampling;
}

inline std::vector<TokenId> prompt_of(int32_t tokens, uint32_t seed) {
  std::vector<TokenId> prompt(tokens);
  for (int32_t i = 0; i < tokens; ++i) {
    prompt[i] =
        static_cast<TokenId>((hash_value("prompt" + std::to_string(seed), i) + 1.0F) * 256.0F);
  }
  return prompt;
}

}  // namespace fathom::testing
