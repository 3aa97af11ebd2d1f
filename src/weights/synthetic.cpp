// Recipes for every role, and slices on demand.
#include "weights/synthetic.h"

#include <algorithm>
#include <cmath>
#include <filesystem>

#include "base/file.h"
#include "weights/checkpoint.h"
#include "weights/json_fields.h"

namespace fathom {
namespace {

constexpr float kE4m3Largest = 448.0F;
constexpr float kAdded = 0.125F;
const float kSqrt3 = std::sqrt(3.0F);  // a uniform value's spread over its standard deviation

// Standard deviation that keeps a matrix's output at the size of its input; what is added to the
// residual stream is made smaller by the number of additions, and all of it together a part
// (kAdded) of what entered, so that the rounding of single numbers seldom decides which token is
// likeliest. Not where embeddings are tied: what entered would win every time.
float deviation(const InventoryTensor& t, const ArchConfig& config) {
  const float in = t.spec.shape.size() == 2 ? static_cast<float>(t.spec.shape[1]) : 1.0F;
  const float unit = 1.0F / std::sqrt(in);
  switch (t.role) {
    case TensorRole::kResidualLinear:
    case TensorRole::kExpertResidual:
      return (config.tied_embeddings ? 1.0F : kAdded) * unit /
             std::sqrt(2.0F * static_cast<float>(config.layers));
    case TensorRole::kHead:
    case TensorRole::kRouter: return 2.0F * unit;
    // A tied embedding is the head as well: of size one it would answer each token with itself.
    case TensorRole::kEmbedding: return config.tied_embeddings ? unit : 1.0F;
    case TensorRole::kRouterBias: return 0.2F;
    case TensorRole::kBias:
    case TensorRole::kNorm: return 0.05F;
    default: return unit;
  }
}

ValueRecipe recipe_for(const InventoryTensor& t, const InventoryTensor& before,
                       const ArchConfig& config, uint64_t seed) {
  ValueRecipe recipe;
  recipe.dtype = t.spec.dtype;
  std::string name = t.spec.name;
  // A draft layer's embedding and head are copies of the model's.
  if (t.copy) {
    const bool head = t.role == TensorRole::kHead && !config.tied_embeddings;
    name = head ? "lm_head.weight" : "model.embed_tokens.weight";
  }
  recipe.key = value_key(seed, name);
  if (t.role == TensorRole::kScale) {
    recipe.center = deviation(before, config) * kSqrt3 / kE4m3Largest;
    recipe.spread = recipe.center / 4.0F;
    recipe.powers_of_two = config.quantization.ue8m0;
    return recipe;
  }
  recipe.center = t.role == TensorRole::kNorm ? 1.0F : 0.0F;
  recipe.spread = t.spec.dtype == DType::kF8E4M3 ? kE4m3Largest : deviation(t, config) * kSqrt3;
  return recipe;
}

Tensor shape_of(const TensorSpec& spec) {
  return spec.shape.size() == 1 ? Tensor::of(nullptr, spec.dtype, {spec.shape[0]})
                                : Tensor::of(nullptr, spec.dtype, {spec.shape[0], spec.shape[1]});
}

bool within(Span span, int64_t size) {
  return span.begin >= 0 && span.begin <= span.end && span.end <= size;
}

// Rows of one generated matrix, or a part of each.
class GeneratedRows final : public ByteSource {
 public:
  GeneratedRows(const ValueRecipe& recipe, int64_t first, int64_t columns, int64_t stride)
      : recipe_(recipe), first_(first), columns_(columns), stride_(stride) {}

  Status read(int64_t at, std::span<std::byte> to) const override {
    const int64_t item = dtype_bytes(recipe_.dtype);
    int64_t element = at / item;
    for (int64_t left = static_cast<int64_t>(to.size()) / item; left > 0;) {
      const int64_t in_row = element % columns_;
      const int64_t n = columns_ == stride_ ? left : std::min(left, columns_ - in_row);
      void* out = to.data() + to.size() - static_cast<size_t>(left * item);
      fill_values(recipe_, first_ + element / columns_ * stride_ + in_row, n, out);
      element += n;
      left -= n;
    }
    return Status::ok();
  }

 private:
  const ValueRecipe recipe_;
  const int64_t first_;  // element of the tensor
  const int64_t columns_;
  const int64_t stride_;  // columns of the tensor
};

}  // namespace

Result<std::shared_ptr<const SyntheticSource>> SyntheticSource::open(const std::string& directory,
                                                                     uint64_t seed,
                                                                     bool shapes_only) {
  std::error_code ignored;
  const bool is_directory = std::filesystem::is_directory(directory, ignored);
  const std::string path = is_directory ? directory + "/config.json" : directory;
  FATHOM_ASSIGN(const std::string text, read_file(path, size_t{16} << 20));
  FATHOM_ASSIGN(const ArchConfig config, parse_arch_config(text, path));
  return std::make_shared<const SyntheticSource>(config, seed, shapes_only);
}

SyntheticSource::SyntheticSource(const ArchConfig& config, uint64_t seed, bool shapes_only)
    : quantization_(config.quantization),
      shapes_only_(shapes_only),
      tensors_(tensor_inventory(config)) {
  recipes_.reserve(tensors_.size());
  index_.reserve(tensors_.size());
  for (size_t i = 0; i < tensors_.size(); ++i) {
    recipes_.push_back(recipe_for(tensors_[i], tensors_[i == 0 ? 0 : i - 1], config, seed));
    index_.emplace(tensors_[i].spec.name, i);
  }
}

Result<size_t> SyntheticSource::find(const std::string& name) const {
  const auto found = index_.find(name);
  if (found != index_.end()) return found->second;
  return not_found("a checkpoint of this config has no tensor " + quoted_name(name)).about(name);
}

Result<Tensor> SyntheticSource::info(const std::string& name) const {
  FATHOM_ASSIGN(const size_t i, find(name));
  return shape_of(tensors_[i].spec);
}

Result<HostTensor> SyntheticSource::read(const std::string& name) const {
  FATHOM_ASSIGN(const size_t i, find(name));
  const TensorSpec& spec = tensors_[i].spec;
  HostTensor out{shape_of(spec), nullptr};
  if (shapes_only_) return out;
  const HostTensor memory = allocate_host(spec.dtype, {spec.elements()});
  fill(i, 0, spec.elements(), memory.view.data);
  out.view.data = memory.view.data;
  out.owner = memory.owner;
  return out;
}

HostTensor SyntheticSource::slice(size_t index, Span rows, Span columns) const {
  const TensorSpec& spec = tensors_[index].spec;
  if (shapes_only_) {
    return {Tensor::of(nullptr, spec.dtype, {rows.size(), columns.size()}), nullptr};
  }
  HostTensor out = allocate_host(spec.dtype, {rows.size(), columns.size()});
  const int64_t width = spec.shape[1];
  if (columns.size() == width) {
    fill(index, rows.begin * width, rows.size() * width, out.view.data);
    return out;
  }
  for (int64_t r = 0; r < rows.size(); ++r) {
    fill(index, (rows.begin + r) * width + columns.begin, columns.size(), out.view.rows(r, 1).data);
  }
  return out;
}

Result<size_t> SyntheticSource::find_matrix(const std::string& name, Span rows,
                                            Span columns) const {
  FATHOM_ASSIGN(const size_t i, find(name));
  const TensorSpec& spec = tensors_[i].spec;
  if (spec.shape.size() == 2 && within(rows, spec.shape[0]) && within(columns, spec.shape[1]))
    return i;
  return invalid_argument("tensor " + quoted_name(name) +
                          " is not a matrix that holds these rows and columns")
      .about(name);
}

void SyntheticSource::add_scales(size_t index, Span rows, Span columns, HostWeight& to) const {
  if (tensors_[index].spec.dtype != DType::kF8E4M3) return;
  const int32_t block_rows = quantization_.block_rows;
  const int32_t block_columns = quantization_.block_columns;
  to.block_rows = block_rows;
  to.block_columns = block_columns;
  to.first_row_in_block = static_cast<int32_t>(rows.begin % block_rows);
  to.first_column_in_block = static_cast<int32_t>(columns.begin % block_columns);
  to.ue8m0_activations = quantization_.ue8m0;
  // The inventory lists a tensor's scales right behind it.
  to.scales =
      slice(index + 1, {rows.begin / block_rows, (rows.end + block_rows - 1) / block_rows},
            {columns.begin / block_columns, (columns.end + block_columns - 1) / block_columns});
}

Result<HostWeight> SyntheticSource::read_weight(const std::string& name, Span rows,
                                                Span columns) const {
  FATHOM_ASSIGN(const size_t i, find_matrix(name, rows, columns));
  HostWeight out;
  out.values = slice(i, rows, columns);
  add_scales(i, rows, columns, out);
  return out;
}

Result<HostWeight> SyntheticSource::map_weight(const std::string& name, Span rows,
                                               Span columns) const {
  if (shapes_only_) return read_weight(name, rows, columns);
  FATHOM_ASSIGN(const size_t i, find_matrix(name, rows, columns));
  const TensorSpec& spec = tensors_[i].spec;
  HostWeight out;
  out.values.view = Tensor::of(nullptr, spec.dtype, {rows.size(), columns.size()});
  out.bytes = std::make_shared<GeneratedRows>(
      recipes_[i], rows.begin * spec.shape[1] + columns.begin, columns.size(), spec.shape[1]);
  add_scales(i, rows, columns, out);
  return out;
}

}  // namespace fathom
