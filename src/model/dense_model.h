// DenseModel: the model text of Llama, Qwen2 and Qwen3: grouped attention and a gated MLP. Written
// once against Ops and Comm. Owned by a rank's worker; called on that rank's thread.
#pragma once

#include <memory>
#include <vector>

#include "fathom/model.h"
#include "model/blocks/decoder_stack.h"
#include "model/blocks/ends.h"
#include "model/dense_config.h"
#include "model/stage.h"

namespace fathom {

class DenseModel final : public Model {
 public:
  static Result<std::unique_ptr<Model>> load(const DenseConfig& config, const WeightSource& source,
                                             Ops& ops, const Groups& groups,
                                             const ModelOptions& options);

  const ModelInfo& info() const override { return info_; }
  // Keys and values of this rank's heads; where ranks outnumber the key heads, several ranks hold
  // the same ones.
  KvLayout kv_layout() const override;
  Span layer_span() const override { return stage_.layers; }

  Hidden embed(Ops& ops, const BatchView& batch) override;
  void layers(Ops& ops, const BatchView& batch, const std::vector<KvView>& caches,
              Hidden& hidden) override;
  Act final_norm(Ops& ops, Hidden& hidden) override;
  Tensor head(Ops& ops, const BatchView& batch, const Act& normed) override;
  // These families have no draft layer: never called.
  Tensor draft(Ops& ops, const BatchView& batch, const std::vector<KvView>& caches,
               const Act& normed, const Tensor& next_tokens, const Tensor& last) override;

 private:
  DenseModel(const DenseConfig& config, const Groups& groups, const ModelOptions& options,
             DType cache_dtype);
  Status load_weights(ShardLoader& loader);

  const DenseConfig config_;
  const Stage stage_;
  const ModelOptions options_;
  const DType cache_dtype_;
  const ModelInfo info_;
  RopeTable rope_;
  ModelEnds ends_;
  DecoderStack layers_;
};

// What the rest of the house needs to know of `config`.
ModelInfo model_info(const DenseConfig& config);

}  // namespace fathom
