// HttpServer over loopback: well-formed requests, keep-alive, pipelining, bodies, methods, drain
// and stop.
#include "net/http_server.h"

#include <gtest/gtest.h>

#include <thread>

#include "raw_client.h"
#include "test_server.h"

namespace fathom::net {
namespace {

TEST(HttpServer, AnswersAndKeepsTheConnection) {
  TestServer server;
  RawClient client(server.port());
  for (int i = 0; i < 3; ++i) {
    ASSERT_TRUE(client.send("GET /hello?a=b%20c HTTP/1.1\r\nHost: x\r\n\r\n"));
    const auto response = client.read_response();
    ASSERT_TRUE(response);
    EXPECT_EQ(response->status, 200);
    EXPECT_EQ(response->body, "hello");
    EXPECT_EQ(response->headers.at("x-query"), "a=b%20c");
    EXPECT_FALSE(response->headers.contains("connection"));
    EXPECT_TRUE(response->headers.at("date").ends_with(" GMT"));
  }
  EXPECT_EQ(server.server->stats().connections_accepted, 1u);
  EXPECT_EQ(server.server->stats().requests, 3u);
}

}  // namespace
}  // namespace fathom::net
