#include "base/metrics.h"

#include <gtest/gtest.h>

#include <thread>
#include <vector>

#include "fathom/bucket_counts.h"

namespace fathom {
namespace {

bool has_line(const std::string& text, const std::string& line) {
  return ("\n" + text).find("\n" + line + "\n") != std::string::npos;
}

TEST(Metrics, CountsByModelAndLabel) {
  MetricsRegistry registry;
  Metrics a(registry, "m1"), b(registry, "m2");
  a.counter(CounterId::kRequests, {"stop"}).add();
  a.counter(CounterId::kRequests, {"stop"}).add();
  b.counter(CounterId::kRequests, {"error"}).add();
  a.add(CounterId::kPromptTokens, 17);
  std::string text = registry.text(false);
  EXPECT_TRUE(has_line(text, R"(fathom_requests_total{model="m1",outcome="stop"} 2)")) << text;
  EXPECT_TRUE(has_line(text, R"(fathom_requests_total{model="m2",outcome="error"} 1)"));
  EXPECT_TRUE(has_line(text, R"(fathom_prompt_tokens_total{model="m1"} 17)"));
  EXPECT_TRUE(has_line(
      text, R"(fathom_prompt_tokens_total{model="m2"} 0)"));  // present before its first event
  EXPECT_EQ(text.find("vllm:"), std::string::npos);
}

TEST(Metrics, ProcessFamiliesBearNoModelAndAreShared) {
  MetricsRegistry registry;
  Metrics a(registry, "m1"), b(registry, "m2");
  a.add(CounterId::kUnknownFields);
  b.add(CounterId::kUnknownFields);
  EXPECT_TRUE(has_line(registry.text(false), "fathom_unknown_fields_total 2"));
}

TEST(Metrics, HistogramsCumulate) {
  MetricsRegistry registry;
  Metrics metrics(registry, "m");
  metrics.observe(HistogramId::kTimeToFirstToken, 0.003);
  metrics.observe(HistogramId::kTimeToFirstToken, 3);
  std::string text = registry.text(false);
  EXPECT_TRUE(
      has_line(text, R"(fathom_time_to_first_token_seconds_bucket{model="m",le="0.001"} 0)"))
      << text;
  EXPECT_TRUE(
      has_line(text, R"(fathom_time_to_first_token_seconds_bucket{model="m",le="0.005"} 1)"));
  EXPECT_TRUE(
      has_line(text, R"(fathom_time_to_first_token_seconds_bucket{model="m",le="+Inf"} 2)"));
  EXPECT_TRUE(has_line(text, R"(fathom_time_to_first_token_seconds_count{model="m"} 2)"));
}

TEST(Metrics, CountsOfAnotherProcessMergeIntoAHistogram) {
  MetricsRegistry registry;
  Metrics metrics(registry, "m");
  StepTokens counted;
  for (double tokens : {1.0, 2.0, 2.5, 1e6}) counted.add(kStepTokensBounds, tokens);
  metrics.histogram(HistogramId::kStepTokenCount).merge(counted.counts, counted.sum);
  metrics.histogram(HistogramId::kStepTokenCount).merge(counted.counts, counted.sum);
  const std::string text = registry.text(true);
  EXPECT_TRUE(has_line(text, R"(fathom_step_tokens_bucket{model="m",le="1"} 2)")) << text;
  EXPECT_TRUE(has_line(text, R"(fathom_step_tokens_bucket{model="m",le="2"} 4)"));
  EXPECT_TRUE(has_line(text, R"(fathom_step_tokens_bucket{model="m",le="4"} 6)"));
  EXPECT_TRUE(has_line(text, R"(fathom_step_tokens_bucket{model="m",le="16384"} 6)"));
  EXPECT_TRUE(has_line(text, R"(vllm:iteration_tokens_total_count{model_name="m"} 8)"));
}

TEST(Metrics, VllmNamesCarryTheSameValuesUnderItsLabels) {
  MetricsRegistry registry;
  Metrics metrics(registry, "m");
  metrics.set(GaugeId::kRequestsWaiting, 3);
  metrics.counter(CounterId::kRequests, {"length"}).add();
  std::string text = registry.text(true);
  EXPECT_TRUE(has_line(text, R"(vllm:num_requests_waiting{model_name="m"} 3)")) << text;
  EXPECT_TRUE(
      has_line(text, R"(vllm:request_success_total{finished_reason="length",model_name="m"} 1)") ||
      has_line(text, R"(vllm:request_success_total{model_name="m",finished_reason="length"} 1)"));
  EXPECT_TRUE(has_line(text, R"(fathom_requests_waiting{model="m"} 3)"));
}

TEST(Metrics, LabelValuesAreBounded) {
  MetricsRegistry registry;
  Metrics metrics(registry, "m");
  const size_t max = MetricsRegistry::kSeriesPerFamilyMax;
  for (size_t i = 0; i < max + 2; ++i) {
    metrics.counter(CounterId::kHttpRequests, {"/r" + std::to_string(i), "200"}).add();
  }
  std::string text = registry.text(false);
  std::string last_named =
      "fathom_http_requests_total{code=\"200\",route=\"/r" + std::to_string(max - 1) + "\"} 1";
  EXPECT_TRUE(has_line(text, last_named));
  EXPECT_TRUE(has_line(text, R"(fathom_http_requests_total{code="other",route="other"} 2)"))
      << text.size();
}

TEST(Metrics, ThreadsLoseNoCount) {
  MetricsRegistry registry;
  Metrics metrics(registry, "m");
  {
    std::vector<std::jthread> threads;
    for (int t = 0; t < 4; ++t) {
      threads.emplace_back([&] {
        for (int i = 0; i < 10'000; ++i) metrics.add(CounterId::kGenerationTokens);
      });
    }
  }
  EXPECT_TRUE(has_line(registry.text(false), R"(fathom_generation_tokens_total{model="m"} 40000)"));
}

TEST(MetricsDeathTest, AWrongNumberOfLabelsIsABrokenInvariant) {
  MetricsRegistry registry;
  Metrics metrics(registry, "m");
  EXPECT_DEATH(metrics.add(CounterId::kRequests), "fathom_requests_total");
}

}  // namespace
}  // namespace fathom
