// Load and run of Llama, Qwen2 and Qwen3.
#include "model/dense_model.h"

#include <algorithm>
#include <utility>

#include "fathom/fp8_cache.h"
#include "model/dense_tensors.h"

namespace fathom {
namespace {

Status check_options(const DenseConfig& c, const Groups& groups, const ModelOptions& options) {
  const int32_t tp = Groups::size_of(groups.tp);
  FATHOM_RETURN_IF_ERROR(check_split(c.heads, "num_attention_heads", tp));
  if (c.kv_heads % tp != 0 && tp % c.kv_heads != 0) {
    return invalid_argument("num_key_value_heads " + std::to_string(c.kv_heads) +
                            " and the tensor parallel size " + std::to_string(tp) +
                            " must divide one another")
        .about("tensor_parallel_size");
  }
  FATHOM_RETURN_IF_ERROR(check_split(c.intermediate, "intermediate_size", tp));
  FATHOM_RETURN_IF_ERROR(check_split(c.vocab, "vocab_size", tp));
  FATHOM_RETURN_IF_ERROR(check_stages(groups, c.layers));
  if (options.draft_layers == 0) return Status::ok();
  return failed_precondition("the checkpoint has no draft layer to speculate with")
      .about("speculative_tokens");
}

TensorList tensors_of(const DenseConfig& config) {
  return [&config](const TensorVisitor& visit) { for_each_expected(config, visit); };
}

Result<DecoderLayer> load_layer(ShardLoader& loader, const DenseConfig& config, int64_t number,
                                const RopeTable& rope) {
  const std::string at = layer_prefix(static_cast<int32_t>(number));
  FATHOM_ASSIGN(GqaBlock attention, GqaBlock::load(loader, config, at + "self_attn.", rope));
  FATHOM_ASSIGN(MlpBlock mlp, MlpBlock::load(loader, at + "mlp.", config.intermediate));
  return DecoderLayer::load(loader, at, config.norm_epsilon, std::move(attention), std::move(mlp));
}

}  // namespace

ModelInfo model_info(const DenseConfig& config) {
  ModelInfo info;
  info.architecture = config.architecture;
  info.layers = config.layers;
  info.hidden = config.hidden;
  info.vocab = config.vocab;
  info.positions_max = config.positions_max;
  info.eos = config.eos;
  info.bos = config.bos;
  info.parameters = element_count(tensors_of(config));
  return info;
}

DenseModel::DenseModel(const DenseConfig& config, const Groups& groups, const ModelOptions& options,
                       DType cache_dtype)
    : config_(config),
      stage_(groups, config.layers),
      options_(options),
      cache_dtype_(cache_dtype),
      info_(model_info(config)) {}

Result<std::unique_ptr<Model>> DenseModel::load(const DenseConfig& config,
                                                const WeightSource& source, Ops& ops,
                                                const Groups& groups, const ModelOptions& options) {
  FATHOM_RETURN_IF_ERROR(check_options(config, groups, options));
  const TensorList expected = tensors_of(config);
  FATHOM_RETURN_IF_ERROR(
      check_tensor_set(expected, source, [](const std::string&) { return false; }));
  const DType cache_dtype = options.fp8_cache ? DType::kF8E4M3 : ops.act_dtype();
  FATHOM_RETURN_IF_ERROR(ops.check_cache(cache_dtype, config.head_dims));
  std::unique_ptr<DenseModel> model(new DenseModel(config, groups, options, cache_dtype));
  const int64_t ranks = int64_t{Groups::size_of(groups.tp)} * Groups::size_of(groups.pp);
  ShardLoader loader(source, ops, groups, model->options_, stored_bytes(expected, source) / ranks);
  FATHOM_RETURN_IF_ERROR(model->load_weights(loader));
  return std::unique_ptr<Model>(std::move(model));
}

Status DenseModel::load_weights(ShardLoader& loader) {
  FATHOM_ASSIGN(rope_, loader.rope(config_.rope));
  FATHOM_ASSIGN(ends_, ModelEnds::load(loader, {.vocab = config_.vocab,
                                                .tied = config_.tied_embedding,
                                                .norm_epsilon = config_.norm_epsilon,
                                                .with_embedding = stage_.is_first(),
                                                .with_head = stage_.is_last()}));
  for (int64_t i = stage_.layers.begin; i < stage_.layers.end; ++i) {
    FATHOM_ASSIGN(DecoderLayer layer, load_layer(loader, config_, i, rope_));
    layers_.add(std::move(layer));
  }
  return Status::ok();
}

KvLayout DenseModel::kv_layout() const {
  const int32_t ranks = stage_.tensor_ranks();
  const Span heads = kv_heads_of(config_, Groups::rank_of(stage_.groups.tp), ranks);
  KvGroup group;
  group.name = "keys and values";
  group.dtype = cache_dtype_;
  const Fp8HeadsLayout fp8{heads.size(), config_.head_dims, options_.block_tokens};
  group.entry_elements = static_cast<int32_t>(
      options_.fp8_cache ? fp8.entry_bytes() : 2 * heads.size() * config_.head_dims);
  group.layers = static_cast<int32_t>(stage_.layers.size());
  group.sharded = ranks > 1 && config_.kv_heads % ranks == 0;
  return KvLayout{options_.block_tokens, {group}};
}

Hidden DenseModel::embed(Ops& ops, const BatchView& batch) {
  Hidden hidden;
  hidden.residual = ends_.embed(ops, batch.token_ids.rows(0, batch.shape.tokens), stage_.groups.tp);
  return hidden;
}

void DenseModel::layers(Ops& ops, const BatchView& batch, const std::vector<KvView>& caches,
                        Hidden& hidden) {
  layers_.run(ops, batch, caches, MlaForm::kChosen, stage_, false, hidden);
}

Act DenseModel::final_norm(Ops& ops, Hidden& hidden) {
  return ends_.final_norm(ops, hidden, stage_.groups.tp);
}

Tensor DenseModel::head(Ops& ops, const BatchView& batch, const Act& normed) {
  return ends_.head(ops, batch, normed, stage_.groups.tp);
}

Tensor DenseModel::draft(Ops&, const BatchView&, const std::vector<KvView>&, const Act&,
                         const Tensor&, const Tensor&) {
  FATHOM_CHECK(false, "this family has no draft layer");
}

}  // namespace fathom
