// A client made of raw sockets: sends exactly the bytes a test names, reads with a deadline, and
// parses responses as strictly as a proxy would. Blocking; one thread.
#pragma once

#include <cstdint>
#include <map>
#include <optional>
#include <string>
#include <string_view>

namespace fathom::net {

struct RawResponse {
  int status = 0;
  std::map<std::string, std::string> headers;  // names in lower case
  std::string body;                            // chunks joined
  int chunks = 0;
};

class RawClient {
 public:
  explicit RawClient(uint16_t port, int receive_buffer_bytes = 0);
  ~RawClient();
  RawClient(const RawClient&) = delete;
  RawClient& operator=(const RawClient&) = delete;

  bool connected() const { return descriptor_ >= 0; }
  int descriptor() const { return descriptor_; }
  bool send(std::string_view bytes);  // all of them
  // Sends what the socket takes without waiting; how many bytes it was.
  size_t send_some(std::string_view bytes);

  // Reads until `text` has come (true), or the end, an error, or the deadline (false).
  bool read_until(std::string_view text, int timeout_ms = 5000);
  // Reads one response and removes it from what was read. A body without length or chunks ends with
  // the connection.
  std::optional<RawResponse> read_response(int timeout_ms = 5000, bool head_only = false);
  // True if the server ends or resets the connection before the deadline; what comes before is kept
  // in buffer().
  bool read_to_end(int timeout_ms = 5000);
  bool was_reset() const { return reset_; }

  void shutdown_write();
  void reset();  // closes with RST
  void close();

  const std::string& buffer() const { return buffer_; }

 private:
  // False at the end, on an error, or when nothing came before the deadline.
  bool read_more(int64_t deadline_ms);
  std::optional<std::string> read_chunks(RawResponse& response, size_t& at, int64_t deadline_ms);

  int descriptor_ = -1;
  bool ended_ = false;
  bool reset_ = false;
  std::string buffer_;
};

int64_t test_now_ms();

}  // namespace fathom::net
