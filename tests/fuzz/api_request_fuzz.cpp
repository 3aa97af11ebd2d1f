// Bodies of the inference routes: a call within the limits, or a Status that says what is wrong.
#include <string_view>

#include "api/parse_call.h"
#include "fathom/check.h"

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  using namespace fathom;
  const std::string_view body(reinterpret_cast<const char*>(data), size);
  const api::ApiLimits limits;
  Result<Json> parsed = api::parse_body(body, limits);
  if (!parsed.is_ok()) return 0;
  auto chat = api::parse_chat_call(parsed.value(), limits, {});
  FATHOM_CHECK(chat.is_ok() || !chat.status().message().empty(), "an error without a sentence");
  auto completion = api::parse_completion_call(parsed.value(), limits, {});
  FATHOM_CHECK(completion.is_ok() || !completion.status().message().empty(),
               "an error without a sentence");
  return 0;
}
