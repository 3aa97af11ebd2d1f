// A synchronous HTTP/1.1 client on one kept-alive connection. One object a thread.
#pragma once

#include <memory>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include "ctl/response_reader.h"
#include "ctl/transport.h"
#include "ctl/url.h"
#include "fathom/status.h"

namespace fathom::ctl {

struct ClientConfig {
  Url url;
  std::shared_ptr<const TlsClient> tls;  // for https
  std::string api_key;                   // sent as a bearer token; empty: none
  WaitBounds bounds;
};

struct HttpCall {
  std::string method = "GET";
  std::string path = "/";
  std::string body;  // JSON when it is not empty
};

struct HttpResponse {
  HttpHead head;
  std::string body;
};

class HttpClient {
 public:
  explicit HttpClient(ClientConfig config) : config_(std::move(config)) {}

  // Sends the call and hands the response's body to `on_body` piece by piece, whatever its status;
  // the head is complete by then. A connection that the server closed while it was idle is opened
  // again once.
  Result<HttpHead> stream(const HttpCall& call,
                          const std::function<bool(const HttpHead&, std::string_view)>& on_body);
  // The whole response; kOutOfRange beyond 64 MiB.
  Result<HttpResponse> fetch(const HttpCall& call);

  const ClientConfig& config() const { return config_; }

 private:
  std::string render(const HttpCall& call) const;
  // `stale` is set when a reused connection broke before the first byte of an answer.
  Result<HttpHead> attempt(const std::string& request,
                           const std::function<bool(const HttpHead&, std::string_view)>& on_body,
                           bool& stale);

  ClientConfig config_;
  std::unique_ptr<Transport> connection_;
};

// Ok for 2xx; else the Status that the error object and the HTTP status stand for. `reason` is the
// object's code.
Status status_of(const HttpHead& head, std::string_view body);

}  // namespace fathom::ctl
