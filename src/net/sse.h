// Server-sent events as the OpenAI-style API writes them: every event is one `data:` line and a
// blank line. Pure functions that append to a caller's buffer, so that a stream reuses one string
// for all its events.
#pragma once

#include <string>
#include <string_view>

namespace fathom::net {

inline constexpr std::string_view kSseContentType = "text/event-stream; charset=utf-8";
inline constexpr std::string_view kSseDone = "data: [DONE]\n\n";
inline constexpr std::string_view kSseKeepAlive = ": keep-alive\n\n";

// Appends `data: <json>\n\n`. `json` holds no raw line break (a JSON writer escapes them); one that
// does is written as a space, so that an event can never be split. U+2028, U+2029 and U+0085 are
// escaped.
void append_sse_event(std::string& out, std::string_view json);

// Appends `json` with U+2028, U+2029 and U+0085 written as \u escapes. Some clients split lines at
// them. They can only occur inside JSON strings, where the escape means the same.
void append_line_safe_json(std::string& out, std::string_view json);

// True when `json` holds one of those three characters.
bool has_unicode_line_break(std::string_view json);

}  // namespace fathom::net
