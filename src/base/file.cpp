// File reading over plain POSIX calls.
#include "base/file.h"

#include <fcntl.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <atomic>
#include <cerrno>
#include <cstring>
#include <system_error>
#include <thread>

namespace fathom {
namespace {

constexpr size_t kPieceBytesMax = size_t{8} << 20;

Code code_of(int error) {
  switch (error) {
    case ENOENT:
    case ENOTDIR: return Code::kNotFound;
    case EACCES:
    case EPERM: return Code::kPermissionDenied;
    case EMFILE:
    case ENFILE:
    case ENOMEM:
    case ENOSPC: return Code::kResourceExhausted;
    default: return Code::kInternal;
  }
}

// The size of a regular file; anything else is refused.
Result<uint64_t> regular_size(const UniqueFd& fd, const std::string& path) {
  struct stat info {};
  if (fstat(fd.get(), &info) != 0) return file_error("stat", path, errno);
  if (!S_ISREG(info.st_mode)) return invalid_argument(path + " is not a regular file").about(path);
  return static_cast<uint64_t>(info.st_size);
}

Status read_exactly(int fd, const std::string& path, FileSlice slice) {
  while (!slice.to.empty()) {
    ssize_t n = pread(fd, slice.to.data(), slice.to.size(), static_cast<off_t>(slice.offset));
    if (n < 0 && errno == EINTR) continue;
    if (n < 0) return file_error("read", path, errno);
    if (n == 0)
      return data_loss(path + " ends at byte " + std::to_string(slice.offset)).about(path);
    slice.offset += static_cast<uint64_t>(n);
    slice.to = slice.to.subspan(static_cast<size_t>(n));
  }
  return Status::ok();
}

Status write_all(int fd, const std::string& path, std::string_view content) {
  while (!content.empty()) {
    ssize_t n = write(fd, content.data(), content.size());
    if (n < 0 && errno == EINTR) continue;
    if (n < 0) return file_error("write", path, errno);
    content.remove_prefix(static_cast<size_t>(n));
  }
  if (fsync(fd) != 0) return file_error("fsync", path, errno);
  return Status::ok();
}

std::vector<FileSlice> cut_in_pieces(std::span<const FileSlice> slices) {
  std::vector<FileSlice> pieces;
  for (const FileSlice& slice : slices) {
    for (size_t at = 0; at < slice.to.size(); at += kPieceBytesMax) {
      size_t bytes = std::min(kPieceBytesMax, slice.to.size() - at);
      pieces.push_back({slice.offset + at, slice.to.subspan(at, bytes)});
    }
  }
  return pieces;
}

}  // namespace

void UniqueFd::reset(int fd) {
  if (fd_ >= 0) ::close(fd_);
  fd_ = fd;
}

Status file_error(const std::string& what, const std::string& path, int error) {
  return Status(code_of(error), what + " " + path + ": " + std::generic_category().message(error))
      .about(path);
}

Result<UniqueFd> open_for_read(const std::string& path) {
  UniqueFd fd(
      ::open(path.c_str(), O_RDONLY | O_CLOEXEC | O_NONBLOCK));  // a pipe must not block the open
  if (!fd) return file_error("open", path, errno);
  return fd;
}

Result<std::string> read_file(const std::string& path, size_t bytes_max) {
  FATHOM_ASSIGN(UniqueFd fd, open_for_read(path));
  FATHOM_ASSIGN(uint64_t size, regular_size(fd, path));
  if (size > bytes_max) {
    return invalid_argument(path + " has " + std::to_string(size) + " bytes; at most " +
                            std::to_string(bytes_max) + " are read")
        .about(path);
  }
  std::string content(size, '\0');
  FATHOM_RETURN_IF_ERROR(
      read_exactly(fd.get(), path, {0, std::as_writable_bytes(std::span(content))}));
  return content;
}

Status write_file(const std::string& path, std::string_view content) {
  std::string beside = path + ".tmp" + std::to_string(getpid());
  UniqueFd fd(::open(beside.c_str(), O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0644));
  if (!fd) return file_error("create", beside, errno);
  Status written = write_all(fd.get(), beside, content);
  if (written.is_ok() && rename(beside.c_str(), path.c_str()) != 0)
    written = file_error("rename", path, errno);
  if (!written.is_ok()) unlink(beside.c_str());
  return written;
}

Result<MappedFile> MappedFile::open(const std::string& path) {
  FATHOM_ASSIGN(UniqueFd fd, open_for_read(path));
  FATHOM_ASSIGN(uint64_t size, regular_size(fd, path));
  if (size == 0) return MappedFile({});
  void* at = mmap(nullptr, size, PROT_READ, MAP_PRIVATE, fd.get(), 0);
  if (at == MAP_FAILED) return file_error("mmap", path, errno);
  return MappedFile({static_cast<const std::byte*>(at), static_cast<size_t>(size)});
}

MappedFile::~MappedFile() {
  if (!bytes_.empty()) munmap(const_cast<std::byte*>(bytes_.data()), bytes_.size());
}

Status read_slices(const std::string& path, std::span<const FileSlice> slices,
                   unsigned thread_count) {
  FATHOM_ASSIGN(UniqueFd fd, open_for_read(path));
  FATHOM_ASSIGN(uint64_t size, regular_size(fd, path));
  for (const FileSlice& slice : slices) {
    if (slice.offset > size || slice.to.size() > size - slice.offset) {
      return data_loss(path + " has " + std::to_string(size) + " bytes; " +
                       std::to_string(slice.to.size()) + " were wanted from byte " +
                       std::to_string(slice.offset))
          .about(path);
    }
  }
  const std::vector<FileSlice> pieces = cut_in_pieces(slices);
  const size_t workers = std::clamp<size_t>(thread_count, 1, std::max<size_t>(pieces.size(), 1));
  std::atomic<size_t> next{0};
  std::vector<Status> outcomes(workers);
  auto work = [&](size_t worker) {
    for (size_t i = next++; i < pieces.size() && outcomes[worker].is_ok(); i = next++) {
      outcomes[worker] = read_exactly(fd.get(), path, pieces[i]);
    }
  };
  {
    std::vector<std::jthread> others;
    for (size_t worker = 1; worker < workers; ++worker) others.emplace_back(work, worker);
    work(0);
  }
  for (Status& outcome : outcomes) FATHOM_RETURN_IF_ERROR(std::move(outcome));
  return Status::ok();
}

}  // namespace fathom
