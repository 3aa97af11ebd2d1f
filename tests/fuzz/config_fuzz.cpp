// The configuration file: any bytes give settings or a Status.
#include <string>

#include "config/sources.h"

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  const std::string text(reinterpret_cast<const char*>(data), size);
  (void)fathom::read_config_text(text, "input.yaml");
  return 0;
}
