// The benchmark: its arithmetic, and whole runs against a fake server.
#include <gtest/gtest.h>

#include <set>
#include <thread>

#include "base/json.h"
#include "ctl/bench_stats.h"
#include "fake_server.h"
#include "run_command.h"

namespace fathom::ctl {
namespace {

using testing::api_answer;
using testing::FakeRequest;
using testing::FakeServer;
using testing::json_answer;
using testing::run_command;

RequestRecord record(double ttft_ms, double e2e_ms, int64_t tokens) {
  RequestRecord r;
  r.ok = true;
  r.ttft_ms = ttft_ms;
  r.e2e_ms = e2e_ms;
  r.output_tokens = tokens;
  r.prompt_tokens = 10;
  return r;
}

TEST(BenchStats, PercentilesAreNearestRank) {
  std::vector<double> values;
  for (int i = 100; i >= 1; --i) values.push_back(i);
  const Percentiles p = percentiles(values);
  EXPECT_EQ(p.p50, 50.0);
  EXPECT_EQ(p.p90, 90.0);
  EXPECT_EQ(p.p99, 99.0);
  EXPECT_EQ(p.max, 100.0);
  EXPECT_EQ(p.mean, 50.5);
  EXPECT_EQ(percentiles({7.0}).p99, 7.0);
  EXPECT_EQ(percentiles({}).samples, 0);
}

TEST(BenchStats, FiguresFollowFromTheRecords) {
  std::vector<RequestRecord> records = {record(10, 110, 11), record(30, 230, 21), record(5, 5, 1)};
  RequestRecord failed;
  failed.error = "boom";
  records.push_back(failed);
  EXPECT_DOUBLE_EQ(*records[0].tpot_ms(), 10.0);
  EXPECT_FALSE(records[2].tpot_ms().has_value());
  Slo slo;
  slo.ttft_ms = 20.0;
  const BenchSummary s = summarize(records, 2.0, slo);
  EXPECT_EQ(s.requests, 4);
  EXPECT_EQ(s.failed, 1);
  EXPECT_EQ(s.first_error, "boom");
  EXPECT_EQ(s.output_tokens, 33);
  EXPECT_DOUBLE_EQ(s.requests_per_s, 1.5);
  EXPECT_DOUBLE_EQ(s.output_tokens_per_s, 16.5);
  EXPECT_DOUBLE_EQ(s.total_tokens_per_s, 31.5);
  EXPECT_DOUBLE_EQ(*s.goodput_per_s, 1.0);
  EXPECT_EQ(s.tpot_ms.samples, 2);
  EXPECT_FALSE(summarize(records, 2.0, {}).goodput_per_s.has_value());
}

TEST(Bench, ClosedLoopCountsEveryRequestOnce) {
  FakeServer server(api_answer);
  const auto ran =
      run_command({"bench", "serve", "--url", server.url(), "--clients", "4", "--requests", "20",
                   "--warmup", "3", "--input-tokens", "12", "--json", "--slo-ttft-ms", "10000"});
  ASSERT_EQ(ran.code, 0) << ran.err;
  const auto body = parse_json(ran.out);
  ASSERT_TRUE(body.is_ok()) << ran.out;
  EXPECT_EQ((*body)["requests"], 20);
  EXPECT_EQ((*body)["failed"], 0);
  EXPECT_EQ((*body)["output_tokens"], 40);
  EXPECT_EQ((*body)["ttft_ms"]["samples"], 20);
  EXPECT_EQ((*body)["itl_ms"]["samples"], 20);
  EXPECT_GT((*body)["goodput_per_second"].get<double>(), 0.0);
  EXPECT_EQ((*body)["parameters"]["clients"], 4);
  // Prompts are token ids of the words, all different, the same for the same seed.
  std::set<std::string> prompts;
  for (const FakeRequest& r : server.requests()) {
    if (!r.is("POST /v1/completions ")) continue;
    const auto sent = parse_json(r.body);
    EXPECT_EQ((*sent)["prompt"].size(), 12U);
    for (const Json& id : (*sent)["prompt"]) EXPECT_TRUE(id >= 5 && id <= 7);
    EXPECT_EQ((*sent)["ignore_eos"], true);
    prompts.insert((*sent)["prompt"].dump());
  }
  EXPECT_EQ(prompts.size(), 23U);
  EXPECT_LE(server.connections(), 6);
}

TEST(Bench, OpenLoopKeepsItsRateAndItsSeed) {
  FakeServer server(api_answer);
  const auto start = std::chrono::steady_clock::now();
  const auto ran = run_command({"bench", "serve", "--url", server.url(), "--rate", "100",
                                "--requests", "40", "--json", "--chat", "--seed", "3"});
  const std::chrono::duration<double> took = std::chrono::steady_clock::now() - start;
  ASSERT_EQ(ran.code, 0) << ran.err;
  const auto body = parse_json(ran.out);
  EXPECT_EQ((*body)["requests"], 40);
  EXPECT_GT(took.count(), 0.15);  // 40 arrivals at 100 a second, on average 0.4 s
  EXPECT_EQ((*body)["parameters"]["rate_per_second"], 100.0);
}

TEST(Bench, FailuresAreCountedAndShown) {
  std::atomic<int> n{0};
  FakeServer server([&](const FakeRequest& r) {
    if (r.is("POST /v1/completions ") && n++ % 4 == 0) {
      return json_answer(R"({"error":{"message":"queue is full","code":"queue_full"}})", 429);
    }
    return api_answer(r);
  });
  const auto ran =
      run_command({"bench", "serve", "--url", server.url(), "--clients", "2", "--requests", "8"});
  EXPECT_EQ(ran.code, 1);
  EXPECT_NE(ran.out.find("6 done, 2 failed"), std::string::npos) << ran.out;
  EXPECT_NE(ran.err.find("queue is full"), std::string::npos) << ran.err;
}

TEST(Bench, EndsAtItsDuration) {
  FakeServer server(api_answer);
  const auto start = std::chrono::steady_clock::now();
  const auto ran = run_command({"bench", "serve", "--url", server.url(), "--rate", "5",
                                "--requests", "100000", "--duration", "0.5", "--json"});
  EXPECT_LT(std::chrono::steady_clock::now() - start, std::chrono::seconds(10));
  const auto body = parse_json(ran.out);
  ASSERT_TRUE(body.is_ok()) << ran.out << ran.err;
  EXPECT_LT((*body)["requests"].get<int>(), 50);
}

TEST(Bench, CutsAnswersWhenTimeIsUp) {
  FakeServer server([](const FakeRequest& r) {
    if (r.is("POST /v1/completions ")) std::this_thread::sleep_for(std::chrono::milliseconds(300));
    return api_answer(r);
  });
  const auto ran = run_command({"bench", "serve", "--url", server.url(), "--clients", "2",
                                "--requests", "100", "--stop-after", "0.1", "--json"});
  EXPECT_EQ(ran.code, 0) << ran.err;
  const auto body = parse_json(ran.out);
  ASSERT_TRUE(body.is_ok()) << ran.out << ran.err;
  EXPECT_EQ((*body)["requests"], 2);
  EXPECT_EQ((*body)["output_tokens"], 2) << "the first token of each, and not the second";
}

}  // namespace
}  // namespace fathom::ctl
