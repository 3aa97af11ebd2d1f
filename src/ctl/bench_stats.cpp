// Percentiles, goodput and how a benchmark is printed.
#include "ctl/bench_stats.h"

#include <algorithm>
#include <cmath>
#include <cstdio>

#include "base/json.h"

namespace fathom::ctl {
namespace {

Json to_json(const Percentiles& p) {
  return {{"mean", p.mean}, {"p50", p.p50}, {"p90", p.p90},
          {"p99", p.p99},   {"max", p.max}, {"samples", p.samples}};
}

std::string row(const char* name, const Percentiles& p) {
  char text[160];
  std::snprintf(text, sizeof(text), "%-10s %10.2f %10.2f %10.2f %10.2f %10.2f\n", name, p.mean,
                p.p50, p.p90, p.p99, p.max);
  return text;
}

}  // namespace

Percentiles percentiles(std::vector<double> values) {
  Percentiles p;
  if (values.empty()) return p;
  std::sort(values.begin(), values.end());
  const auto rank = [&](double q) {
    const auto n = static_cast<double>(values.size());
    const auto at = static_cast<size_t>(std::max(std::ceil(q * n) - 1.0, 0.0));
    return values[std::min(at, values.size() - 1)];
  };
  double sum = 0.0;
  for (const double v : values) sum += v;
  p.samples = static_cast<int64_t>(values.size());
  p.mean = sum / static_cast<double>(values.size());
  p.p50 = rank(0.5);
  p.p90 = rank(0.9);
  p.p99 = rank(0.99);
  p.max = values.back();
  return p;
}

bool Slo::met_by(const RequestRecord& r) const {
  if (!r.ok) return false;
  if (ttft_ms && r.ttft_ms > *ttft_ms) return false;
  if (tpot_ms && r.tpot_ms().value_or(0.0) > *tpot_ms) return false;
  return !e2e_ms || r.e2e_ms <= *e2e_ms;
}

BenchSummary summarize(const std::vector<RequestRecord>& records, double seconds, const Slo& slo) {
  BenchSummary s;
  s.seconds = seconds;
  std::vector<double> ttft;
  std::vector<double> tpot;
  std::vector<double> itl;
  std::vector<double> e2e;
  int64_t good = 0;
  for (const RequestRecord& r : records) {
    ++s.requests;
    if (!r.ok) {
      ++s.failed;
      if (s.first_error.empty()) s.first_error = r.error;
      continue;
    }
    s.prompt_tokens += r.prompt_tokens;
    s.cached_tokens += r.cached_tokens;
    s.output_tokens += r.output_tokens;
    ttft.push_back(r.ttft_ms);
    e2e.push_back(r.e2e_ms);
    if (const auto t = r.tpot_ms()) tpot.push_back(*t);
    itl.insert(itl.end(), r.gaps_ms.begin(), r.gaps_ms.end());
    if (slo.met_by(r)) ++good;
  }
  s.ttft_ms = percentiles(std::move(ttft));
  s.tpot_ms = percentiles(std::move(tpot));
  s.itl_ms = percentiles(std::move(itl));
  s.e2e_ms = percentiles(std::move(e2e));
  const double per_s = seconds > 0.0 ? 1.0 / seconds : 0.0;
  s.requests_per_s = static_cast<double>(s.requests - s.failed) * per_s;
  s.output_tokens_per_s = static_cast<double>(s.output_tokens) * per_s;
  s.total_tokens_per_s = static_cast<double>(s.output_tokens + s.prompt_tokens) * per_s;
  if (slo.any()) s.goodput_per_s = static_cast<double>(good) * per_s;
  return s;
}

std::string summary_json(const BenchSummary& s, const std::string& parameters_json) {
  Json body = {{"requests", s.requests},
               {"failed", s.failed},
               {"seconds", s.seconds},
               {"prompt_tokens", s.prompt_tokens},
               {"cached_tokens", s.cached_tokens},
               {"output_tokens", s.output_tokens},
               {"requests_per_second", s.requests_per_s},
               {"output_tokens_per_second", s.output_tokens_per_s},
               {"total_tokens_per_second", s.total_tokens_per_s},
               {"ttft_ms", to_json(s.ttft_ms)},
               {"tpot_ms", to_json(s.tpot_ms)},
               {"itl_ms", to_json(s.itl_ms)},
               {"e2e_ms", to_json(s.e2e_ms)}};
  body["goodput_per_second"] = s.goodput_per_s ? Json(*s.goodput_per_s) : Json();
  if (!s.first_error.empty()) body["first_error"] = s.first_error;
  if (const auto parameters = parse_json(parameters_json); parameters.is_ok()) {
    body["parameters"] = *parameters;
  }
  return body.dump(-1, ' ', false, Json::error_handler_t::replace);
}

std::string summary_text(const BenchSummary& s) {
  char text[512];
  std::snprintf(text, sizeof(text),
                "requests   %lld done, %lld failed in %.2f s (%.2f/s)\n"
                "tokens     %lld in (%lld cached), %lld out: %.1f out/s, %.1f in and out/s\n",
                static_cast<long long>(s.requests - s.failed), static_cast<long long>(s.failed),
                s.seconds, s.requests_per_s, static_cast<long long>(s.prompt_tokens),
                static_cast<long long>(s.cached_tokens), static_cast<long long>(s.output_tokens),
                s.output_tokens_per_s, s.total_tokens_per_s);
  std::string result = text;
  if (s.goodput_per_s) {
    std::snprintf(text, sizeof(text), "goodput    %.2f requests/s within the objectives\n",
                  *s.goodput_per_s);
    result += text;
  }
  std::snprintf(text, sizeof(text), "\n%-10s %10s %10s %10s %10s %10s\n", "ms", "mean", "p50",
                "p90", "p99", "max");
  result += text;
  result += row("TTFT", s.ttft_ms) + row("TPOT", s.tpot_ms) + row("ITL", s.itl_ms) +
            row("end to end", s.e2e_ms);
  return result;
}

}  // namespace fathom::ctl
