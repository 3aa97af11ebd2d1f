// The mapped file; the header's parser is safetensors_header.cpp.
#include "weights/safetensors.h"

#include <utility>

namespace fathom {

SafetensorsFile::SafetensorsFile(std::string path, MappedFile map, SafetensorsHeader header)
    : path_(std::move(path)), map_(std::move(map)), header_(std::move(header)) {
  by_name_.reserve(header_.tensors.size());
  for (const TensorEntry& entry : header_.tensors) by_name_.emplace(entry.name, &entry);
}

Result<std::shared_ptr<const SafetensorsFile>> SafetensorsFile::open(const std::string& path) {
  FATHOM_ASSIGN(MappedFile map, MappedFile::open(path));
  FATHOM_ASSIGN(SafetensorsHeader header,
                parse_safetensors_header(map.bytes(), map.bytes().size(), path));
  return std::shared_ptr<const SafetensorsFile>(
      new SafetensorsFile(path, std::move(map), std::move(header)));
}

const TensorEntry* SafetensorsFile::find(const std::string& name) const {
  const auto found = by_name_.find(name);
  return found == by_name_.end() ? nullptr : found->second;
}

std::span<const std::byte> SafetensorsFile::bytes(const TensorEntry& entry) const {
  return map_.bytes().subspan(header_.data_offset + entry.begin, entry.end - entry.begin);
}

}  // namespace fathom
