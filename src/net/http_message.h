// The values that cross between the transport and its handlers: a parsed request, a list of
// headers, a whole reply. Plain data without an owner; moved from the connection's io thread to
// wherever the handler wants it.
#pragma once

#include <chrono>
#include <cstdint>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "net/peer_identity.h"

namespace fathom::net {

// Header fields in the order received or to be sent. Names compare without regard to case.
class HeaderList {
 public:
  HeaderList() = default;
  HeaderList(std::initializer_list<std::pair<std::string, std::string>> fields) : fields_(fields) {}

  void add(std::string name, std::string value) {
    fields_.emplace_back(std::move(name), std::move(value));
  }
  // The value of the first field called `name`; empty when there is none.
  std::string_view find(std::string_view name) const;
  bool has(std::string_view name) const;
  size_t count(std::string_view name) const;

  auto begin() const { return fields_.begin(); }
  auto end() const { return fields_.end(); }
  size_t size() const { return fields_.size(); }

 private:
  std::vector<std::pair<std::string, std::string>> fields_;
};

// One request. `path` starts with '/' (or is "*" for OPTIONS) and is not percent-decoded: match it
// as it is.
struct HttpRequest {
  std::string method;  // upper case as sent: "GET", "POST", ...
  std::string path;    // the target up to '?', scheme and host of an absolute-form target removed
  std::string query;   // what follows '?', raw; empty when there is none
  HeaderList headers;
  std::string body;
  PeerIdentity peer;           // the verified client certificate's names; empty on plaintext
  std::string remote_address;  // "192.0.2.7:41234", "[2001:db8::1]:41234"
  uint64_t connection_id = 0;  // counts up from 1 in one server
  bool tls = false;
  std::chrono::steady_clock::time_point received_at;  // when its first byte was read
};

// A whole answer, for refusals that are made before a ResponseWriter exists.
struct HttpReply {
  int status = 500;
  HeaderList headers;
  std::string body;
};

bool equals_ignoring_case(std::string_view a, std::string_view b);

// The usual phrase of a status ("Not Found"); "Unknown" for one that has none.
std::string_view reason_phrase(int status);

}  // namespace fathom::net
