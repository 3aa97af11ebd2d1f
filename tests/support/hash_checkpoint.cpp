#include "support/hash_checkpoint.h"

#include <cmath>
#include <cstring>

#include "base/float_formats.h"
#include "model/deepseek_tensors.h"

namespace fathom::testing {
namespace {

uint64_t hash_name(const std::string& name) {
  uint64_t h = 0xCBF29CE484222325U;  // FNV-1a
  for (const char c : name) h = (h ^ static_cast<uint8_t>(c)) * 0x100000001B3U;
  return h;
}

uint64_t mix(uint64_t x) {  // splitmix64
  x += 0x9E3779B97F4A7C15U;
  x = (x ^ (x >> 30)) * 0xBF58476D1CE4E5B9U;
  x = (x ^ (x >> 27)) * 0x94D049BB133111EBU;
  return x ^ (x >> 31);
}

bool ends_with(const std::string& name, const char* suffix) { return name.ends_with(suffix); }

bool is_quantized(const std::string& name, size_t rank) {
  return rank == 2 && !ends_with(name, "embed_tokens.weight") && name != "lm_head.weight" &&
         !ends_with(name, "mlp.gate.weight") && !ends_with(name, "eh_proj.weight");
}

// Standard-deviation-like spread of a tensor's values.
float spread_of(const std::string& name, const std::vector<int64_t>& shape) {
  if (ends_with(name, "e_score_correction_bias")) return 0.25F;
  if (shape.size() == 1) return 0.25F;
  if (ends_with(name, "embed_tokens.weight")) return 1.0F;
  if (name == "lm_head.weight") return 0.25F;
  return 2.0F / std::sqrt(static_cast<float>(shape[1]));
}

}  // namespace

float hash_value(const std::string& name, uint64_t i) {
  const uint64_t bits = mix(hash_name(name) + i * 0x9E3779B97F4A7C15U) >> 40;
  return static_cast<float>(static_cast<int64_t>(bits) - (int64_t{1} << 23)) * 0x1p-23F;
}

HashCheckpoint::HashCheckpoint(const DeepseekConfig& config, HashFormat format, bool ue8m0)
    : ue8m0_(ue8m0) {
  for_each_expected(config, true,
                    [&](const ExpectedTensor& tensor) { add(tensor.name, tensor.shape, format); });
}

HostTensor& HashCheckpoint::allocate(const std::string& name, DType dtype,
                                     const std::vector<int64_t>& shape) {
  Tensor view = shape.size() == 1 ? Tensor::of(nullptr, dtype, {shape[0]})
                                  : Tensor::of(nullptr, dtype, {shape[0], shape[1]});
  auto owner = std::make_shared<std::vector<std::byte>>(static_cast<size_t>(view.bytes()));
  view.data = owner->data();
  HostTensor& slot = tensors_[name];
  slot = HostTensor{view, owner};
  return slot;
}

void HashCheckpoint::add(const std::string& name, const std::vector<int64_t>& shape,
                         HashFormat format) {
  const float spread = spread_of(name, shape);
  const float center = shape.size() == 1 && !ends_with(name, "bias") ? 1.0F : 0.0F;
  if (format == HashFormat::kFp8 && is_quantized(name, shape.size())) {
    const Tensor values = allocate(name, DType::kF8E4M3, shape).view;
    for (int64_t i = 0; i < values.elements(); ++i) {
      values.as<uint8_t>()[i] = float_to_e4m3(hash_value(name, i) * 256.0F);
    }
    const std::string scale_name = name + "_scale_inv";
    const Tensor scales =
        allocate(scale_name, DType::kF32, {(shape[0] + 127) / 128, (shape[1] + 127) / 128}).view;
    for (int64_t i = 0; i < scales.elements(); ++i) {
      const float scale = spread / 256.0F * (1.0F + 0.5F * hash_value(scale_name, i));
      scales.as<float>()[i] = ue8m0_ ? power_of_two_at_least(scale) : scale;
    }
    return;
  }
  const bool bias = ends_with(name, "bias");
  const Tensor t = allocate(name, bias ? DType::kF32 : DType::kBF16, shape).view;
  for (int64_t i = 0; i < t.elements(); ++i) {
    const float value = center + spread * hash_value(name, i);
    if (bias)
      t.as<float>()[i] = value;
    else
      t.as<uint16_t>()[i] = float_to_bf16(value);
  }
}

void HashCheckpoint::reshape(const std::string& name, int64_t rows, int64_t columns) {
  allocate(name, DType::kBF16, {rows, columns});
}

Result<Tensor> HashCheckpoint::info(const std::string& name) const {
  const auto it = tensors_.find(name);
  if (it == tensors_.end()) return not_found("no tensor " + name);
  return it->second.view;
}

Result<HostTensor> HashCheckpoint::read(const std::string& name) const {
  const auto it = tensors_.find(name);
  if (it == tensors_.end()) return not_found("no tensor " + name);
  return it->second;
}

Result<HostWeight> HashCheckpoint::read_weight(const std::string& name, Span rows,
                                               Span columns) const {
  FATHOM_ASSIGN(const HostTensor whole, read(name));
  HostWeight part;
  part.values = {whole.view.rows(rows.begin, rows.size()).columns(columns.begin, columns.size()),
                 whole.owner};
  const auto scales = tensors_.find(name + "_scale_inv");
  if (scales == tensors_.end()) return part;
  const Tensor& all = scales->second.view;
  const int64_t first_row = rows.begin / 128;
  const int64_t first_column = columns.begin / 128;
  part.scales = HostTensor{all.rows(first_row, (rows.end + 127) / 128 - first_row)
                               .columns(first_column, (columns.end + 127) / 128 - first_column),
                           scales->second.owner};
  part.first_row_in_block = static_cast<int32_t>(rows.begin % 128);
  part.first_column_in_block = static_cast<int32_t>(columns.begin % 128);
  part.ue8m0_activations = ue8m0_;
  return part;
}

std::vector<std::string> HashCheckpoint::names() const {
  std::vector<std::string> names;
  for (const auto& [name, tensor] : tensors_) names.push_back(name);
  return names;
}

}  // namespace fathom::testing
