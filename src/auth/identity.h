// Who a request comes from, as established by TLS and by its API key. A value; it travels with the
// request.
#pragma once

#include <string>
#include <string_view>

namespace fathom::auth {

enum class IdentityKind { kAnonymous, kCertificate, kApiKey };

struct Identity {
  IdentityKind kind = IdentityKind::kAnonymous;
  std::string name;         // of the key, else of the certificate; empty for kAnonymous
  std::string certificate;  // the certificate's SAN when one was verified, whatever the kind
};

std::string_view identity_kind_name(IdentityKind kind);  // "anonymous", "certificate", "api_key"

}  // namespace fathom::auth
