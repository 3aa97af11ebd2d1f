// Layout, header and positioned writes of one safetensors file.
#include "weights/safetensors_writer.h"

#include <fcntl.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cstring>

#include "base/json.h"

namespace fathom {
namespace {

Status write_at(int fd, const std::string& path, uint64_t offset,
                std::span<const std::byte> bytes) {
  while (!bytes.empty()) {
    const ssize_t n = ::pwrite(fd, bytes.data(), bytes.size(), static_cast<off_t>(offset));
    if (n < 0 && errno == EINTR) continue;
    if (n <= 0) return file_error("write", path, n < 0 ? errno : ENOSPC);
    bytes = bytes.subspan(static_cast<size_t>(n));
    offset += static_cast<uint64_t>(n);
  }
  return Status::ok();
}

// Length, JSON, and spaces up to a multiple of eight.
std::string make_header(const std::vector<TensorSpec>& tensors) {
  Json header = Json::object();
  header["__metadata__"] = {{"format", "pt"}};
  int64_t at = 0;
  auto& fields = static_cast<Json::object_t::Container&>(header.get_ref<Json::object_t&>());
  for (const TensorSpec& t : tensors) {
    Json entry = {
        {"dtype", dtype_name(t.dtype)}, {"shape", t.shape}, {"data_offsets", {at, at + t.bytes()}}};
    fields.emplace_back(t.name, std::move(entry));
    at += t.bytes();
  }
  std::string text = header.dump();
  text.resize((text.size() + 7) / 8 * 8, ' ');
  const uint64_t length = text.size();
  std::string bytes(8, '\0');
  std::memcpy(bytes.data(), &length, 8);
  return bytes + text;
}

}  // namespace

int64_t TensorSpec::elements() const {
  int64_t n = 1;
  for (const int64_t d : shape) n *= d;
  return n;
}

Result<SafetensorsWriter> SafetensorsWriter::create(const std::string& path,
                                                    std::vector<TensorSpec> tensors) {
  SafetensorsWriter writer;
  writer.path_ = path;
  writer.tensors_ = std::move(tensors);
  std::stable_sort(writer.tensors_.begin(), writer.tensors_.end(),
                   [](const TensorSpec& a, const TensorSpec& b) {
                     return dtype_bytes(a.dtype) > dtype_bytes(b.dtype);
                   });
  const std::string header = make_header(writer.tensors_);
  uint64_t at = header.size();
  for (const TensorSpec& t : writer.tensors_) {
    writer.offsets_.push_back(at);
    at += static_cast<uint64_t>(t.bytes());
  }
  writer.file_bytes_ = at;
  writer.fd_.reset(::open(path.c_str(), O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0644));
  if (!writer.fd_) return file_error("create", path, errno);
  // Space is taken now, so that a full disk is an error before hours of writing.
  const int error = ::posix_fallocate(writer.fd_.get(), 0, static_cast<off_t>(at));
  if (error != 0 && error != EOPNOTSUPP && error != EINVAL) {
    return file_error("reserve space for", path, error);
  }
  if (::ftruncate(writer.fd_.get(), static_cast<off_t>(at)) != 0) {
    return file_error("size", path, errno);
  }
  FATHOM_RETURN_IF_ERROR(
      write_at(writer.fd_.get(), path, 0, std::as_bytes(std::span(header.data(), header.size()))));
  return writer;
}

Status SafetensorsWriter::write(size_t index, int64_t offset,
                                std::span<const std::byte> bytes) const {
  FATHOM_CHECK(index < tensors_.size() && offset >= 0 &&
                   offset + static_cast<int64_t>(bytes.size()) <= tensors_[index].bytes(),
               "write outside a tensor");
  return write_at(fd_.get(), path_, offsets_[index] + static_cast<uint64_t>(offset), bytes);
}

Status SafetensorsWriter::finish() {
  const int fd = fd_.release();
  const int flushed = ::fdatasync(fd) == 0 ? 0 : errno;
  const int closed = ::close(fd) == 0 ? 0 : errno;
  if (flushed != 0) return file_error("flush", path_, flushed);
  if (closed != 0) return file_error("close", path_, closed);
  return Status::ok();
}

}  // namespace fathom
