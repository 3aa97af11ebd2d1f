// Model: one text for every backend. Owned by a rank's worker; called on that rank's thread.
#pragma once

#include <cstdint>
#include <functional>
#include <memory>
#include <string>
#include <vector>

#include "fathom/batch.h"
#include "fathom/comm.h"
#include "fathom/kv_layout.h"
#include "fathom/ops.h"
#include "fathom/status.h"
#include "fathom/weight.h"

namespace fathom {

// What the rest of the house needs to know of a checkpoint's config.json.
struct ModelInfo {
  std::string architecture;  // "DeepseekV3ForCausalLM"
  int32_t layers = 0;        // without draft layers
  int32_t draft_layers = 0;  // MTP layers in the checkpoint
  int32_t hidden = 0;
  int32_t vocab = 0;          // columns of the logits (padding rows included)
  int32_t positions_max = 0;  // longest context
  std::vector<TokenId> eos;   // every id of config.json and generation_config.json
  TokenId bos = 0;
  int64_t parameters = 0;
  bool routed = false;  // has layers whose tokens choose experts
};

// How this rank runs the model.
struct ModelOptions {
  int32_t tokens_max = 0;  // positions to make rope tables for
  int32_t block_tokens = 64;
  int32_t draft_layers = 0;  // MTP layers to load: 0 or 1
  MlaForm mla_form = MlaForm::kChosen;
  bool fp8_cache = false;  // e4m3 entries (fathom/fp8_cache.h); else act_dtype
  bool pack_weights = false;  // Ops::pack_linear of every matrix that a linear layer reads
  std::function<void(int64_t bytes_done, int64_t bytes_total)>
      on_progress;  // called on the loading thread
};

// What flows from layer to layer.
struct Hidden {
  Tensor residual;  // act_dtype [T, hidden]
  Partial pending;  // the last layer's output, not yet added
};

class Model {
 public:
  virtual ~Model() = default;

  virtual const ModelInfo& info() const = 0;
  // Of this rank's pipeline stage.
  virtual KvLayout kv_layout() const = 0;
  virtual Span layer_span() const = 0;

  // First stage: token ids to residual.
  virtual Hidden embed(Ops& ops, const BatchView& batch) = 0;
  // This stage's layers. caches: one view per layer of the stage, then one per draft layer.
  virtual void layers(Ops& ops, const BatchView& batch, const std::vector<KvView>& caches,
                      Hidden& hidden) = 0;
  // Last stage: final norm of all tokens, act_dtype [T, hidden] (a drafter reads it too); of the
  // sample tokens alone, in their order, where layers() kept no others: where there are none and no
  // drafter either, of nothing that may be read.
  virtual Act final_norm(Ops& ops, Hidden& hidden) = 0;
  // Last stage: float32 logits [sample_rows, vocab] of the batch's sample tokens.
  virtual Tensor head(Ops& ops, const BatchView& batch, const Act& normed) = 0;
  // Last stage, after sampling: one MTP step (models.md 2.11). next_tokens: i32 [T]; last: i32
  // [rows]. Returns logits [rows, vocab] for the token after each row's newest token.
  virtual Tensor draft(Ops& ops, const BatchView& batch, const std::vector<KvView>& caches,
                       const Act& normed, const Tensor& next_tokens, const Tensor& last) = 0;
};

// Reads config.json (and generation_config.json) of a model directory; refuses unknown
// architectures by name.
Result<ModelInfo> read_model_info(const std::string& directory);

// Loads this rank's shard from `source` into `ops`' memory.
Result<std::unique_ptr<Model>> load_model(const std::string& directory, const WeightSource& source,
                                          Ops& ops, const Groups& groups,
                                          const ModelOptions& options);

}  // namespace fathom
