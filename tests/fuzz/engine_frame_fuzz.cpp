// Whole frames of the engine protocol: refused, or written again as a frame that decodes.
#include <cstdint>
#include <cstdlib>
#include <string>

#include "engine/protocol.h"

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  const std::span<const std::byte> bytes(reinterpret_cast<const std::byte*>(data), size);
  const auto frame = fathom::decode_frame(bytes);
  if (!frame.is_ok()) return 0;
  std::string again;
  fathom::encode_frame(*frame, again);
  const auto twice = fathom::decode_frame(std::as_bytes(std::span(again.data(), again.size())));
  if (!twice.is_ok() || twice->index() != frame->index()) std::abort();
  return 0;
}
