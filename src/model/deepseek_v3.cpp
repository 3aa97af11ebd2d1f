// Load and run of DeepSeek-V3.
#include "model/deepseek_v3.h"

#include <algorithm>
#include <cstring>

#include "base/log.h"
#include "fathom/fp8_cache.h"
#include "model/deepseek_layer.h"
#include "model/deepseek_tensors.h"

namespace fathom {
namespace {

constexpr int64_t kCopyRowsCompared = 64;

Status check_options(const DeepseekConfig& c, const Groups& groups, const ModelOptions& options) {
  const int32_t tp = Groups::size_of(groups.tp);
  FATHOM_RETURN_IF_ERROR(check_split(c.heads, "num_attention_heads", tp));
  FATHOM_RETURN_IF_ERROR(check_split(c.experts, "n_routed_experts", tp));
  FATHOM_RETURN_IF_ERROR(check_split(c.intermediate, "intermediate_size", tp));
  FATHOM_RETURN_IF_ERROR(
      check_split(int64_t{c.shared_experts} * c.moe_intermediate, "the shared expert's width", tp));
  FATHOM_RETURN_IF_ERROR(check_split(c.vocab, "vocab_size", tp));
  FATHOM_RETURN_IF_ERROR(check_stages(groups, c.layers));
  if (options.draft_layers > std::min(c.draft_layers, 1)) {
    return failed_precondition(c.draft_layers == 0
                                   ? "the checkpoint has no draft layer to speculate with"
                                   : "one draft layer at most is supported")
        .about("speculative_tokens");
  }
  return Status::ok();
}

// The draft layer's copy of a main tensor is not loaded; a checkpoint where the two differ would
// draft badly, so rows spread over the tensor are compared.
void compare_copy(const WeightSource& source, const std::string& copy, const std::string& main) {
  if (!source.has(copy) || !source.has(main)) return;
  const auto info = source.info(main);
  if (!info.is_ok() || info->rank != 2) return;
  const int64_t rows = info->shape[0];
  bool same = source.info(copy).is_ok() && source.info(copy)->dtype == info->dtype;
  for (int64_t i = 0; same && i < std::min(rows, kCopyRowsCompared); ++i) {
    const int64_t row = i * rows / std::min(rows, kCopyRowsCompared);
    const auto a = source.read_weight(copy, {row, row + 1}, {0, info->shape[1]});
    const auto b = source.read_weight(main, {row, row + 1}, {0, info->shape[1]});
    same = a.is_ok() && b.is_ok() &&
           std::memcmp(a->values.view.data, b->values.view.data,
                       static_cast<size_t>(b->values.view.bytes())) == 0;
  }
  if (same) return;
  Logger("model").warn("the draft layer's own copy differs from the main tensor, which is used",
                       {{"copy", copy}, {"main", main}});
}

}  // namespace

ModelInfo model_info(const DeepseekConfig& config) {
  ModelInfo info;
  info.architecture = config.architecture;
  info.layers = config.layers;
  info.draft_layers = config.draft_layers;
  info.hidden = config.hidden;
  info.vocab = config.vocab;
  info.positions_max = config.positions_max;
  info.eos = config.eos;
  info.bos = config.bos;
  info.parameters = parameter_count(config);
  info.routed = config.experts > 0;
  return info;
}

DeepseekV3::DeepseekV3(const DeepseekConfig& config, const Groups& groups,
                       const ModelOptions& options, DType cache_dtype)
    : config_(config),
      stage_(groups, config.layers),
      options_(options),
      cache_dtype_(cache_dtype),
      info_(model_info(config)) {}

Result<std::unique_ptr<Model>> DeepseekV3::load(const DeepseekConfig& config,
                                                const WeightSource& source, Ops& ops,
                                                const Groups& groups, const ModelOptions& options) {
  FATHOM_RETURN_IF_ERROR(check_options(config, groups, options));
  const bool with_draft = options.draft_layers > 0;
  FATHOM_RETURN_IF_ERROR(check_tensor_set(config, with_draft, source));
  const DType cache_dtype = options.fp8_cache ? DType::kF8E4M3 : ops.act_dtype();
  FATHOM_RETURN_IF_ERROR(ops.check_cache(cache_dtype, 0));
  std::unique_ptr<DeepseekV3> model(new DeepseekV3(config, groups, options, cache_dtype));
  const TensorList expected = [&](const TensorVisitor& visit) {
    for_each_expected(config, with_draft, visit);
  };
  const int64_t ranks = int64_t{Groups::size_of(groups.tp)} * Groups::size_of(groups.pp);
  ShardLoader loader(source, ops, groups, model->options_, stored_bytes(expected, source) / ranks);
  FATHOM_RETURN_IF_ERROR(model->load_weights(loader, source));
  return std::unique_ptr<Model>(std::move(model));
}

Status DeepseekV3::load_weights(ShardLoader& loader, const WeightSource& source) {
  FATHOM_ASSIGN(rope_, loader.rope(config_.rope));
  FATHOM_ASSIGN(ends_, ModelEnds::load(loader, {.vocab = config_.vocab,
                                                .tied = config_.tied_embedding,
                                                .norm_epsilon = config_.norm_epsilon,
                                                .with_embedding = stage_.is_first() || drafts(),
                                                .with_head = stage_.is_last()}));
  for (int64_t i = stage_.layers.begin; i < stage_.layers.end; ++i) {
    FATHOM_ASSIGN(DecoderLayer layer,
                  load_deepseek_layer(loader, config_, static_cast<int32_t>(i), rope_));
    layers_.add(std::move(layer));
  }
  if (!drafts()) return Status::ok();
  const std::string at = layer_prefix(config_.layers);
  const std::string head = config_.tied_embedding ? "model.embed_tokens.weight" : "lm_head.weight";
  compare_copy(source, at + "embed_tokens.weight", "model.embed_tokens.weight");
  compare_copy(source, at + "shared_head.head.weight", head);
  FATHOM_ASSIGN(MtpBlock mtp, MtpBlock::load(loader, config_, rope_));
  mtp_ = std::move(mtp);
  return Status::ok();
}

KvLayout DeepseekV3::kv_layout() const {
  KvLayout layout;
  layout.block_tokens = options_.block_tokens;
  KvGroup group;
  group.name = "latent";
  group.dtype = cache_dtype_;
  const Fp8LatentLayout fp8{config_.kv_lora, config_.rope_dims};
  group.entry_elements = options_.fp8_cache ? static_cast<int32_t>(fp8.entry_bytes())
                                            : config_.kv_lora + config_.rope_dims;
  group.layers = static_cast<int32_t>(stage_.layers.size());
  group.latent = true;
  layout.groups.push_back(group);
  if (mtp_) {
    group.name = "draft latent";
    group.layers = 1;
    group.draft = true;
    layout.groups.push_back(group);
  }
  return layout;
}

Hidden DeepseekV3::embed(Ops& ops, const BatchView& batch) {
  Hidden hidden;
  hidden.residual = ends_.embed(ops, batch.token_ids.rows(0, batch.shape.tokens), stage_.groups.tp);
  return hidden;
}

void DeepseekV3::layers(Ops& ops, const BatchView& batch, const std::vector<KvView>& caches,
                        Hidden& hidden) {
  layers_.run(ops, batch, caches, options_.mla_form, stage_, drafts(), hidden);
}

Act DeepseekV3::final_norm(Ops& ops, Hidden& hidden) {
  return ends_.final_norm(ops, hidden, stage_.groups.tp);
}

Tensor DeepseekV3::head(Ops& ops, const BatchView& batch, const Act& normed) {
  return ends_.head(ops, batch, normed, stage_.groups.tp);
}

Tensor DeepseekV3::draft(Ops& ops, const BatchView& batch, const std::vector<KvView>& caches,
                         const Act& normed, const Tensor& next_tokens, const Tensor& last) {
  FATHOM_CHECK(mtp_ && caches.size() == layers_.size() + 1, "the draft layer is not loaded");
  Comm* tp = stage_.groups.tp;
  const Tensor embedded = ends_.embed(ops, next_tokens, tp);
  const Act rows =
      mtp_->run(ops, batch, caches.back(), options_.mla_form, tp, embedded, normed, last);
  return ends_.logits(ops, rows, tp);
}

}  // namespace fathom
