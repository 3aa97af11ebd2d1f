// The client over TLS, with Fathom's own listener on the other side.
#include <gtest/gtest.h>

#include "ctl/http_client.h"
#include "run_command.h"
#include "tests/net/test_pki.h"
#include "tests/net/test_server.h"

namespace fathom::ctl {
namespace {

// A server with a certificate for localhost that asks for clients of the same authority.
struct TlsWorld {
  net::TestPki pki;
  net::TestCertificate ca = pki.authority("ca");
  net::TestCertificate other_ca = pki.authority("other");
  net::TestCertificate server_cert =
      pki.leaf(ca, "server", {.san = "DNS:localhost,IP:127.0.0.1", .usage = "serverAuth"});
  net::TestCertificate client_cert = pki.leaf(ca, "client", {.san = "DNS:me"});
  std::unique_ptr<net::TestServer> server;

  explicit TlsWorld(bool mutual) {
    net::TlsFiles files{server_cert.cert_file, server_cert.key_file,
                        mutual ? ca.cert_file : std::string()};
    auto context = net::TlsContext::load(files);
    EXPECT_TRUE(context.is_ok()) << context.status().to_string();
    server = std::make_unique<net::TestServer>(net::HttpLimits{},
                                               std::make_shared<net::TlsContextSlot>(*context));
  }
  Result<HttpResponse> fetch(const TlsFiles& files, const std::string& host = "localhost") const {
    FATHOM_ASSIGN(auto tls, TlsClient::make(files));
    ClientConfig config;
    config.url = parse_url("https://" + host + ":" + std::to_string(server->port())).value();
    config.tls = tls;
    return HttpClient(config).fetch({"POST", "/echo", "hello"});
  }
};

TEST(TlsClient, VerifiesTheServer) {
  const TlsWorld world(false);
  for (const char* host : {"localhost", "127.0.0.1"}) {
    const auto response = world.fetch({.ca_file = world.ca.cert_file}, host);
    ASSERT_TRUE(response.is_ok()) << response.status().to_string();
    EXPECT_EQ(response->body, "hello");
  }
  const Status foreign = world.fetch({.ca_file = world.other_ca.cert_file}).status();
  EXPECT_EQ(foreign.code(), Code::kUnavailable);
  EXPECT_NE(foreign.message().find("certificate was not accepted"), std::string::npos)
      << foreign.message();
  EXPECT_FALSE(world.fetch({}).is_ok());
  EXPECT_TRUE(world.fetch({.insecure = true}).is_ok());
}

TEST(TlsClient, PresentsItsCertificate) {
  const TlsWorld world(true);
  EXPECT_TRUE(world
                  .fetch({.ca_file = world.ca.cert_file,
                          .cert_file = world.client_cert.cert_file,
                          .key_file = world.client_cert.key_file})
                  .is_ok());
  EXPECT_FALSE(world.fetch({.ca_file = world.ca.cert_file}).is_ok());
}

TEST(TlsClient, NamesTheFileThatDoesNotLoad) {
  const TlsWorld world(false);
  EXPECT_EQ(TlsClient::make({.ca_file = "/nonexistent/ca.pem"}).status().subject(), "tls-ca");
  EXPECT_EQ(TlsClient::make({.cert_file = "/nonexistent/c", .key_file = "/nonexistent/k"})
                .status()
                .subject(),
            "tls-cert");
  EXPECT_EQ(TlsClient::make({.cert_file = world.client_cert.cert_file}).status().subject(),
            "tls-cert");
  EXPECT_EQ(TlsClient::make(
                {.cert_file = world.client_cert.cert_file, .key_file = world.server_cert.key_file})
                .status()
                .subject(),
            "tls-key");
  const auto ran = testing::run_command(
      {"chat", "hi", "--url", "https://127.0.0.1:1", "--tls-ca", "/nonexistent/ca.pem"});
  EXPECT_EQ(ran.code, 78);
}

TEST(TlsClient, APlainServerIsNoTlsServer) {
  const net::TestServer plain;
  const auto tls = TlsClient::make({.insecure = true}).value();
  ClientConfig config;
  config.url = parse_url("https://127.0.0.1:" + std::to_string(plain.port())).value();
  config.tls = tls;
  config.bounds.connect = std::chrono::milliseconds(6000);
  const auto response = HttpClient(config).fetch({"GET", "/hello", ""});
  EXPECT_FALSE(response.is_ok());
}

}  // namespace
}  // namespace fathom::ctl
