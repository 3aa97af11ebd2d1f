// What two HTTP parsers could read differently, or none should read at all: each case is refused
// with its status, the connection ends, and no handler sees a request. Limits are tried at the
// bound and one past it.
#include <gtest/gtest.h>

#include <chrono>
#include <string>
#include <thread>
#include <vector>

#include "raw_client.h"
#include "test_server.h"

namespace fathom::net {
namespace {

struct Malformed {
  const char* name;
  std::string bytes;
  int status;
};

// A second request hidden behind the first one's body: it must never be answered.
const std::string kHidden = "GET /echo HTTP/1.1\r\nHost: x\r\n\r\n";
const std::string kPost = "POST /echo HTTP/1.1\r\nHost: x\r\n";
const std::string kGet = "GET /echo HTTP/1.1\r\nHost: x\r\n";

std::vector<Malformed> smuggling_cases() {
  const std::string chunked = "Transfer-Encoding: chunked\r\n";
  return {
      {"cl_and_te", kPost + "Content-Length: 5\r\n" + chunked + "\r\n0\r\n\r\n" + kHidden, 400},
      {"te_and_cl", kPost + chunked + "Content-Length: 5\r\n\r\n0\r\n\r\n" + kHidden, 400},
      {"two_cl_differ", kPost + "Content-Length: 5\r\nContent-Length: 6\r\n\r\nhello" + kHidden,
       400},
      {"two_cl_equal", kPost + "Content-Length: 5\r\nContent-Length: 5\r\n\r\nhello", 400},
      {"cl_list", kPost + "Content-Length: 5, 5\r\n\r\nhello", 400},
      {"cl_plus", kPost + "Content-Length: +5\r\n\r\nhello", 400},
      {"cl_minus", kPost + "Content-Length: -5\r\n\r\nhello", 400},
      {"cl_hex", kPost + "Content-Length: 0x5\r\n\r\nhello", 400},
      {"cl_empty", kPost + "Content-Length: \r\n\r\nhello", 400},
      {"cl_words", kPost + "Content-Length: five\r\n\r\nhello", 400},
      {"cl_inner_space", kPost + "Content-Length: 1 2\r\n\r\nhello", 400},
      {"cl_overflow", kPost + "Content-Length: 18446744073709551617\r\n\r\nhello", 400},
      {"cl_space_before_colon", kPost + "Content-Length : 5\r\n\r\nhello", 400},
      {"cl_underscore", kPost + "Content_Length: 5\r\n\r\nhello", 400},
      {"te_twice", kPost + chunked + chunked + "\r\n0\r\n\r\n" + kHidden, 400},
      {"te_list_twice", kPost + "Transfer-Encoding: chunked, chunked\r\n\r\n0\r\n\r\n", 501},
      {"te_identity", kPost + "Transfer-Encoding: identity\r\n\r\n0\r\n\r\n" + kHidden, 501},
      {"te_gzip_chunked", kPost + "Transfer-Encoding: gzip, chunked\r\n\r\n0\r\n\r\n", 501},
      {"te_chunked_gzip", kPost + "Transfer-Encoding: chunked, gzip\r\n\r\n0\r\n\r\n", 501},
      {"te_misspelt", kPost + "Transfer-Encoding: xchunked\r\n\r\n0\r\n\r\n" + kHidden, 501},
      {"te_quoted", kPost + "Transfer-Encoding: \"chunked\"\r\n\r\n0\r\n\r\n" + kHidden, 501},
      {"te_vertical_tab", kPost + "Transfer-Encoding: \vchunked\r\n\r\n0\r\n\r\n" + kHidden, 400},
      {"te_space_before_colon", kPost + "Transfer-Encoding : chunked\r\n\r\n0\r\n\r\n", 400},
      {"te_folded", kPost + "Transfer-Encoding:\r\n chunked\r\n\r\n0\r\n\r\n", 400},
      {"te_http_1_0",
       "POST /echo HTTP/1.0\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n", 400},
  };
}

std::vector<Malformed> chunk_cases() {
  const std::string head = kPost + "Transfer-Encoding: chunked\r\n\r\n";
  return {
      {"chunk_size_words", head + "xyz\r\nhello\r\n0\r\n\r\n", 400},
      {"chunk_size_negative", head + "-5\r\nhello\r\n0\r\n\r\n", 400},
      {"chunk_size_prefixed", head + "0x5\r\nhello\r\n0\r\n\r\n", 400},
      {"chunk_size_empty", head + "\r\nhello\r\n0\r\n\r\n", 400},
      {"chunk_size_leading_space", head + " 5\r\nhello\r\n0\r\n\r\n", 400},
      {"chunk_size_overflow", head + "10000000000000005\r\nhello\r\n0\r\n\r\n", 400},
      {"chunk_bare_lf", head + "5\nhello\r\n0\r\n\r\n", 400},
      {"chunk_bare_cr", head + "5\rhello\r\n0\r\n\r\n", 400},
      {"chunk_longer_than_size", head + "3\r\nhello\r\n0\r\n\r\n", 400},
      {"chunk_extension", head + "5;a=b\r\nhello\r\n0\r\n\r\n", 400},
      {"chunk_extension_on_last", head + "5\r\nhello\r\n0;a\r\n\r\n", 400},
      {"trailer_with_cl", head + "5\r\nhello\r\n0\r\nContent-Length: 9\r\n\r\n", 400},
      {"trailer_with_te", head + "5\r\nhello\r\n0\r\nTransfer-Encoding: chunked\r\n\r\n", 400},
      {"endless_chunk_line", head + std::string(20'000, '0'), 400},
  };
}

std::vector<Malformed> head_cases() {
  using std::string_literals::operator""s;
  return {
      {"bare_lf_lines", "GET /echo HTTP/1.1\nHost: x\n\n", 400},
      {"bare_lf_in_field", "GET /echo HTTP/1.1\r\nHost: x\nA: b\r\n\r\n", 400},
      {"bare_cr_in_field", "GET /echo HTTP/1.1\r\nHost: x\rA: b\r\n\r\n", 400},
      {"bare_cr_in_line", "GET /echo\r HTTP/1.1\r\nHost: x\r\n\r\n", 400},
      {"cr_cr_lf", "GET /echo HTTP/1.1\r\r\nHost: x\r\n\r\n", 400},
      {"nul_in_value", kGet + "A: b\0c\r\n\r\n"s, 400},
      {"nul_in_name", kGet + "A\0: b\r\n\r\n"s, 400},
      {"delete_in_value", kGet + "A: b\x7f\r\n\r\n", 400},
      {"escape_in_target", "GET /\x1b HTTP/1.1\r\nHost: x\r\n\r\n", 400},
      {"obs_fold", kGet + "A: b\r\n c\r\n\r\n", 400},
      {"obs_fold_tab", kGet + "A: b\r\n\tc\r\n\r\n", 400},
      {"space_before_first_field", "GET /echo HTTP/1.1\r\n Host: x\r\n\r\n", 400},
      {"no_colon", kGet + "Accept\r\n\r\n", 400},
      {"empty_name", kGet + ": b\r\n\r\n", 400},
      {"space_in_name", kGet + "A b: c\r\n\r\n", 400},
      {"space_before_colon", kGet + "A : c\r\n\r\n", 400},
      {"bad_name_char", kGet + "A(b): c\r\n\r\n", 400},
      {"high_byte_in_name", kGet + "A\xc3\xa4: c\r\n\r\n", 400},
      {"underscore_in_name", kGet + "x_forwarded_for: c\r\n\r\n", 400},
      {"no_host", "GET /echo HTTP/1.1\r\n\r\n", 400},
      {"two_hosts", kGet + "Host: y\r\n\r\n", 400},
      {"empty_host", "GET /echo HTTP/1.1\r\nHost:\r\n\r\n", 400},
      {"host_with_path", "GET /echo HTTP/1.1\r\nHost: x/y\r\n\r\n", 400},
      {"host_with_user", "GET /echo HTTP/1.1\r\nHost: a@x\r\n\r\n", 400},
      {"host_with_words", "GET /echo HTTP/1.1\r\nHost: x y\r\n\r\n", 400},
      {"host_with_bad_port", "GET /echo HTTP/1.1\r\nHost: x:80a\r\n\r\n", 400},
      {"host_list", "GET /echo HTTP/1.1\r\nHost: x, y\r\n\r\n", 400},
      {"relative_target", "GET echo HTTP/1.1\r\nHost: x\r\n\r\n", 400},
      {"asterisk_with_get", "GET * HTTP/1.1\r\nHost: x\r\n\r\n", 400},
      {"fragment", "GET /echo#a HTTP/1.1\r\nHost: x\r\n\r\n", 400},
      {"high_byte_in_target", "GET /\xc3\xa4 HTTP/1.1\r\nHost: x\r\n\r\n", 400},
      {"space_in_target", "GET /e cho HTTP/1.1\r\nHost: x\r\n\r\n", 400},
      {"other_scheme", "GET ftp://x/echo HTTP/1.1\r\nHost: x\r\n\r\n", 400},
      {"absolute_with_user", "GET http://a@x/echo HTTP/1.1\r\nHost: x\r\n\r\n", 400},
      {"absolute_without_host", "GET http:///echo HTTP/1.1\r\nHost: x\r\n\r\n", 400},
      {"connect", "CONNECT x:443 HTTP/1.1\r\nHost: x\r\n\r\n", 501},
      {"two_spaces", "GET  /echo HTTP/1.1\r\nHost: x\r\n\r\n", 400},
      {"tab_as_space", "GET\t/echo HTTP/1.1\r\nHost: x\r\n\r\n", 400},
      {"no_version", "GET /echo\r\nHost: x\r\n\r\n", 400},
      {"bad_method_char", "G(T /echo HTTP/1.1\r\nHost: x\r\n\r\n", 400},
      {"version_2", "GET /echo HTTP/2.0\r\nHost: x\r\n\r\n", 505},
      {"version_1_2", "GET /echo HTTP/1.2\r\nHost: x\r\n\r\n", 505},
      {"version_0_9", "GET /echo HTTP/0.9\r\nHost: x\r\n\r\n", 505},
      {"version_words", "GET /echo HTTP/one\r\nHost: x\r\n\r\n", 400},
      {"version_lower_case", "GET /echo http/1.1\r\nHost: x\r\n\r\n", 400},
      {"version_long", "GET /echo HTTP/1.10\r\nHost: x\r\n\r\n", 400},
      {"two_blank_lines_first", "\r\n\r\nGET /echo HTTP/1.1\r\nHost: x\r\n\r\n", 400},
      {"http_2_preface", "PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", 505},
      {"tls_hello", "\x16\x03\x01\x02\x01\x01\xfc\x03\x03"s, 400},
      {"other_expectation", kPost + "Expect: coffee\r\nContent-Length: 1\r\n\r\n", 417},
  };
}

class MalformedTest : public testing::TestWithParam<Malformed> {};

TEST_P(MalformedTest, IsRefusedAndTheConnectionEnds) {
  TestServer server({}, nullptr, 1);
  RawClient client(server.port());
  ASSERT_TRUE(client.send(GetParam().bytes));
  const auto response = client.read_response();
  ASSERT_TRUE(response);
  EXPECT_EQ(response->status, GetParam().status) << response->body;
  EXPECT_EQ(response->headers.at("connection"), "close");
  EXPECT_TRUE(response->body.starts_with(std::to_string(GetParam().status) + " "));
  EXPECT_TRUE(client.read_to_end());
  EXPECT_EQ(client.buffer(), "") << "something was answered after the refusal";
  EXPECT_EQ(server.handler->seen(), 0u);
}

std::string case_name(const testing::TestParamInfo<Malformed>& info) { return info.param.name; }

INSTANTIATE_TEST_SUITE_P(Smuggling, MalformedTest, testing::ValuesIn(smuggling_cases()), case_name);
INSTANTIATE_TEST_SUITE_P(Chunks, MalformedTest, testing::ValuesIn(chunk_cases()), case_name);
INSTANTIATE_TEST_SUITE_P(Head, MalformedTest, testing::ValuesIn(head_cases()), case_name);

// The same bytes one at a time end in the same refusal: no decision depends on how the bytes were
// cut.
TEST(Malformed, OneByteAtATimeMakesNoDifference) {
  TestServer server({}, nullptr, 1);
  std::vector<Malformed> cases = smuggling_cases();
  for (auto& more : chunk_cases()) {
    if (more.bytes.size() < 1000) cases.push_back(more);
  }
  for (const auto& malformed : cases) {
    RawClient client(server.port());
    for (const char byte : malformed.bytes) {
      if (!client.send({&byte, 1})) break;  // refused before the end
    }
    const auto response = client.read_response();
    ASSERT_TRUE(response) << malformed.name;
    EXPECT_EQ(response->status, malformed.status) << malformed.name;
    EXPECT_TRUE(client.read_to_end()) << malformed.name;
    EXPECT_EQ(client.buffer(), "") << malformed.name;
  }
  EXPECT_EQ(server.handler->seen(), 0u);
}

int status_of(uint16_t port, const std::string& bytes) {
  RawClient client(port);
  client.send(bytes);
  const auto response = client.read_response();
  return response ? response->status : -1;
}

// A head of exactly `bytes` bytes.
std::string head_of_size(size_t bytes) {
  const std::string start = "GET /hello HTTP/1.1\r\nHost: x\r\nA: ";
  return start + std::string(bytes - start.size() - 4, 'a') + "\r\n\r\n";
}

TEST(Limits, HeadBytes) {
  HttpLimits limits;
  limits.header_bytes_max = 1000;
  TestServer server(limits);
  EXPECT_EQ(status_of(server.port(), head_of_size(1000)), 200);
  EXPECT_EQ(status_of(server.port(), "\r\n" + head_of_size(1000)), 200);
  EXPECT_EQ(status_of(server.port(), head_of_size(1001)), 431);
  EXPECT_EQ(status_of(server.port(), "GET /" + std::string(2000, 'a')), 414);
  TestServer normal;
  EXPECT_EQ(status_of(normal.port(), head_of_size(16384)), 200);
  EXPECT_EQ(status_of(normal.port(), head_of_size(16385)), 431);
}

TEST(Limits, HeadFields) {
  TestServer server;
  std::string head = "GET /hello HTTP/1.1\r\nHost: x\r\n";
  for (int i = 1; i < 100; ++i) head += "A: b\r\n";
  EXPECT_EQ(status_of(server.port(), head + "\r\n"), 200);
  EXPECT_EQ(status_of(server.port(), head + "A: b\r\n\r\n"), 431);
}

TEST(Limits, TargetBytes) {
  TestServer server;
  const auto request = [](size_t bytes) {
    return "GET /hello?" + std::string(bytes - 7, 'a') + " HTTP/1.1\r\nHost: x\r\n\r\n";
  };
  EXPECT_EQ(status_of(server.port(), request(4096)), 200);
  EXPECT_EQ(status_of(server.port(), request(4097)), 414);
}

TEST(Limits, BodyBytes) {
  HttpLimits limits;
  limits.body_bytes_max = 1000;
  TestServer server(limits);
  const auto sized = [](size_t bytes) {
    return kPost + "Content-Length: " + std::to_string(bytes) + "\r\n\r\n" +
           std::string(bytes, 'b');
  };
  const auto chunked = [](size_t bytes) {
    return kPost + "Transfer-Encoding: chunked\r\n\r\n1\r\nb\r\n3e7\r\n" + std::string(999, 'b') +
           "\r\n" + (bytes > 1000 ? "1\r\nb\r\n" : "") + "0\r\n\r\n";
  };
  EXPECT_EQ(status_of(server.port(), sized(1000)), 200);
  EXPECT_EQ(status_of(server.port(), sized(1001)), 413);
  EXPECT_EQ(status_of(server.port(), chunked(1000)), 200);
  EXPECT_EQ(status_of(server.port(), chunked(1001)), 413);
}

TEST(Limits, BodiesOfAllConnectionsTogether) {
  HttpLimits limits;
  limits.bodies_bytes_max = 100'000;
  TestServer server(limits);
  const std::string head = kPost + "Content-Length: 60000\r\n\r\n";
  RawClient first(server.port());
  first.send(head + std::string(59'999, 'b'));
  std::this_thread::sleep_for(std::chrono::milliseconds(100));
  EXPECT_EQ(status_of(server.port(), head + std::string(60'000, 'b')), 503);
  first.send("b");
  const auto response = first.read_response();
  ASSERT_TRUE(response);
  EXPECT_EQ(response->status, 200);
  EXPECT_EQ(status_of(server.port(), head + std::string(60'000, 'b')), 200);
}

TEST(Limits, BodyIsRefusedBeforeItIsSent) {
  TestServer server;
  const std::string over = std::to_string(32 * 1024 * 1024 + 1);
  EXPECT_EQ(status_of(server.port(), kPost + "Content-Length: " + over + "\r\n\r\n"), 413);
  EXPECT_EQ(status_of(server.port(),
                      kPost + "Expect: 100-continue\r\nContent-Length: " + over + "\r\n\r\n"),
            413);
  EXPECT_EQ(status_of(server.port(), kPost + "Transfer-Encoding: chunked\r\n\r\n2000001\r\n"), 413);
  EXPECT_EQ(server.handler->seen(), 0u);
}

}  // namespace
}  // namespace fathom::net
