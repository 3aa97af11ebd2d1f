// TLS on the listener: 1.3 only, client certificates, identities, ALPN, hand-over to a new context,
// and the errors of loading one.
#include <gtest/gtest.h>

#include <thread>

#include "net/http_server.h"
#include "test_server.h"
#include "tls_client.h"

namespace fathom::net {
namespace {

const std::string kGet = "GET /hello HTTP/1.1\r\nHost: x\r\n\r\n";
const std::string kHold = "GET /held HTTP/1.1\r\nHost: x\r\n\r\n";

class TlsTest : public testing::Test {
 protected:
  std::shared_ptr<TlsContextSlot> slot(bool with_client_ca) {
    TlsFiles files{server_.cert_file, server_.key_file, with_client_ca ? client_ca_.cert_file : ""};
    auto context = TlsContext::load(files);
    EXPECT_TRUE(context.is_ok()) << context.status().to_string();
    return std::make_shared<TlsContextSlot>(*context);
  }

  // What the handler learns of a client with `certificate`.
  PeerIdentity identity_of(const TestCertificate& certificate) {
    TestServer server({}, slot(true));
    TlsClient client(server.port(), server_ca_, {&certificate});
    EXPECT_TRUE(client.send(kHold));
    auto held = server.handler->take();
    EXPECT_TRUE(held);
    if (!held) return {};
    EXPECT_TRUE(held->request.tls);
    return held->request.peer;
  }

  // No request of a client with `options` is answered, whatever it believes of its handshake.
  void expect_refused(TestServer& server, const TlsClientOptions& options) {
    TlsClient client(server.port(), server_ca_, options);
    client.send(kGet);
    EXPECT_FALSE(client.read_until("hello"));
    EXPECT_EQ(client.buffer(), "");
    EXPECT_EQ(server.handler->seen(), 0u);
  }

  TestPki pki_;
  TestCertificate server_ca_ = pki_.authority("server-ca");
  TestCertificate client_ca_ = pki_.authority("client-ca");
  TestCertificate foreign_ca_ = pki_.authority("foreign-ca");
  TestCertificate server_ = pki_.leaf(server_ca_, "server", {"DNS:localhost", "serverAuth"});
  TestCertificate client_ = pki_.leaf(client_ca_, "client", {"DNS:c.example,URI:spiffe://a/b"});
};

TEST_F(TlsTest, ServesWithoutClientCertificates) {
  TestServer server({}, slot(false));
  TlsClient client(server.port(), server_ca_);
  ASSERT_TRUE(client.handshake_done());
  for (int i = 0; i < 3; ++i) {
    ASSERT_TRUE(client.send(kGet));
    EXPECT_EQ(client.read_body(), "hello");
  }
  client.send(kHold);
  auto held = server.handler->take();
  ASSERT_TRUE(held);
  EXPECT_TRUE(held->request.tls);
  EXPECT_FALSE(held->request.peer.verified);
  EXPECT_EQ(held->request.peer.name, "");
}

TEST_F(TlsTest, Tls12IsRefused) {
  for (const bool with_client_ca : {false, true}) {
    TestServer server({}, slot(with_client_ca));
    TlsClientOptions old{&client_};
    old.version_max = TLS1_2_VERSION;
    TlsClient client(server.port(), server_ca_, old);
    EXPECT_FALSE(client.handshake_done());
    expect_refused(server, old);
    server.server->stop();
    EXPECT_EQ(server.server->stats().handshakes_failed, 2u);
  }
}

TEST_F(TlsTest, TheIdentityIsTheUriElseTheDnsName) {
  const PeerIdentity both = identity_of(client_);
  EXPECT_TRUE(both.verified);
  EXPECT_EQ(both.name, "spiffe://a/b");
  const auto dns =
      pki_.leaf(client_ca_, "dns", {"IP:127.0.0.1,DNS:first.example,DNS:second.example"});
  EXPECT_EQ(identity_of(dns).name, "first.example");
  const auto none = pki_.leaf(client_ca_, "admin", {});
  const PeerIdentity nameless = identity_of(none);
  EXPECT_TRUE(nameless.verified);
  EXPECT_EQ(nameless.name, "") << "the common name is no identity";
}

TEST_F(TlsTest, AMissingOrForeignCertificateGetsNoAnswer) {
  TestServer server({}, slot(true));
  const auto foreign = pki_.leaf(foreign_ca_, "client2", {"URI:spiffe://a/b"});
  const auto same_name = pki_.leaf(pki_.authority("client-ca"), "client3", {"URI:spiffe://a/b"});
  const auto expired =
      pki_.leaf(client_ca_, "expired", {"URI:spiffe://a/b", "clientAuth", -7200, -60});
  const auto early = pki_.leaf(client_ca_, "early", {"URI:spiffe://a/b", "clientAuth", 3600, 7200});
  const auto wrong_use = pki_.leaf(client_ca_, "server2", {"URI:spiffe://a/b", "serverAuth"});
  expect_refused(server, {});
  for (const TestCertificate* certificate : std::vector<const TestCertificate*>{
           &foreign, &same_name, &expired, &early, &wrong_use, &server_}) {
    expect_refused(server, {certificate});
  }
  // In TLS 1.3 the client's handshake ends first: it finds out when it reads.
  EXPECT_TRUE(TlsClient(server.port(), server_ca_).handshake_done());
  TlsClient good(server.port(), server_ca_, {&client_});
  good.send(kGet);
  EXPECT_EQ(good.read_body(), "hello");
}

TEST_F(TlsTest, NoTicketsWhereClientsAreCertified) {
  TestServer certified({}, slot(true));
  TlsClient client(certified.port(), server_ca_, {&client_});
  client.send(kGet);
  EXPECT_EQ(client.read_body(), "hello");
  EXPECT_EQ(client.sessions_received(), 0);
  TestServer open({}, slot(false));
  TlsClient resumable(open.port(), server_ca_);
  resumable.send(kGet);
  EXPECT_EQ(resumable.read_body(), "hello");
  EXPECT_GT(resumable.sessions_received(), 0);
}

TEST_F(TlsTest, AlpnOffersHttp11Only) {
  TestServer server({}, slot(false));
  TlsClient both(server.port(), server_ca_, {nullptr, TLS1_3_VERSION, "\x02h2\x08http/1.1"});
  EXPECT_TRUE(both.handshake_done());
  EXPECT_EQ(both.protocol(), "http/1.1");
  TlsClient h2(server.port(), server_ca_, {nullptr, TLS1_3_VERSION, "\x02h2"});
  EXPECT_FALSE(h2.handshake_done());
}

TEST_F(TlsTest, PlaintextOnTheTlsPortGetsNoAnswer) {
  TestServer server({}, slot(false));
  RawClient client(server.port());
  client.send(kGet);
  EXPECT_TRUE(client.read_to_end());
  EXPECT_EQ(client.buffer().find("HTTP/"), std::string::npos);
  EXPECT_EQ(server.handler->seen(), 0u);
}

TEST_F(TlsTest, AHandshakeHasADeadline) {
  HttpLimits limits;
  limits.tls_handshake_timeout_ms = 200;
  TestServer server(limits, slot(false));
  RawClient silent(server.port());
  RawClient stuck(server.port());
  stuck.send("\x16\x03\x01");
  EXPECT_TRUE(silent.read_to_end(3000));
  EXPECT_TRUE(stuck.read_to_end(3000));
  server.server->stop();
  EXPECT_EQ(server.server->stats().handshakes_failed, 2u);
}

TEST_F(TlsTest, ADrainDoesNotWaitForAHandshake) {
  TestServer server({}, slot(false));
  RawClient silent(server.port());
  const int64_t deadline_ms = test_now_ms() + 5000;
  while (server.server->stats().connections_open < 1 && test_now_ms() < deadline_ms) {
    std::this_thread::sleep_for(std::chrono::milliseconds(1));
  }
  server.server->begin_drain();
  EXPECT_TRUE(server.server->wait_drained(std::chrono::milliseconds(2000)));
  EXPECT_TRUE(silent.read_to_end());
}

TEST_F(TlsTest, LargeBodiesGoBothWays) {
  TestServer server({}, slot(true));
  TlsClient client(server.port(), server_ca_, {&client_});
  std::string body(5'000'000, ' ');
  for (size_t i = 0; i < body.size(); ++i)
    body[i] = static_cast<char>('a' + (i * 31 + i / 977) % 26);
  ASSERT_TRUE(client.send("POST /echo HTTP/1.1\r\nHost: x\r\nContent-Length: " +
                          std::to_string(body.size()) + "\r\n\r\n" + body));
  const auto echoed = client.read_body();
  ASSERT_TRUE(echoed);
  EXPECT_TRUE(*echoed == body);
}

TEST_F(TlsTest, AClientThatLeavesIsNoticed) {
  TestServer server({}, slot(true));
  for (const int way : {0, 1, 2}) {
    TlsClient client(server.port(), server_ca_, {&client_});
    client.send(kHold);
    auto held = server.handler->take();
    ASSERT_TRUE(held);
    CloseWatcher watcher;
    watcher.watch(*held->response);
    if (way == 0) client.close_notify();
    if (way == 1) client.socket().reset();
    if (way == 2) client.socket().shutdown_write();
    EXPECT_EQ(watcher.wait(), CloseReason::kClientGone) << way;
  }
}

TEST_F(TlsTest, ASlowReaderIsCut) {
  HttpLimits limits;
  limits.write_buffer_bytes_max = 64 * 1024;
  limits.socket_send_buffer_bytes = 16 * 1024;
  TestServer server(limits, slot(false));
  TlsClient client(server.port(), server_ca_, {nullptr, TLS1_3_VERSION, "", 4096});
  client.send(kHold);
  auto held = server.handler->take();
  ASSERT_TRUE(held);
  CloseWatcher watcher;
  watcher.watch(*held->response);
  held->response->start_stream(200, {});
  const std::string chunk(1000, 'c');
  for (int i = 0; i < 5000 && held->response->write(chunk); ++i) {
  }
  EXPECT_EQ(watcher.wait(), CloseReason::kSlowClient);
}

TEST_F(TlsTest, ManyStreamsOverMutualTls) {
  constexpr size_t kStreams = 32;
  constexpr int kSteps = 50;
  TestServer server({}, slot(true));
  std::vector<std::unique_ptr<TlsClient>> clients;
  std::vector<HeldRequest> held;
  for (size_t i = 0; i < kStreams; ++i) {
    TlsClientOptions options{&client_};
    clients.push_back(std::make_unique<TlsClient>(server.port(), server_ca_, options));
    ASSERT_TRUE(clients.back()->send(kHold));
    auto request = server.handler->take();
    ASSERT_TRUE(request);
    held.push_back(*std::move(request));
  }
  std::thread writer([&] {
    for (auto& stream : held) stream.response->start_stream(200, {});
    for (int step = 0; step < kSteps; ++step) {
      for (size_t i = 0; i < kStreams; ++i) {
        EXPECT_TRUE(held[i].response->write(
            "<" + std::to_string(i * 1000 + static_cast<size_t>(step)) + ">"));
      }
    }
    for (auto& stream : held) stream.response->finish();
  });
  for (size_t i = 0; i < kStreams; ++i) {
    ASSERT_TRUE(clients[i]->read_until("\r\n0\r\n\r\n")) << i;
    for (int step = 0; step < kSteps; ++step) {
      const std::string event = "<" + std::to_string(i * 1000 + static_cast<size_t>(step)) + ">";
      EXPECT_NE(clients[i]->buffer().find(event), std::string::npos) << event;
    }
  }
  writer.join();
}

TEST_F(TlsTest, ASwappedContextServesNewConnections) {
  const auto shared_slot = slot(false);
  TestServer server({}, shared_slot);
  TlsClient before(server.port(), server_ca_);
  before.send(kGet);
  EXPECT_EQ(before.read_body(), "hello");
  const auto renewed = pki_.leaf(server_ca_, "renewed", {"DNS:localhost", "serverAuth"});
  auto context = TlsContext::load({renewed.cert_file, renewed.key_file, ""});
  ASSERT_TRUE(context.is_ok());
  shared_slot->swap(*context);
  TlsClient after(server.port(), server_ca_);
  EXPECT_NE(after.peer_serial(), before.peer_serial());
  after.send(kGet);
  EXPECT_EQ(after.read_body(), "hello");
  before.send(kGet);
  EXPECT_EQ(before.read_body(), "hello");
}

TEST_F(TlsTest, ErrorsOfLoadingNameTheFileAndTheSetting) {
  const std::string garbage = pki_.file("garbage.pem", "not a certificate\n");
  const std::string missing = "/nonexistent/fathom.pem";
  struct Case {
    TlsFiles files;
    std::vector<std::string> words;
  };
  const std::vector<Case> cases = {
      {{missing, server_.key_file, ""}, {"tls_cert", missing, "No such file"}},
      {{"", server_.key_file, ""}, {"tls_cert", "not set"}},
      {{garbage, server_.key_file, ""}, {"tls_cert", garbage}},
      {{server_.cert_file, missing, ""}, {"tls_key", missing, "No such file"}},
      {{server_.cert_file, "", ""}, {"tls_key", "not set"}},
      {{server_.cert_file, garbage, ""}, {"tls_key", garbage}},
      {{server_.cert_file, pki_.encrypted_key(server_), ""}, {"tls_key", "encrypted"}},
      {{server_.cert_file, client_.key_file, ""}, {"tls_key", client_.key_file, server_.cert_file}},
      {{server_.cert_file, server_.key_file, missing}, {"tls_client_ca", missing, "No such file"}},
      {{server_.cert_file, server_.key_file, garbage}, {"tls_client_ca", garbage}},
  };
  for (const auto& c : cases) {
    const auto context = TlsContext::load(c.files);
    ASSERT_FALSE(context.is_ok()) << c.words.back();
    EXPECT_EQ(context.status().subject(), c.words.front());
    for (const auto& word : c.words) {
      EXPECT_NE(context.status().message().find(word), std::string::npos)
          << context.status().message();
    }
  }
  const auto good = TlsContext::load({server_.cert_file, server_.key_file, client_ca_.cert_file});
  ASSERT_TRUE(good.is_ok());
  EXPECT_TRUE((*good)->requires_client_certificate());
  EXPECT_NEAR(static_cast<double>((*good)->not_after_unix_s()),
              static_cast<double>(std::time(nullptr) + 3600), 60.0);
}

TEST(IdentityFromSan, TakesTheFirstUsableName) {
  using Names = std::vector<std::string>;
  EXPECT_EQ(identity_from_san(Names{"spiffe://a/b", "spiffe://c"}, Names{"d"}), "spiffe://a/b");
  EXPECT_EQ(identity_from_san(Names{}, Names{"d", "e"}), "d");
  EXPECT_EQ(identity_from_san(Names{}, Names{}), "");
  EXPECT_EQ(identity_from_san(Names{std::string("spiffe://a\0b", 12)}, Names{"d"}), "d");
  EXPECT_EQ(identity_from_san(Names{"two words", "line\nbreak", ""}, Names{"\xc3\xa4", "ok"}),
            "ok");
}

}  // namespace
}  // namespace fathom::net
