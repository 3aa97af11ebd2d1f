// Reads tensors and slices of an open checkpoint.
#include "weights/checkpoint.h"

#include <algorithm>
#include <cstring>
#include <new>
#include <utility>

#include "base/float_formats.h"
#include "weights/json_fields.h"

namespace fathom {
namespace {

constexpr std::align_val_t kHostAlignment{64};

Result<Tensor> view_of(const SafetensorsFile& file, const TensorEntry& entry) {
  if (entry.shape.size() > 4) {
    return unimplemented(file.path() + ": tensor " + quoted_name(entry.name) + " has " +
                         std::to_string(entry.shape.size()) +
                         " dimensions; at most 4 are supported")
        .about(entry.name);
  }
  // The mapping is read-only; Tensor has no const form, and WeightSource's readers only read.
  void* data = const_cast<std::byte*>(file.bytes(entry).data());
  Tensor t = Tensor::of(data, entry.dtype, {1});
  if (entry.shape.empty()) return t;
  t.rank = static_cast<int32_t>(entry.shape.size());
  int64_t step = 1;
  for (int i = t.rank - 1; i >= 0; --i) {
    t.shape[i] = entry.shape[i];
    t.stride[i] = step;
    step *= entry.shape[i];
  }
  return t;
}

// The bytes from the first element of `t` to its last, whatever its strides.
std::span<const std::byte> extent_of(const Tensor& t) {
  int64_t last = 0;
  for (int i = 0; i < t.rank; ++i) {
    if (t.shape[i] == 0) return {};
    last += (t.shape[i] - 1) * t.stride[i];
  }
  return {t.as<const std::byte>(), static_cast<size_t>((last + 1) * dtype_bytes(t.dtype))};
}

bool is_aligned(const Tensor& t) {
  return reinterpret_cast<uintptr_t>(t.data) % static_cast<uintptr_t>(dtype_bytes(t.dtype)) == 0;
}

Status check_span(const std::string& name, const char* what, Span span, int64_t size) {
  if (span.begin >= 0 && span.begin <= span.end && span.end <= size) return Status::ok();
  return invalid_argument("tensor " + quoted_name(name) + ": " + what + " [" +
                          std::to_string(span.begin) + ", " + std::to_string(span.end) +
                          ") are outside its " + std::to_string(size))
      .about(name);
}

Span blocks_of(Span span, int32_t block) {
  return {span.begin / block, (span.end + block - 1) / block};
}

// e8m0: 2^(bits - 127); 255 is NaN.
float e8m0_to_float(uint8_t bits) {
  const uint32_t word = bits == 0 ? 0x00400000U : bits == 255 ? 0x7fc00000U : uint32_t{bits} << 23;
  float value = 0.0F;
  std::memcpy(&value, &word, 4);
  return value;
}

// Scales of any stored dtype as contiguous float32.
Result<HostTensor> scales_as_float(const Tensor& scales, const std::string& name) {
  HostTensor out = allocate_host(DType::kF32, {scales.shape[0], scales.shape[1]});
  float* to = out.view.as<float>();
  for (int64_t r = 0; r < scales.shape[0]; ++r) {
    for (int64_t c = 0; c < scales.shape[1]; ++c, ++to) {
      const int64_t at = r * scales.stride[0] + c * scales.stride[1];
      const auto* from = scales.as<const std::byte>() + at * dtype_bytes(scales.dtype);
      uint16_t half = 0;
      switch (scales.dtype) {
        case DType::kF32: std::memcpy(to, from, 4); break;
        case DType::kBF16:
          std::memcpy(&half, from, 2);
          *to = bf16_to_float(half);
          break;
        case DType::kE8M0: *to = e8m0_to_float(static_cast<uint8_t>(*from)); break;
        default:
          return data_loss("tensor " + quoted_name(name) + " is " +
                           std::string(dtype_name(scales.dtype)) +
                           "; scales must be F32, BF16 or F8_E8M0")
              .about(name);
      }
    }
  }
  return out;
}

// Rows of one stored matrix, or a part of each.
class FileRows final : public ByteSource {
 public:
  FileRows(std::shared_ptr<const SafetensorsFile> file, const TensorEntry& entry, int64_t first,
           int64_t row_bytes, int64_t stride)
      : file_(std::move(file)),
        entry_(entry),
        first_(first),
        row_bytes_(row_bytes),
        stride_(stride) {}

  Status read(int64_t at, std::span<std::byte> to) const override {
    if (row_bytes_ == stride_) return read_at(first_ + at, to);
    while (!to.empty()) {
      const int64_t in_row = at % row_bytes_;
      const auto n = std::min(to.size(), static_cast<size_t>(row_bytes_ - in_row));
      FATHOM_RETURN_IF_ERROR(read_at(first_ + at / row_bytes_ * stride_ + in_row, to.first(n)));
      at += static_cast<int64_t>(n);
      to = to.subspan(n);
    }
    return Status::ok();
  }

 private:
  Status read_at(int64_t offset, std::span<std::byte> to) const {
    return file_->read(entry_, static_cast<uint64_t>(offset), to);
  }

  const std::shared_ptr<const SafetensorsFile> file_;  // entry_ is one of its
  const TensorEntry& entry_;
  const int64_t first_;      // byte of the tensor
  const int64_t row_bytes_;  // of the slice
  const int64_t stride_;     // of the tensor
};

}  // namespace

HostTensor allocate_host(DType dtype, std::initializer_list<int64_t> shape) {
  HostTensor out;
  out.view = Tensor::of(nullptr, dtype, shape);
  const auto bytes = static_cast<size_t>(std::max<int64_t>(out.view.bytes(), 1));
  void* memory = ::operator new(bytes, kHostAlignment);
  std::memset(memory, 0, bytes);
  out.view.data = memory;
  out.owner = std::shared_ptr<const void>(
      memory, [](const void* p) { ::operator delete(const_cast<void*>(p), kHostAlignment); });
  return out;
}

HostTensor copy_to_host(const Tensor& view) {
  HostTensor out = allocate_host(view.dtype, {view.elements()});
  void* const data = out.view.data;
  out.view = view;
  out.view.data = data;
  int64_t step = 1;
  for (int i = view.rank - 1; i >= 0; --i) {
    out.view.stride[i] = step;
    step *= view.shape[i];
  }
  const int64_t row = view.rank == 0 ? 1 : view.shape[view.rank - 1];
  const int64_t item = dtype_bytes(view.dtype);
  const int64_t rows = row == 0 ? 0 : view.elements() / row;
  for (int64_t r = 0; r < rows; ++r) {
    int64_t at = 0;
    int64_t rest = r;
    for (int i = view.rank - 2; i >= 0; --i) {
      at += rest % view.shape[i] * view.stride[i];
      rest /= view.shape[i];
    }
    std::memcpy(out.view.as<std::byte>() + r * row * item, view.as<std::byte>() + at * item,
                static_cast<size_t>(row * item));
  }
  return out;
}

Result<Checkpoint::Place> Checkpoint::find(const std::string& name) const {
  const auto found = tensors_.find(name);
  if (found != tensors_.end()) return found->second;
  return not_found("the checkpoint has no tensor " + quoted_name(name)).about(name);
}

Result<Tensor> Checkpoint::info(const std::string& name) const {
  FATHOM_ASSIGN(const Place place, find(name));
  return view_of(*place.file, *place.entry);
}

Result<HostTensor> Checkpoint::read(const std::string& name) const {
  FATHOM_ASSIGN(const Place place, find(name));
  FATHOM_ASSIGN(const Tensor view, view_of(*place.file, *place.entry));
  FATHOM_RETURN_IF_ERROR(place.file->make_present(extent_of(view)));
  if (!is_aligned(view)) return copy_to_host(view);
  return HostTensor{view, place.file};
}

Result<HostTensor> Checkpoint::scales_of(const std::string& name, const Tensor& weight,
                                         Span row_blocks, Span column_blocks) const {
  const std::string scale_name = name + "_scale_inv";
  if (!quantization_.fp8_block) {
    return data_loss("tensor " + quoted_name(name) +
                     " is F8_E4M3, but config.json has no quantization_config with a "
                     "weight_block_size")
        .about(name);
  }
  if (!has(scale_name)) {
    return data_loss("tensor " + quoted_name(name) + " is F8_E4M3 and has no " +
                     quoted_name(scale_name))
        .about(name);
  }
  FATHOM_ASSIGN(const Place place, find(scale_name));
  FATHOM_ASSIGN(const Tensor all, view_of(*place.file, *place.entry));
  const Span rows = blocks_of({0, weight.shape[0]}, quantization_.block_rows);
  const Span columns = blocks_of({0, weight.shape[1]}, quantization_.block_columns);
  if (all.rank != 2 || all.shape[0] != rows.end || all.shape[1] != columns.end) {
    return data_loss("tensor " + quoted_name(scale_name) + " must be [" + std::to_string(rows.end) +
                     ", " + std::to_string(columns.end) + "]")
        .about(scale_name);
  }
  const Tensor slice = all.rows(row_blocks.begin, row_blocks.size())
                           .columns(column_blocks.begin, column_blocks.size());
  FATHOM_RETURN_IF_ERROR(place.file->make_present(extent_of(slice)));
  if (slice.dtype == DType::kF32 && is_aligned(slice)) return HostTensor{slice, place.file};
  return scales_as_float(slice, scale_name);
}

Result<Tensor> Checkpoint::matrix_of(const std::string& name, const Place& place, Span rows,
                                     Span columns) const {
  FATHOM_ASSIGN(const Tensor all, view_of(*place.file, *place.entry));
  if (all.rank != 2) {
    return invalid_argument("tensor " + quoted_name(name) + " has " + std::to_string(all.rank) +
                            " dimensions where a matrix is needed")
        .about(name);
  }
  FATHOM_RETURN_IF_ERROR(check_span(name, "rows", rows, all.shape[0]));
  FATHOM_RETURN_IF_ERROR(check_span(name, "columns", columns, all.shape[1]));
  return all;
}

Status Checkpoint::add_scales(const std::string& name, const Tensor& all, Span rows, Span columns,
                              HostWeight& to) const {
  if (all.dtype != DType::kF8E4M3) return Status::ok();
  to.block_rows = quantization_.block_rows;
  to.block_columns = quantization_.block_columns;
  FATHOM_ASSIGN(to.scales, scales_of(name, all, blocks_of(rows, to.block_rows),
                                     blocks_of(columns, to.block_columns)));
  to.first_row_in_block = static_cast<int32_t>(rows.begin % to.block_rows);
  to.first_column_in_block = static_cast<int32_t>(columns.begin % to.block_columns);
  to.ue8m0_activations = quantization_.ue8m0;
  return Status::ok();
}

Result<HostWeight> Checkpoint::read_weight(const std::string& name, Span rows, Span columns) const {
  FATHOM_ASSIGN(const Place place, find(name));
  FATHOM_ASSIGN(const Tensor all, matrix_of(name, place, rows, columns));
  HostWeight out;
  const Tensor slice = all.rows(rows.begin, rows.size()).columns(columns.begin, columns.size());
  FATHOM_RETURN_IF_ERROR(place.file->make_present(extent_of(slice)));
  out.values = is_aligned(slice) ? HostTensor{slice, place.file} : copy_to_host(slice);
  FATHOM_RETURN_IF_ERROR(add_scales(name, all, rows, columns, out));
  return out;
}

Result<HostWeight> Checkpoint::map_weight(const std::string& name, Span rows, Span columns) const {
  FATHOM_ASSIGN(const Place place, find(name));
  FATHOM_ASSIGN(const Tensor all, matrix_of(name, place, rows, columns));
  HostWeight out;
  out.values.view = Tensor::of(nullptr, all.dtype, {rows.size(), columns.size()});
  const int64_t item = dtype_bytes(all.dtype);
  const int64_t stride = all.shape[1] * item;
  out.bytes = std::make_shared<FileRows>(place.file, *place.entry,
                                         rows.begin * stride + columns.begin * item,
                                         columns.size() * item, stride);
  FATHOM_RETURN_IF_ERROR(add_scales(name, all, rows, columns, out));
  return out;
}

std::vector<std::string> Checkpoint::names() const {
  std::vector<std::string> names;
  names.reserve(tensors_.size());
  for (const auto& [name, place] : tensors_) names.push_back(name);
  std::sort(names.begin(), names.end());
  return names;
}

int64_t Checkpoint::total_bytes() const {
  uint64_t total = 0;
  for (const auto& [name, place] : tensors_) total += place.entry->end - place.entry->begin;
  return static_cast<int64_t>(total);
}

std::span<const std::byte> Checkpoint::mapped_bytes(const std::string& name) const {
  const auto found = tensors_.find(name);
  if (found == tensors_.end()) return {};
  return found->second.file->bytes(*found->second.entry);
}

}  // namespace fathom
