// DeepseekV3: the model text of DeepSeek-V3, R1 and V3.1, and of V2 and V2-Lite, which route
// otherwise and have no draft layer. Written once against Ops and Comm. Owned by a rank's worker;
// called on that rank's thread.
#pragma once

#include <memory>
#include <optional>
#include <vector>

#include "fathom/model.h"
#include "model/blocks/decoder_stack.h"
#include "model/blocks/ends.h"
#include "model/blocks/mtp.h"
#include "model/deepseek_config.h"
#include "model/stage.h"

namespace fathom {

class DeepseekV3 final : public Model {
 public:
  static Result<std::unique_ptr<Model>> load(const DeepseekConfig& config,
                                             const WeightSource& source, Ops& ops,
                                             const Groups& groups, const ModelOptions& options);

  const ModelInfo& info() const override { return info_; }
  KvLayout kv_layout() const override;
  Span layer_span() const override { return stage_.layers; }

  Hidden embed(Ops& ops, const BatchView& batch) override;
  void layers(Ops& ops, const BatchView& batch, const std::vector<KvView>& caches,
              Hidden& hidden) override;
  Act final_norm(Ops& ops, Hidden& hidden) override;
  Tensor head(Ops& ops, const BatchView& batch, const Act& normed) override;
  Tensor draft(Ops& ops, const BatchView& batch, const std::vector<KvView>& caches,
               const Act& normed, const Tensor& next_tokens, const Tensor& last) override;

 private:
  DeepseekV3(const DeepseekConfig& config, const Groups& groups, const ModelOptions& options,
             DType cache_dtype);

  bool drafts() const { return options_.draft_layers > 0 && stage_.is_last(); }
  Status load_weights(ShardLoader& loader, const WeightSource& source);

  const DeepseekConfig config_;
  const Stage stage_;
  const ModelOptions options_;
  const DType cache_dtype_;
  const ModelInfo info_;
  RopeTable rope_;
  ModelEnds ends_;
  DecoderStack layers_;
  std::optional<MtpBlock> mtp_;
};

// What the rest of the house needs to know of `config`.
ModelInfo model_info(const DeepseekConfig& config);

}  // namespace fathom
