// The event parser under every way of cutting a stream into pieces.
#include "ctl/sse_parser.h"

#include <gtest/gtest.h>

#include <string>
#include <vector>

namespace fathom::ctl {
namespace {

std::vector<std::string> events_of(const std::string& stream, size_t piece) {
  std::vector<std::string> events;
  SseParser parser([&](std::string_view data) {
    events.emplace_back(data);
    return true;
  });
  for (size_t at = 0; at < stream.size(); at += piece) parser.push(stream.substr(at, piece));
  return events;
}

struct Case {
  const char* stream;
  std::vector<std::string> events;
};

TEST(SseParser, ReadsEveryFormInEveryCut) {
  const Case cases[] = {
      {"data: a\n\n", {"a"}},
      {"data:a\n\n", {"a"}},
      {"data:  a\n\n", {" a"}},
      {"data: a\r\n\r\ndata: b\r\n\r\n", {"a", "b"}},
      {"data: a\r\rdata: b\r\r", {"a", "b"}},
      {"data: a\n\r\n", {"a"}},
      {"data: a\ndata: b\n\n", {"a\nb"}},
      {"data\n\n", {""}},
      {"data:\n\n", {""}},
      {": keep-alive\n\ndata: a\n\n", {"a"}},
      {": keep-alive\ndata: a\n\n", {"a"}},
      {"event: x\nid: 7\nretry: 10\ndata: a\n\n", {"a"}},
      {"event: x\n\n", {}},
      {"\xef\xbb\xbf"
       "data: a\n\n",
       {"a"}},
      {"data: \xef\xbb\xbf"
       "a\n\n",
       {"\xef\xbb\xbf"
        "a"}},
      {"\n\n\ndata: a\n\n\n", {"a"}},
      {"data: cut off\n", {}},
      {"data: cut off", {}},
      {"data: a\n\ndata: [DONE]\n\n", {"a", "[DONE]"}},
      {"data: {\"x\": \"a:b\"}\n\n", {"{\"x\": \"a:b\"}"}},
      {"Data: a\n\n", {}},
      {"", {}},
  };
  for (const Case& c : cases) {
    const std::string stream = c.stream;
    for (size_t piece = 1; piece <= stream.size() + 1; ++piece) {
      EXPECT_EQ(events_of(stream, piece), c.events) << stream << " in pieces of " << piece;
    }
  }
}

TEST(SseParser, StopsWhenTold) {
  int seen = 0;
  SseParser parser([&](std::string_view) { return ++seen < 2; });
  EXPECT_FALSE(parser.push("data: a\n\ndata: b\n\ndata: c\n\n"));
  EXPECT_FALSE(parser.push("data: d\n\n"));
  EXPECT_EQ(seen, 2);
}

TEST(SseParser, CountsKeepAlives) {
  SseParser parser([](std::string_view) { return true; });
  parser.push(": keep-alive\n\n: keep-alive\n\n");
  EXPECT_EQ(parser.comments(), 2);
}

}  // namespace
}  // namespace fathom::ctl
