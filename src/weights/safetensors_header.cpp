// Parses a safetensors header without building a document: memory stays a small multiple of the
// header, whatever the header holds.
#include <algorithm>
#include <array>
#include <cstring>
#include <limits>
#include <optional>
#include <unordered_set>
#include <utility>

#include "weights/json_fields.h"
#include "weights/safetensors.h"

namespace fathom {
namespace {

using nlohmann::json;

enum class Field { kNone, kDType, kShape, kOffsets };

// States are places in the document: the root, one tensor's object, its two arrays, the metadata.
enum class Place { kBefore, kRoot, kTensor, kShape, kOffsets, kMetadata, kAfter };

class HeaderSax final : public nlohmann::json_sax<json> {
 public:
  std::vector<TensorEntry> take_tensors() { return std::move(tensors_); }
  const std::string& error() const { return error_; }

  bool null() override { return unexpected("null"); }
  bool boolean(bool) override { return unexpected("a boolean"); }
  bool number_float(number_float_t, const string_t&) override {
    return unexpected("a number that is not a 64-bit integer");
  }
  bool number_integer(number_integer_t) override { return unexpected("a negative number"); }
  bool binary(binary_t&) override { return unexpected("binary data"); }

  bool number_unsigned(number_unsigned_t value) override {
    if (place_ == Place::kShape) return add_dimension(value);
    if (place_ == Place::kOffsets) return add_offset(value);
    return unexpected("a number");
  }
  bool string(string_t& value) override {
    if (place_ == Place::kMetadata) return true;
    if (place_ != Place::kTensor || field_ != Field::kDType) return unexpected("a string");
    const Result<DType> dtype = dtype_by_name(value);
    if (!dtype.is_ok()) return fail("has the unsupported dtype " + quoted_name(value));
    entry_.dtype = *dtype;
    return true;
  }
  bool start_object(std::size_t) override {
    if (place_ == Place::kBefore) return go(Place::kRoot);
    if (place_ == Place::kRoot) return go(is_metadata_ ? Place::kMetadata : Place::kTensor);
    return unexpected("an object");
  }
  bool start_array(std::size_t) override {
    if (place_ == Place::kTensor && field_ == Field::kShape) return go(Place::kShape);
    if (place_ == Place::kTensor && field_ == Field::kOffsets) return go(Place::kOffsets);
    return unexpected("an array");
  }
  bool end_array() override {
    if (place_ == Place::kOffsets && offsets_ != 2) return fail("needs two data_offsets");
    return go(Place::kTensor);
  }
  bool end_object() override {
    if (place_ == Place::kRoot) return go(Place::kAfter);
    const bool was_tensor = place_ == Place::kTensor;
    place_ = Place::kRoot;
    return !was_tensor || finish_tensor();
  }
  bool key(string_t& name) override {
    if (place_ == Place::kRoot) return begin_entry(name);
    if (place_ == Place::kTensor) return begin_field(name);
    if (!metadata_keys_.insert(name).second) {
      return fail("has the key " + quoted_name(name) + " twice");
    }
    return true;
  }
  bool parse_error(std::size_t position, const std::string&,
                   const nlohmann::detail::exception&) override {
    if (!error_.empty()) return false;
    error_ = "has a header that is not valid JSON at its byte " + std::to_string(position);
    return false;
  }

 private:
  bool go(Place place) {
    place_ = place;
    return true;
  }
  // `why` follows the tensor's name, or the file's where no tensor is being read.
  bool fail(const std::string& why) {
    if (!error_.empty()) return false;
    const bool in_entry = place_ != Place::kBefore && !current_.empty();
    error_ = in_entry ? "tensor " + quoted_name(current_) + " " + why : "header " + why;
    return false;
  }
  bool unexpected(const std::string& what) {
    return fail("holds " + what + " where it does not belong");
  }

  bool begin_entry(const std::string& name) {
    current_ = name;
    if (!names_.insert(name).second) return fail("appears twice");
    is_metadata_ = name == "__metadata__";
    entry_ = TensorEntry{};
    entry_.name = name;
    field_ = Field::kNone;
    seen_ = {};
    offsets_ = 0;
    return true;
  }
  bool begin_field(const std::string& name) {
    if (name == "dtype") {
      field_ = Field::kDType;
    } else if (name == "shape") {
      field_ = Field::kShape;
    } else if (name == "data_offsets") {
      field_ = Field::kOffsets;
    } else {
      return fail("has the unknown key " + quoted_name(name));
    }
    bool& seen = seen_[static_cast<size_t>(field_)];
    if (seen) return fail("has the key " + quoted_name(name) + " twice");
    seen = true;
    return true;
  }
  bool add_dimension(uint64_t value) {
    if (value > static_cast<uint64_t>(std::numeric_limits<int64_t>::max())) {
      return fail("has a dimension over 2^63 - 1");
    }
    if (entry_.shape.size() >= kSafetensorsRankMax) {
      return fail("has more than " + std::to_string(kSafetensorsRankMax) + " dimensions");
    }
    entry_.shape.push_back(static_cast<int64_t>(value));
    return true;
  }
  bool add_offset(uint64_t value) {
    if (offsets_ >= 2) return fail("needs two data_offsets");
    (offsets_ == 0 ? entry_.begin : entry_.end) = value;
    ++offsets_;
    return true;
  }
  bool finish_tensor() {
    constexpr std::array<const char*, 4> kNames = {"", "dtype", "shape", "data_offsets"};
    for (size_t i = 1; i < kNames.size(); ++i) {
      if (!seen_[i]) return fail(std::string("has no ") + kNames[i]);
    }
    tensors_.push_back(std::move(entry_));
    current_.clear();
    return true;
  }

  Place place_ = Place::kBefore;
  Field field_ = Field::kNone;
  bool is_metadata_ = false;
  std::array<bool, 4> seen_{};
  int offsets_ = 0;
  std::string current_;
  TensorEntry entry_;
  std::vector<TensorEntry> tensors_;
  std::unordered_set<std::string> names_;
  std::unordered_set<std::string> metadata_keys_;
  std::string error_;
};

// Bytes that shape and dtype need, or nothing when the product overflows.
std::optional<uint64_t> bytes_needed(const TensorEntry& entry) {
  auto bytes = static_cast<uint64_t>(dtype_bytes(entry.dtype));
  if (std::find(entry.shape.begin(), entry.shape.end(), 0) != entry.shape.end()) return 0;
  for (const int64_t n : entry.shape) {
    if (__builtin_mul_overflow(bytes, static_cast<uint64_t>(n), &bytes)) return std::nullopt;
  }
  return bytes;
}

Status check_extent(const TensorEntry& entry, const std::string& file) {
  const std::string where = file + ": tensor " + quoted_name(entry.name) + " ";
  if (entry.end < entry.begin) {
    return invalid_argument(where + "ends before it begins").about(file);
  }
  const std::optional<uint64_t> needed = bytes_needed(entry);
  if (!needed) return invalid_argument(where + "has a shape that overflows 64 bits").about(file);
  if (*needed != entry.end - entry.begin) {
    return invalid_argument(where + "has " + std::to_string(entry.end - entry.begin) +
                            " bytes where its shape and dtype need " + std::to_string(*needed))
        .about(file);
  }
  return Status::ok();
}

// Sorts the tensors and checks that they cover [0, data_bytes) exactly once.
Status check_layout(std::vector<TensorEntry>& tensors, uint64_t data_bytes,
                    const std::string& file) {
  std::sort(tensors.begin(), tensors.end(), [](const TensorEntry& a, const TensorEntry& b) {
    return std::pair(a.begin, a.end) < std::pair(b.begin, b.end);
  });
  uint64_t at = 0;
  for (const TensorEntry& entry : tensors) {
    FATHOM_RETURN_IF_ERROR(check_extent(entry, file));
    if (entry.begin != at) {
      return invalid_argument(
                 file + ": tensor " + quoted_name(entry.name) +
                 (entry.begin < at ? " overlaps the one before it" : " leaves a hole before it"))
          .about(file);
    }
    at = entry.end;
  }
  if (at != data_bytes) {
    return invalid_argument(file + ": the tensors end at byte " + std::to_string(at) +
                            " of the data, the file at byte " + std::to_string(data_bytes) +
                            (at > data_bytes ? " (is the file truncated?)" : ""))
        .about(file);
  }
  return Status::ok();
}

}  // namespace

Result<DType> dtype_by_name(std::string_view name) {
  for (auto t = static_cast<int>(DType::kF32); t <= static_cast<int>(DType::kU64); ++t) {
    if (name == dtype_name(static_cast<DType>(t))) return static_cast<DType>(t);
  }
  return not_found("dtype " + quoted_name(name) + " is not supported");
}

Result<SafetensorsHeader> parse_safetensors_header(std::span<const std::byte> head,
                                                   uint64_t file_bytes, const std::string& file) {
  if (head.size() < 8 || file_bytes < 8) {
    return invalid_argument(file + " is too short for a safetensors file").about(file);
  }
  uint64_t length = 0;
  std::memcpy(&length, head.data(), 8);
  if (length > kSafetensorsHeaderBytesMax) {
    return invalid_argument(file + " says that its header has " + std::to_string(length) +
                            " bytes; at most " + std::to_string(kSafetensorsHeaderBytesMax) +
                            " are allowed")
        .about(file);
  }
  if (length > file_bytes - 8 || length > head.size() - 8) {
    return invalid_argument(file + " ends inside its header (is the file truncated?)").about(file);
  }
  const std::string_view text(reinterpret_cast<const char*>(head.data()) + 8, length);
  if (text.empty() || text.front() != '{') {
    return invalid_argument(file + " has a header that is not a JSON object").about(file);
  }
  // The parser would take a NUL byte for the end of its input.
  if (text.find('\0') != std::string_view::npos) {
    return invalid_argument(file + " has a header that is not valid JSON: it holds a NUL byte")
        .about(file);
  }
  HeaderSax sax;
  if (!json::sax_parse(text.begin(), text.end(), &sax)) {
    return invalid_argument(file + ": " + sax.error()).about(file);
  }
  SafetensorsHeader header;
  header.data_offset = 8 + length;
  header.tensors = sax.take_tensors();
  FATHOM_RETURN_IF_ERROR(check_layout(header.tensors, file_bytes - header.data_offset, file));
  return header;
}

}  // namespace fathom
