// Who may call a handler: the one rule that HTTP routes and gRPC methods share. Pure functions over
// values; each route carries its Access, each listener its AuthConfig. Roles will narrow
// `authorize` per identity.
#pragma once

#include <memory>
#include <string_view>

#include "auth/api_keys.h"
#include "auth/identity.h"
#include "fathom/status.h"

namespace fathom::auth {

enum class Access {
  kPublic,   // anyone who can connect: health
  kData,     // inference, on the data listeners
  kAdmin,    // operations, on the admin listener alone
  kMetrics,  // /metrics, on the metrics and admin listeners
};

enum class ListenerRole { kData, kAdmin, kMetrics };

// What a listener asks of its callers. Immutable after start; shared by its connections.
struct AuthConfig {
  ListenerRole role = ListenerRole::kData;
  std::shared_ptr<const ApiKeyStore> api_keys;  // null: no key is asked for
  bool client_certificate_required = false;     // the listener has a client CA
};

// What a caller presented. Views of the request; empty when absent.
struct Credentials {
  std::string_view authorization;     // the value of the authorization header or metadata entry
  std::string_view api_key;           // the value of x-api-key, used when there is no authorization
  bool certificate_verified = false;  // PeerIdentity::verified
  std::string_view certificate_name;  // PeerIdentity::name
};

// Establishes who calls. A key that is malformed or unknown is kUnauthenticated, reason
// "invalid_api_key". On a listener without keys, presented keys are ignored.
Result<Identity> identify(const Credentials& credentials, const AuthConfig& config);

// Whether `identity` may call a handler with `access` on the listener of `config`. Errors carry the
// code (api maps kUnauthenticated to 401, kPermissionDenied to 403) and the reason of the error
// object: "invalid_api_key", "missing_client_certificate", "client_not_allowed".
Status authorize(Access access, const Identity& identity, const AuthConfig& config);

// identify, then authorize. kPublic looks at no credentials.
Result<Identity> check_access(Access access, const Credentials& credentials,
                              const AuthConfig& config);

}  // namespace fathom::auth
