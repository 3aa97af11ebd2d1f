// Who the other end of a TLS connection proved to be. Also the rule that turns the names of a
// certificate into one identity, shared with the gRPC front end, which gets the names from gRPC's
// auth context.
#pragma once

#include <span>
#include <string>
#include <string_view>

struct x509_st;  // OpenSSL's X509

namespace fathom::net {

struct PeerIdentity {
  bool verified = false;  // a client certificate was presented and chains to the client CA
  std::string name;  // its SAN: the first URI, else the first DNS name; empty when it has neither
};

// The identity that a set of subject alternative names stands for: the first usable URI, else the
// first usable DNS name, else "". A name with control characters, spaces or bytes above 0x7e is
// never usable. Never the CN.
std::string identity_from_san(std::span<const std::string> uris,
                              std::span<const std::string> dns_names);

// Reads the SAN entries of `certificate` (not null) and applies identity_from_san.
std::string identity_from_certificate(const x509_st* certificate);

}  // namespace fathom::net
