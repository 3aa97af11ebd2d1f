// One generation over the API: the request's body, and the streamed answer as it comes. Shared by
// chat, complete and bench. Used by one thread.
#pragma once

#include <cstdint>
#include <functional>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "ctl/http_client.h"
#include "fathom/status.h"

namespace fathom::ctl {

struct ChatTurn {
  std::string role;
  std::string content;
};

// Sampling settings that were given; the server's defaults hold for the rest.
struct SamplingFlags {
  std::optional<double> temperature;
  std::optional<double> top_p;
  std::optional<int64_t> top_k;
  std::optional<int64_t> max_tokens;
  std::optional<int64_t> seed;
  std::vector<std::string> stop;
  bool ignore_eos = false;
};

std::string chat_body(const std::string& model, const std::vector<ChatTurn>& turns,
                      const SamplingFlags& sampling, std::optional<bool> thinking);
std::string completion_body(const std::string& model, const std::string& prompt,
                            const SamplingFlags& sampling);
std::string completion_body(const std::string& model, const std::vector<int32_t>& prompt,
                            const SamplingFlags& sampling);

// What one event brought. Either text may be empty.
struct Delta {
  std::string_view reasoning;
  std::string_view content;
};

struct Generated {
  std::string reasoning;
  std::string content;
  std::string finish_reason;
  int64_t prompt_tokens = 0;
  int64_t cached_tokens = 0;
  int64_t completion_tokens = 0;  // of usage; 0 when the server sent none
  int64_t events = 0;             // that brought text
};

// Runs the call with "stream": true and hands on every event with text; false from `on_delta` ends
// the stream (the server sees the client leave). kDataLoss when the stream ends without [DONE].
Result<Generated> generate(HttpClient& client, const std::string& path, const std::string& body,
                           const std::function<bool(const Delta&)>& on_delta);

// The id of the first model that the server lists.
Result<std::string> first_model(HttpClient& client);

}  // namespace fathom::ctl
