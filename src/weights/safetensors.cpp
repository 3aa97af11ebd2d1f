// The mapped file; the header's parser is safetensors_header.cpp.
#include "weights/safetensors.h"

#include <sys/stat.h>
#include <unistd.h>

#include <cerrno>
#include <cstring>
#include <utility>

#include "weights/page_reads.h"

namespace fathom {

SafetensorsFile::SafetensorsFile(std::string path, UniqueFd file, MappedFile map,
                                 SafetensorsHeader header)
    : path_(std::move(path)),
      file_(std::move(file)),
      map_(std::move(map)),
      header_(std::move(header)) {
  by_name_.reserve(header_.tensors.size());
  for (const TensorEntry& entry : header_.tensors) by_name_.emplace(entry.name, &entry);
}

Result<std::shared_ptr<const SafetensorsFile>> SafetensorsFile::open(const std::string& path) {
  FATHOM_ASSIGN(UniqueFd file, open_for_read(path));
  FATHOM_ASSIGN(MappedFile map, MappedFile::open(path));
  FATHOM_ASSIGN(SafetensorsHeader header,
                parse_safetensors_header(map.bytes(), map.bytes().size(), path));
  return std::shared_ptr<const SafetensorsFile>(
      new SafetensorsFile(path, std::move(file), std::move(map), std::move(header)));
}

const TensorEntry* SafetensorsFile::find(const std::string& name) const {
  const auto found = by_name_.find(name);
  return found == by_name_.end() ? nullptr : found->second;
}

Status SafetensorsFile::make_present(std::span<const std::byte> bytes) const {
  struct stat now {};
  if (::fstat(file_.get(), &now) != 0) return file_error("stat", path_, errno);
  if (static_cast<uint64_t>(now.st_size) != file_bytes()) {
    return data_loss(path_ + " had " + std::to_string(file_bytes()) +
                     " bytes when it was opened and has " + std::to_string(now.st_size) +
                     " now: it changed while it was being read")
        .about(path_);
  }
  const int error = read_pages(bytes);
  if (error == 0) return Status::ok();
  return data_loss(path_ + " cannot be read: " + std::strerror(error)).about(path_);
}

Status SafetensorsFile::read(const TensorEntry& entry, uint64_t offset,
                             std::span<std::byte> to) const {
  const uint64_t first = header_.data_offset + entry.begin + offset;
  for (size_t done = 0; done < to.size();) {
    const ssize_t n =
        ::pread(file_.get(), to.data() + done, to.size() - done, static_cast<off_t>(first + done));
    if (n < 0 && errno == EINTR) continue;
    if (n < 0) return data_loss(path_ + " cannot be read: " + std::strerror(errno)).about(path_);
    if (n == 0) {
      return data_loss(path_ + " ends within tensor " + entry.name +
                       ": it changed while it was being read")
          .about(path_);
    }
    done += static_cast<size_t>(n);
  }
  return Status::ok();
}

std::span<const std::byte> SafetensorsFile::bytes(const TensorEntry& entry) const {
  return map_.bytes().subspan(header_.data_offset + entry.begin, entry.end - entry.begin);
}

}  // namespace fathom
