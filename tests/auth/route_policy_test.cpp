// Who may call what: every access class against every kind of caller.
#include "auth/route_policy.h"

#include <gtest/gtest.h>

namespace fathom::auth {
namespace {

std::shared_ptr<const ApiKeyStore> store_with(std::string_view name, std::string_view key) {
  auto store = ApiKeyStore::parse(make_api_key_line(name, key).value(), "keys");
  return std::make_shared<const ApiKeyStore>(std::move(store).value());
}

Credentials bearer(std::string_view header) {
  Credentials credentials;
  credentials.authorization = header;
  return credentials;
}

Credentials certificate(std::string_view name) {
  Credentials credentials;
  credentials.certificate_verified = true;
  credentials.certificate_name = name;
  return credentials;
}

TEST(RoutePolicy, OpenListenerTakesAnyone) {
  const AuthConfig config;
  const auto identity = check_access(Access::kData, {}, config);
  ASSERT_TRUE(identity.is_ok());
  EXPECT_EQ(identity->kind, IdentityKind::kAnonymous);
  // A key that nobody asked for is not looked at.
  EXPECT_TRUE(check_access(Access::kData, bearer("Bearer whatever"), config).is_ok());
}

TEST(RoutePolicy, KeysAreAskedForWhenThereAreKeys) {
  const AuthConfig config{ListenerRole::kData, store_with("alice", "k1"), false};
  const auto identity = check_access(Access::kData, bearer("Bearer k1"), config);
  ASSERT_TRUE(identity.is_ok());
  EXPECT_EQ(identity->kind, IdentityKind::kApiKey);
  EXPECT_EQ(identity->name, "alice");
  for (const std::string_view header : {"", "Bearer k2", "Basic k1", "k1"}) {
    const auto refused = check_access(Access::kData, bearer(header), config);
    ASSERT_FALSE(refused.is_ok()) << header;
    EXPECT_EQ(refused.status().code(), Code::kUnauthenticated);
    EXPECT_EQ(refused.status().reason(), "invalid_api_key");
  }
  Credentials other_header;
  other_header.api_key = "k1";
  EXPECT_TRUE(check_access(Access::kData, other_header, config).is_ok());
  other_header.authorization = "Bearer k2";  // the Authorization header decides when it is there
  EXPECT_FALSE(check_access(Access::kData, other_header, config).is_ok());
}

TEST(RoutePolicy, HealthIsPublicWhateverIsPresented) {
  const AuthConfig config{ListenerRole::kData, store_with("alice", "k1"), true};
  EXPECT_TRUE(check_access(Access::kPublic, {}, config).is_ok());
  EXPECT_TRUE(check_access(Access::kPublic, bearer("Bearer wrong"), config).is_ok());
}

TEST(RoutePolicy, CertificatesAreAskedForWhenThereIsAClientCa) {
  const AuthConfig config{ListenerRole::kData, nullptr, true};
  const auto identity = check_access(Access::kData, certificate("spiffe://a/b"), config);
  ASSERT_TRUE(identity.is_ok());
  EXPECT_EQ(identity->kind, IdentityKind::kCertificate);
  EXPECT_EQ(identity->name, "spiffe://a/b");
  for (const auto& credentials : {Credentials{}, certificate("")}) {
    const auto refused = check_access(Access::kData, credentials, config);
    ASSERT_FALSE(refused.is_ok());
    EXPECT_EQ(refused.status().code(), Code::kUnauthenticated);
    EXPECT_EQ(refused.status().reason(), "missing_client_certificate");
  }
  // A name without a verified certificate is worth nothing.
  Credentials unverified = certificate("spiffe://a/b");
  unverified.certificate_verified = false;
  EXPECT_FALSE(check_access(Access::kData, unverified, config).is_ok());
}

TEST(RoutePolicy, BothAreNeededWhenBothAreConfigured) {
  const AuthConfig config{ListenerRole::kData, store_with("alice", "k1"), true};
  Credentials credentials = certificate("client.example");
  EXPECT_EQ(check_access(Access::kData, credentials, config).status().reason(), "invalid_api_key");
  EXPECT_EQ(check_access(Access::kData, bearer("Bearer k1"), config).status().reason(),
            "missing_client_certificate");
  credentials.authorization = "Bearer k1";
  const auto identity = check_access(Access::kData, credentials, config);
  ASSERT_TRUE(identity.is_ok());
  EXPECT_EQ(identity->kind, IdentityKind::kApiKey);
  EXPECT_EQ(identity->name, "alice");
  EXPECT_EQ(identity->certificate, "client.example");
}

TEST(RoutePolicy, AHandlerIsServedOnItsOwnListenersOnly) {
  struct Case {
    Access access;
    ListenerRole role;
    bool allowed;
  };
  const Case cases[] = {
      {Access::kPublic, ListenerRole::kData, true},
      {Access::kPublic, ListenerRole::kAdmin, true},
      {Access::kPublic, ListenerRole::kMetrics, true},
      {Access::kData, ListenerRole::kData, true},
      {Access::kData, ListenerRole::kAdmin, false},
      {Access::kData, ListenerRole::kMetrics, false},
      {Access::kAdmin, ListenerRole::kData, false},
      {Access::kAdmin, ListenerRole::kAdmin, true},
      {Access::kAdmin, ListenerRole::kMetrics, false},
      {Access::kMetrics, ListenerRole::kData, false},
      {Access::kMetrics, ListenerRole::kAdmin, true},
      {Access::kMetrics, ListenerRole::kMetrics, true},
  };
  for (const auto& c : cases) {
    const Status status = authorize(c.access, {}, AuthConfig{c.role, nullptr, false});
    EXPECT_EQ(status.is_ok(), c.allowed) << static_cast<int>(c.access) << static_cast<int>(c.role);
    if (!c.allowed) {
      EXPECT_EQ(status.code(), Code::kPermissionDenied);
      EXPECT_EQ(status.reason(), "client_not_allowed");
    }
  }
}

}  // namespace
}  // namespace fathom::auth
