// safetensors files: the header parsed from untrusted bytes with every bound checked (format: an
// u64 header length, a JSON object, data), and a mapped file of it. Immutable; any thread.
#pragma once

#include <cstddef>
#include <cstdint>
#include <memory>
#include <span>
#include <string>
#include <string_view>
#include <unordered_map>
#include <vector>

#include "base/file.h"
#include "fathom/status.h"
#include "fathom/tensor.h"

namespace fathom {

inline constexpr uint64_t kSafetensorsHeaderBytesMax = 100'000'000;
inline constexpr size_t kSafetensorsRankMax = 8;

struct TensorEntry {
  std::string name;
  DType dtype = DType::kF32;
  std::vector<int64_t> shape;  // empty for a scalar
  uint64_t begin = 0;          // bytes from the start of the data
  uint64_t end = 0;
};

struct SafetensorsHeader {
  uint64_t data_offset = 0;          // of the data in the file: 8 + header length
  std::vector<TensorEntry> tensors;  // by begin, then end: they cover the data without holes
};

// The dtype that a header calls `name`; NOT_FOUND for one that Fathom cannot hold (F4, F6_E2M3...).
Result<DType> dtype_by_name(std::string_view name);

// Parses the first bytes of a file of `file_bytes` bytes; `head` holds at least the header (a whole
// file will do). Every error names `file` and, where there is one, the tensor.
Result<SafetensorsHeader> parse_safetensors_header(std::span<const std::byte> head,
                                                   uint64_t file_bytes, const std::string& file);

// A mapped file and its tensors. Shared by every HostTensor that looks into it.
class SafetensorsFile {
 public:
  static Result<std::shared_ptr<const SafetensorsFile>> open(const std::string& path);

  const std::string& path() const { return path_; }
  const std::vector<TensorEntry>& tensors() const { return header_.tensors; }
  // Null when there is none of this name.
  const TensorEntry* find(const std::string& name) const;
  std::span<const std::byte> bytes(const TensorEntry& entry) const;
  uint64_t file_bytes() const { return map_.bytes().size(); }

  // The same bytes by a read instead of the mapping, from `offset` in `entry` on: no page is mapped
  // for it. DATA_LOSS with the path when they cannot be read.
  Status read(const TensorEntry& entry, uint64_t offset, std::span<std::byte> to) const;

  // Reads the pages of `bytes`, which lie in this file, before somebody touches them. DATA_LOSS
  // with the path when the file has changed its size since open() or cannot be read: a touch would
  // end the process (SIGBUS), or see zeros.
  Status make_present(std::span<const std::byte> bytes) const;

 private:
  SafetensorsFile(std::string path, UniqueFd file, MappedFile map, SafetensorsHeader header);

  std::string path_;
  UniqueFd file_;
  MappedFile map_;
  SafetensorsHeader header_;
  std::unordered_map<std::string_view, const TensorEntry*> by_name_;
};

}  // namespace fathom
