// Subject alternative names to one identity; see peer_identity.h.
#include "net/peer_identity.h"

#include <openssl/x509v3.h>

#include <algorithm>
#include <memory>
#include <vector>

namespace fathom::net {

namespace {

bool usable(std::string_view name) {
  return !name.empty() &&
         std::all_of(name.begin(), name.end(), [](char c) { return c > 0x20 && c < 0x7f; });
}

struct NamesDeleter {
  void operator()(GENERAL_NAMES* names) const { GENERAL_NAMES_free(names); }
};

// With its length, so that a NUL inside stays visible to usable().
std::string text_of(const ASN1_IA5STRING* string) {
  return {reinterpret_cast<const char*>(ASN1_STRING_get0_data(string)),
          static_cast<size_t>(ASN1_STRING_length(string))};
}

}  // namespace

std::string identity_from_san(std::span<const std::string> uris,
                              std::span<const std::string> dns_names) {
  for (const auto& names : {uris, dns_names}) {
    const auto found = std::find_if(names.begin(), names.end(), usable);
    if (found != names.end()) return *found;
  }
  return {};
}

std::string identity_from_certificate(const x509_st* certificate) {
  std::unique_ptr<GENERAL_NAMES, NamesDeleter> names(static_cast<GENERAL_NAMES*>(
      X509_get_ext_d2i(certificate, NID_subject_alt_name, nullptr, nullptr)));
  if (!names) return {};
  std::vector<std::string> uris;
  std::vector<std::string> dns_names;
  for (int i = 0; i < sk_GENERAL_NAME_num(names.get()); ++i) {
    const GENERAL_NAME* name = sk_GENERAL_NAME_value(names.get(), i);
    if (name->type == GEN_URI) uris.push_back(text_of(name->d.uniformResourceIdentifier));
    if (name->type == GEN_DNS) dns_names.push_back(text_of(name->d.dNSName));
  }
  return identity_from_san(uris, dns_names);
}

}  // namespace fathom::net
