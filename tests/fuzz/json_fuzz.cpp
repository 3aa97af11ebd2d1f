// JSON from clients and checkpoints: any bytes give a value within the bounds or a Status.
#include <string_view>

#include "base/json.h"

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  const std::string_view text(reinterpret_cast<const char*>(data), size);
  fathom::Result<fathom::Json> parsed = fathom::parse_json(text, {.depth_max = 32});
  // What was accepted can be written again: it holds no broken UTF-8.
  if (parsed.is_ok()) (void)parsed.value().dump();
  return 0;
}
