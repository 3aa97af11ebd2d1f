// Load and run of DeepSeek-V3.
#include "model/deepseek_v3.h"

#include <algorithm>
#include <cstring>

#include "base/log.h"
#include "model/tensor_set.h"

namespace fathom {
namespace {

constexpr int64_t kCopyRowsCompared = 64;

Status check_split(int64_t n, const char* what, int32_t ranks) {
  if (n % ranks == 0) return Status::ok();
  return invalid_argument(std::string(what) + " " + std::to_string(n) +
                          " cannot be divided by the tensor parallel size " + std::to_string(ranks))
      .about("tensor_parallel_size");
}

Status check_options(const DeepseekConfig& c, const Groups& groups, const ModelOptions& options) {
  const int32_t tp = Groups::size_of(groups.tp);
  FATHOM_RETURN_IF_ERROR(check_split(c.heads, "num_attention_heads", tp));
  FATHOM_RETURN_IF_ERROR(check_split(c.experts, "n_routed_experts", tp));
  FATHOM_RETURN_IF_ERROR(check_split(c.intermediate, "intermediate_size", tp));
  FATHOM_RETURN_IF_ERROR(
      check_split(int64_t{c.shared_experts} * c.moe_intermediate, "the shared expert's width", tp));
  FATHOM_RETURN_IF_ERROR(check_split(c.vocab, "vocab_size", tp));
  if (Groups::size_of(groups.pp) > c.layers) {
    return invalid_argument("there are more pipeline stages than layers")
        .about("pipeline_parallel_size");
  }
  if (options.draft_layers > std::min(c.draft_layers, 1)) {
    return failed_precondition(c.draft_layers == 0
                                   ? "the checkpoint has no draft layer to speculate with"
                                   : "one draft layer at most is supported")
        .about("speculative_tokens");
  }
  return Status::ok();
}

// Bytes that this rank is about to read, near enough for a progress bar.
int64_t bytes_to_read(const DeepseekConfig& config, const WeightSource& source, bool with_draft,
                      const Groups& groups) {
  int64_t bytes = 0;
  for_each_expected(config, with_draft, [&](const ExpectedTensor& tensor) {
    const auto info = source.info(tensor.name);
    if (info.is_ok()) bytes += info->bytes();
  });
  return bytes / (Groups::size_of(groups.tp) * Groups::size_of(groups.pp));
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
  return info;
}

DeepseekV3::DeepseekV3(const DeepseekConfig& config, const Groups& groups,
                       const ModelOptions& options, DType cache_dtype)
    : config_(config),
      groups_(groups),
      options_(options),
      cache_dtype_(cache_dtype),
      info_(model_info(config)) {
  const int64_t stage = Groups::rank_of(groups.pp);
  const int64_t stages = Groups::size_of(groups.pp);
  span_ = {config.layers * stage / stages, config.layers * (stage + 1) / stages};
}

Result<std::unique_ptr<Model>> DeepseekV3::load(const DeepseekConfig& config,
                                                const WeightSource& source, Ops& ops,
                                                const Groups& groups, const ModelOptions& options) {
  FATHOM_RETURN_IF_ERROR(check_options(config, groups, options));
  const bool with_draft = options.draft_layers > 0;
  FATHOM_RETURN_IF_ERROR(check_tensor_set(config, with_draft, source));
  std::unique_ptr<DeepseekV3> model(new DeepseekV3(config, groups, options, ops.act_dtype()));
  ShardLoader loader(source, ops, groups, model->options_,
                     bytes_to_read(config, source, with_draft, groups));
  FATHOM_RETURN_IF_ERROR(model->load_weights(loader, source));
  return std::unique_ptr<Model>(std::move(model));
}

Status DeepseekV3::load_weights(ShardLoader& loader, const WeightSource& source) {
  const RopeTables tables = make_rope_tables(config_.rope, std::max(1, options_.tokens_max));
  FATHOM_ASSIGN(rope_.cosines, loader.place(tables.cosines));
  FATHOM_ASSIGN(rope_.sines, loader.place(tables.sines));
  FATHOM_RETURN_IF_ERROR(load_ends(loader));
  for (int64_t i = span_.begin; i < span_.end; ++i) {
    FATHOM_ASSIGN(DecoderLayer layer,
                  DecoderLayer::load(loader, config_, static_cast<int32_t>(i), rope_));
    layers_.push_back(std::move(layer));
  }
  if (options_.draft_layers == 0 || !is_last_stage()) return Status::ok();
  const std::string at = layer_prefix(config_.layers);
  const std::string head = config_.tied_embedding ? "model.embed_tokens.weight" : "lm_head.weight";
  compare_copy(source, at + "embed_tokens.weight", "model.embed_tokens.weight");
  compare_copy(source, at + "shared_head.head.weight", head);
  FATHOM_ASSIGN(MtpBlock mtp, MtpBlock::load(loader, config_, rope_));
  mtp_ = std::move(mtp);
  return Status::ok();
}

// Embedding, final norm and head, on the stages that use them.
Status DeepseekV3::load_ends(ShardLoader& loader) {
  const Span rows = loader.share(config_.vocab);
  first_vocab_row_ = static_cast<int32_t>(rows.begin);
  const std::string embedding = "model.embed_tokens.weight";
  if (is_first_stage() || (is_last_stage() && options_.draft_layers > 0)) {
    FATHOM_ASSIGN(embedding_, loader.table({embedding, rows, {}}));
  }
  if (!is_last_stage()) return Status::ok();
  FATHOM_ASSIGN(final_norm_, loader.floats("model.norm.weight"));
  const std::string head = config_.tied_embedding ? embedding : "lm_head.weight";
  FATHOM_ASSIGN(head_, loader.linear({{head, rows, {}}}));
  return Status::ok();
}

ActSpec DeepseekV3::plain(const Ops& ops) const {
  return ActSpec{ops.act_dtype() == DType::kF32 ? ActFormat::kF32 : ActFormat::kBF16, false, 0};
}

KvLayout DeepseekV3::kv_layout() const {
  KvLayout layout;
  layout.block_tokens = options_.block_tokens;
  KvGroup group;
  group.name = "latent";
  group.dtype = cache_dtype_;
  group.entry_elements = config_.kv_lora + config_.rope_dims;
  group.layers = static_cast<int32_t>(span_.size());
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
  hidden.residual = ops.embed(batch.token_ids.rows(0, batch.shape.tokens), embedding_,
                              first_vocab_row_, groups_.tp);
  return hidden;
}

void DeepseekV3::layers(Ops& ops, const BatchView& batch, const std::vector<KvView>& caches,
                        Hidden& hidden) {
  FATHOM_CHECK(caches.size() >= layers_.size(), "a layer has no cache");
  const Tensor buffer = ops.arena().take(ops.act_dtype(), {batch.shape.tokens, config_.hidden});
  for (size_t i = 0; i < layers_.size(); ++i) {
    layers_[i].run(ops, batch, caches[i], options_.mla_form, groups_.tp, buffer, hidden);
  }
  if (is_last_stage()) return;
  ops.reduce_add(hidden.pending, hidden.residual, groups_.tp);  // the next stage gets whole sums
  hidden.pending = Partial{};
}

Act DeepseekV3::final_norm(Ops& ops, Hidden& hidden) {
  return ops.reduce_add_norm(hidden.pending, hidden.residual, final_norm_, config_.norm_epsilon,
                             plain(ops), groups_.tp);
}

Tensor DeepseekV3::head(Ops& ops, const BatchView& batch, const Act& normed) {
  const Act rows{ops.gather_rows(normed.data, batch.sample_tokens.rows(0, batch.shape.sample_rows)),
                 {},
                 normed.spec};
  return ops.logits(rows, head_, groups_.tp);
}

Tensor DeepseekV3::draft(Ops& ops, const BatchView& batch, const std::vector<KvView>& caches,
                         const Act& normed, const Tensor& next_tokens, const Tensor& last) {
  FATHOM_CHECK(mtp_ && caches.size() == layers_.size() + 1, "the draft layer is not loaded");
  const Tensor embedded = ops.embed(next_tokens, embedding_, first_vocab_row_, groups_.tp);
  const Act rows =
      mtp_->run(ops, batch, caches.back(), options_.mla_form, groups_.tp, embedded, normed, last);
  return ops.logits(rows, head_, groups_.tp);
}

}  // namespace fathom
