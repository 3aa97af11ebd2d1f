// Files: read whole under a bound, mapped read-only, or read in parallel slices. Errors name the
// path.
#pragma once

#include <cstddef>
#include <cstdint>
#include <span>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "fathom/status.h"

namespace fathom {

// Owns a file descriptor.
class UniqueFd {
 public:
  UniqueFd() = default;
  explicit UniqueFd(int fd) : fd_(fd) {}
  UniqueFd(UniqueFd&& other) noexcept : fd_(std::exchange(other.fd_, -1)) {}
  UniqueFd& operator=(UniqueFd&& other) noexcept {
    if (this != &other) reset(std::exchange(other.fd_, -1));
    return *this;
  }
  ~UniqueFd() { reset(); }

  int get() const { return fd_; }
  explicit operator bool() const { return fd_ >= 0; }
  int release() { return std::exchange(fd_, -1); }
  void reset(int fd = -1);

 private:
  int fd_ = -1;
};

// "open /x/y: No such file or directory [/x/y]", with the code that fits `error` (an errno).
Status file_error(const std::string& what, const std::string& path, int error);

// Opens for reading, closed on exec.
Result<UniqueFd> open_for_read(const std::string& path);

// The whole content; INVALID_ARGUMENT when it is larger than `bytes_max`. Pipes and devices are
// refused.
Result<std::string> read_file(const std::string& path, size_t bytes_max);

// Writes beside `path` and renames over it, so that a reader sees the old content or the new, never
// a part.
Status write_file(const std::string& path, std::string_view content);

// A read-only view of a regular file, valid for the life of the object; an empty file is an empty
// view. A file that shrinks while mapped ends the process (SIGBUS): map what an operator owns, not
// uploads.
class MappedFile {
 public:
  static Result<MappedFile> open(const std::string& path);

  MappedFile(MappedFile&& other) noexcept : bytes_(std::exchange(other.bytes_, {})) {}
  MappedFile& operator=(MappedFile&& other) noexcept {
    std::swap(bytes_, other.bytes_);
    return *this;
  }
  ~MappedFile();

  std::span<const std::byte> bytes() const { return bytes_; }

 private:
  explicit MappedFile(std::span<const std::byte> bytes) : bytes_(bytes) {}
  std::span<const std::byte> bytes_;
};

// One stretch of a file and where its bytes go.
struct FileSlice {
  uint64_t offset = 0;
  std::span<std::byte> to;
};

// Fills every slice from `path` with `thread_count` threads (the caller is one of them), in pieces
// of at most 8 MiB. DATA_LOSS when the file ends before a slice does. The slices must not overlap
// in memory.
Status read_slices(const std::string& path, std::span<const FileSlice> slices,
                   unsigned thread_count);

}  // namespace fathom
