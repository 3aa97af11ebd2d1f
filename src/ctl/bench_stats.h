// What a benchmark measured: one record a request, and the figures made of all of them. Values.
#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <vector>

namespace fathom::ctl {

// Times in milliseconds. With an open loop they count from the moment the request was due, so that
// a slow server cannot hide behind the requests it delayed.
struct RequestRecord {
  bool ok = false;
  std::string error;      // when it is not ok
  double start_ms = 0.0;  // from the start of the run
  double ttft_ms = 0.0;
  double e2e_ms = 0.0;
  int64_t prompt_tokens = 0;
  int64_t cached_tokens = 0;
  int64_t output_tokens = 0;
  std::vector<double> gaps_ms;  // between events

  // Time per output token after the first; empty with fewer than two.
  std::optional<double> tpot_ms() const {
    if (output_tokens < 2) return std::nullopt;
    return (e2e_ms - ttft_ms) / static_cast<double>(output_tokens - 1);
  }
};

struct Percentiles {
  double mean = 0.0, p50 = 0.0, p90 = 0.0, p99 = 0.0, max = 0.0;
  int64_t samples = 0;
};
// Nearest rank; all zero without values.
Percentiles percentiles(std::vector<double> values);

struct Slo {
  std::optional<double> ttft_ms, tpot_ms, e2e_ms;
  bool any() const { return ttft_ms || tpot_ms || e2e_ms; }
  bool met_by(const RequestRecord& r) const;
};

struct BenchSummary {
  int64_t requests = 0;
  int64_t failed = 0;
  double seconds = 0.0;
  int64_t prompt_tokens = 0;
  int64_t cached_tokens = 0;
  int64_t output_tokens = 0;
  Percentiles ttft_ms, tpot_ms, itl_ms, e2e_ms;
  double requests_per_s = 0.0;
  double output_tokens_per_s = 0.0;
  double total_tokens_per_s = 0.0;
  std::optional<double> goodput_per_s;  // requests that met the objectives
  std::string first_error;
};
BenchSummary summarize(const std::vector<RequestRecord>& records, double seconds, const Slo& slo);

std::string summary_json(const BenchSummary& summary, const std::string& parameters_json);
std::string summary_text(const BenchSummary& summary);

}  // namespace fathom::ctl
