// See identity.h.
#include "auth/identity.h"

namespace fathom::auth {

std::string_view identity_kind_name(IdentityKind kind) {
  switch (kind) {
    case IdentityKind::kAnonymous: return "anonymous";
    case IdentityKind::kCertificate: return "certificate";
    case IdentityKind::kApiKey: return "api_key";
  }
  return "unknown";
}

}  // namespace fathom::auth
