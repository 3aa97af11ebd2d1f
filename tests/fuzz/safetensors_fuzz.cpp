// A checkpoint's header: what is accepted lies within the file and does not overlap.
#include <string>

#include "fathom/check.h"
#include "weights/safetensors.h"

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  const std::span<const std::byte> bytes(reinterpret_cast<const std::byte*>(data), size);
  auto parsed = fathom::parse_safetensors_header(bytes, size, "input.safetensors");
  if (!parsed.is_ok()) return 0;
  uint64_t end = 0;
  for (const fathom::TensorEntry& tensor : parsed.value().tensors) {
    FATHOM_CHECK(tensor.begin == end, "a hole or an overlap");
    end = tensor.end;
  }
  FATHOM_CHECK(parsed.value().data_offset + end == size, "not the whole file");
  return 0;
}
