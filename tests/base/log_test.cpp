#include "base/log.h"

#include <gtest/gtest.h>

#include <limits>
#include <thread>
#include <vector>

namespace fathom {
namespace {

class LogTest : public testing::Test {
 protected:
  void TearDown() override { start_logging({}); }
  void capture(LogFormat format, LogLevel level = LogLevel::kInfo) {
    start_logging({level, format, [this](std::string_view line) { lines_.emplace_back(line); }});
  }
  std::vector<std::string> lines_;
  Logger log_{"net"};
};

TEST_F(LogTest, TextLineHasTimeLevelComponentAndFields) {
  capture(LogFormat::kText);
  log_.with_request("req-1").warn("slow client", {{"bytes", 12}, {"peer", "a b"}, {"tls", true}});
  ASSERT_EQ(lines_.size(), 1u);
  EXPECT_NE(
      lines_[0].find("warning net: slow client request_id=req-1 bytes=12 peer=\"a b\" tls=true\n"),
      std::string::npos)
      << lines_[0];
  EXPECT_EQ(lines_[0][4], '-');  // 2026-...
  EXPECT_EQ(lines_[0][10], 'T');
}

TEST_F(LogTest, JsonLineEscapesWhatAClientSends) {
  capture(LogFormat::kJson);
  std::string hostile = "x\"\n\x01,\"level\":\"info";
  log_.info("request",
            {{"path", hostile}, {"ratio", 0.5}, {"bad", std::numeric_limits<double>::infinity()}});
  ASSERT_EQ(lines_.size(), 1u);
  EXPECT_NE(
      lines_[0].find(
          R"("level":"info","component":"net","msg":"request",)"
          R"("path":"x\"\n\u0001,\"level\":\"info")"
          R"(,"ratio":0.5,"bad":null})"
          "\n"),
      std::string::npos)
      << lines_[0];
}

TEST_F(LogTest, TextValueCannotEndItsLineOrForgeAField) {
  capture(LogFormat::kText);
  log_.info("got", {{"name", "a\nerror: b=c"}, {"empty", ""}});
  EXPECT_NE(lines_.at(0).find(R"(got name="a\nerror: b=c" empty="")"), std::string::npos)
      << lines_[0];
}

TEST_F(LogTest, LevelFiltersAtTheBound) {
  capture(LogFormat::kText, LogLevel::kWarn);
  log_.info("no");
  log_.warn("yes");
  EXPECT_EQ(lines_.size(), 1u);
  set_log_level(LogLevel::kDebug);
  log_.debug("now");
  log_.trace("not");
  EXPECT_EQ(lines_.size(), 2u);
}

TEST_F(LogTest, LinesOfManyThreadsAreWhole) {
  capture(LogFormat::kJson);
  {
    std::vector<std::jthread> threads;
    for (int t = 0; t < 4; ++t) {
      threads.emplace_back([this] {
        for (int i = 0; i < 200; ++i) log_.info("line", {{"i", i}});
      });
    }
  }
  ASSERT_EQ(lines_.size(), 800u);
  for (const std::string& line : lines_)
    EXPECT_TRUE(line.starts_with("{\"ts\":") && line.ends_with("}\n"));
}

}  // namespace
}  // namespace fathom
