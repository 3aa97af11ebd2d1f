// The file of API keys: any bytes give a store or a Status.
#include <string_view>

#include "auth/api_keys.h"

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  const std::string_view text(reinterpret_cast<const char*>(data), size);
  (void)fathom::auth::ApiKeyStore::parse(text, "keys");
  return 0;
}
