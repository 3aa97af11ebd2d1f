// JSON bodies of the inference routes to calls. Pure functions; every field's type and range is
// checked, and an error names the field.
#pragma once

#include <string>
#include <string_view>
#include <vector>

#include "api/calls.h"
#include "api/limits.h"
#include "api/served_model.h"
#include "base/json.h"
#include "fathom/status.h"

namespace fathom::api {

// The body as a JSON object within the limits.
Result<Json> parse_body(std::string_view body, const ApiLimits& limits);

Result<ChatCall> parse_chat_call(const Json& body, const ApiLimits& limits,
                                 const SamplingDefaults& defaults);
Result<CompletionCall> parse_completion_call(const Json& body, const ApiLimits& limits,
                                             const SamplingDefaults& defaults);

// `messages` of a chat body.
Result<std::vector<text::ChatMessage>> parse_messages(const Json& messages,
                                                      const ApiLimits& limits);

// Token ids of `value` (an array of integers) below `vocab`; `name` is for errors.
Result<std::vector<TokenId>> parse_token_ids(const Json& value, const std::string& name);

}  // namespace fathom::api
