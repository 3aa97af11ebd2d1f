// See route_policy.h.
#include "auth/route_policy.h"

#include <string>

namespace fathom::auth {

namespace {

Status unauthenticated(std::string message, std::string reason) {
  return Status(Code::kUnauthenticated, std::move(message)).because(std::move(reason));
}

// Which listeners serve a handler at all, whoever asks.
bool served_on(Access access, ListenerRole role) {
  switch (access) {
    case Access::kPublic: return true;
    case Access::kData: return role == ListenerRole::kData;
    case Access::kAdmin: return role == ListenerRole::kAdmin;
    case Access::kMetrics: return role == ListenerRole::kMetrics || role == ListenerRole::kAdmin;
  }
  return false;
}

Result<std::string> key_owner(const Credentials& credentials, const ApiKeyStore& keys) {
  std::optional<std::string_view> key;
  if (!credentials.authorization.empty()) {
    key = parse_bearer(credentials.authorization);
    if (!key) {
      return unauthenticated("The Authorization header must have the form 'Bearer <API key>'.",
                             "invalid_api_key");
    }
  } else if (!credentials.api_key.empty()) {
    key = credentials.api_key;
  }
  if (!key) return std::string();
  auto owner = keys.find(*key);
  if (!owner) return unauthenticated("The API key is not valid here.", "invalid_api_key");
  return *std::move(owner);
}

}  // namespace

Result<Identity> identify(const Credentials& credentials, const AuthConfig& config) {
  Identity identity;
  if (credentials.certificate_verified && !credentials.certificate_name.empty()) {
    identity.kind = IdentityKind::kCertificate;
    identity.name = credentials.certificate_name;
    identity.certificate = credentials.certificate_name;
  }
  if (config.api_keys) {
    FATHOM_ASSIGN(std::string owner, key_owner(credentials, *config.api_keys));
    if (!owner.empty()) {
      identity.kind = IdentityKind::kApiKey;
      identity.name = std::move(owner);
    }
  }
  return identity;
}

Status authorize(Access access, const Identity& identity, const AuthConfig& config) {
  if (!served_on(access, config.role)) {
    return Status(Code::kPermissionDenied, "This call is not served on this listener.")
        .because("client_not_allowed");
  }
  if (access == Access::kPublic) return Status::ok();
  if (config.client_certificate_required && identity.certificate.empty()) {
    return unauthenticated(
        "A client certificate with a URI or DNS name in its subject alternative name is required.",
        "missing_client_certificate");
  }
  if (config.api_keys && identity.kind != IdentityKind::kApiKey) {
    return unauthenticated("An API key is required: send it as 'Authorization: Bearer <API key>'.",
                           "invalid_api_key");
  }
  return Status::ok();
}

Result<Identity> check_access(Access access, const Credentials& credentials,
                              const AuthConfig& config) {
  if (access == Access::kPublic) return Identity{};
  FATHOM_ASSIGN(Identity identity, identify(credentials, config));
  FATHOM_RETURN_IF_ERROR(authorize(access, identity, config));
  return identity;
}

}  // namespace fathom::auth
