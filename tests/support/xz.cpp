// liblzma's buffer decoder, with the output grown as needed.
#include "tests/support/xz.h"

#include <lzma.h>

#include "base/file.h"

namespace fathom::testing {
namespace {

constexpr size_t kMaxBytes = size_t{1} << 30;
constexpr size_t kChunk = size_t{1} << 22;

}  // namespace

Result<std::string> read_xz(const std::string& path) {
  FATHOM_ASSIGN(const std::string packed, read_file(path, kMaxBytes));
  lzma_stream stream = LZMA_STREAM_INIT;
  if (lzma_stream_decoder(&stream, kMaxBytes, 0) != LZMA_OK)
    return internal_error("lzma: no decoder");
  stream.next_in = reinterpret_cast<const uint8_t*>(packed.data());
  stream.avail_in = packed.size();
  std::string text;
  lzma_ret result = LZMA_OK;
  while (result == LZMA_OK && text.size() < kMaxBytes) {
    const size_t done = text.size();
    text.resize(done + kChunk);
    stream.next_out = reinterpret_cast<uint8_t*>(text.data() + done);
    stream.avail_out = kChunk;
    result = lzma_code(&stream, LZMA_FINISH);
    text.resize(text.size() - stream.avail_out);
  }
  lzma_end(&stream);
  if (result != LZMA_STREAM_END) return data_loss(path + " is not a whole .xz file");
  return text;
}

}  // namespace fathom::testing
