// status: is the server ready, what does it serve, how busy is it. With --watch again and again.
#include <chrono>
#include <cstdio>
#include <optional>
#include <ostream>
#include <thread>

#include "base/json.h"
#include "ctl/commands.h"
#include "ctl/prometheus_text.h"

namespace fathom::ctl {
namespace {

using Clock = std::chrono::steady_clock;

// One look at the server. Metrics are missing when their listener does not answer.
struct Look {
  bool ready = false;
  std::string state;  // "ready", or why not
  std::string model;
  std::string version;
  std::optional<PrometheusText> metrics;
  Clock::time_point at;
};

std::string text_member(const std::string& body, const char* key) {
  const Result<Json> parsed = parse_json(body);
  if (!parsed.is_ok() || !parsed->is_object()) return "";
  const auto found = parsed->find(key);
  return found != parsed->end() && found->is_string() ? found->get<std::string>() : "";
}

Result<Look> look(HttpClient& server, HttpClient& metrics) {
  Look result;
  result.at = Clock::now();
  FATHOM_ASSIGN(const HttpResponse ready, server.fetch({"GET", "/health/ready", ""}));
  result.ready = ready.head.status == 200;
  result.state = text_member(ready.body, "status");
  if (result.state.empty()) result.state = "HTTP " + std::to_string(ready.head.status);
  if (const auto version = server.fetch({"GET", "/version", ""}); version.is_ok()) {
    result.version = text_member(version->body, "version");
  }
  // Needs a key where the server asks for one; without it the name is left out.
  if (const auto model = first_model(server); model.is_ok()) result.model = *model;
  const auto text = metrics.fetch({"GET", "/metrics", ""});
  if (text.is_ok() && text->head.status == 200) result.metrics = PrometheusText::parse(text->body);
  return result;
}

// What a change between two looks says about the time between them.
struct Figures {
  std::optional<double> running, waiting, kv_usage, generated_per_s, prompt_per_s, requests_per_s;
  std::optional<double> ttft_p50, ttft_p99, itl_p50, itl_p99, prefix_hit_ratio;
};

Figures figures_of(const Look& now, const Look* before) {
  Figures f;
  if (!now.metrics) return f;
  const PrometheusText& m = *now.metrics;
  const PrometheusText* old = before != nullptr && before->metrics ? &*before->metrics : nullptr;
  f.running = m.value("fathom_requests_running");
  f.waiting = m.value("fathom_requests_waiting");
  f.kv_usage = m.value("fathom_kv_usage_ratio");
  const double seconds =
      before != nullptr ? std::chrono::duration<double>(now.at - before->at).count() : 0.0;
  const auto rate = [&](const char* name) -> std::optional<double> {
    const auto value = m.value(name);
    if (old == nullptr || !value || seconds <= 0.0) return std::nullopt;
    return (*value - old->value(name).value_or(0.0)) / seconds;
  };
  f.generated_per_s = rate("fathom_generation_tokens_total");
  f.prompt_per_s = rate("fathom_prompt_tokens_total");
  f.requests_per_s = rate("fathom_requests_total");
  f.ttft_p50 = m.quantile("fathom_time_to_first_token_seconds", 0.5, old);
  f.ttft_p99 = m.quantile("fathom_time_to_first_token_seconds", 0.99, old);
  f.itl_p50 = m.quantile("fathom_inter_token_latency_seconds", 0.5, old);
  f.itl_p99 = m.quantile("fathom_inter_token_latency_seconds", 0.99, old);
  const auto queries = m.value("fathom_prefix_cache_queries_total");
  const auto hits = m.value("fathom_prefix_cache_hits_total");
  if (queries && hits && *queries > 0.0) f.prefix_hit_ratio = *hits / *queries;
  return f;
}

Json json_or_null(const std::optional<double>& value) { return value ? Json(*value) : Json(); }

Json to_json(const Look& now, const Figures& f) {
  return {{"ready", now.ready},
          {"state", now.state},
          {"model", now.model},
          {"version", now.version},
          {"requests_running", json_or_null(f.running)},
          {"requests_waiting", json_or_null(f.waiting)},
          {"kv_usage_ratio", json_or_null(f.kv_usage)},
          {"prefix_hit_ratio", json_or_null(f.prefix_hit_ratio)},
          {"generated_tokens_per_second", json_or_null(f.generated_per_s)},
          {"prompt_tokens_per_second", json_or_null(f.prompt_per_s)},
          {"requests_per_second", json_or_null(f.requests_per_s)},
          {"ttft_seconds_p50", json_or_null(f.ttft_p50)},
          {"ttft_seconds_p99", json_or_null(f.ttft_p99)},
          {"itl_seconds_p50", json_or_null(f.itl_p50)},
          {"itl_seconds_p99", json_or_null(f.itl_p99)}};
}

std::string format(const std::optional<double>& value, double factor, const char* unit,
                   int digits = 0) {
  if (!value) return "-";
  char text[48];
  std::snprintf(text, sizeof(text), "%.*f%s", digits, *value * factor, unit);
  return text;
}

void print_table(Console& console, const Look& now, const Figures& f) {
  std::ostream& out = console.out;
  const char* color = now.ready ? "\x1b[32m" : "\x1b[33m";
  out << "state      " << (console.color ? color : "") << printable(now.state)
      << (console.color ? "\x1b[0m" : "") << "\n";
  out << "model      " << (now.model.empty() ? "-" : printable(now.model)) << "\n";
  out << "version    " << (now.version.empty() ? "-" : printable(now.version)) << "\n";
  if (!now.metrics) {
    out << "metrics    not reachable (--metrics-url)\n" << std::flush;
    return;
  }
  out << "running    " << format(f.running, 1, "") << ", waiting " << format(f.waiting, 1, "")
      << "\n";
  out << "KV cache   " << format(f.kv_usage, 100, " %", 1) << " used, prefix hits "
      << format(f.prefix_hit_ratio, 100, " %", 1) << "\n";
  if (f.generated_per_s) {
    out << "tokens     " << format(f.generated_per_s, 1, "/s", 1) << " generated, "
        << format(f.prompt_per_s, 1, "/s", 1) << " prompt, " << format(f.requests_per_s, 1, "/s", 2)
        << " requests\n";
  }
  out << "TTFT       p50 " << format(f.ttft_p50, 1e3, " ms", 1) << ", p99 "
      << format(f.ttft_p99, 1e3, " ms", 1) << "\n";
  out << "ITL        p50 " << format(f.itl_p50, 1e3, " ms", 1) << ", p99 "
      << format(f.itl_p99, 1e3, " ms", 1) << "\n"
      << std::flush;
}

void print_look(Console& console, const Look& now, const Look* before, bool redraw) {
  const Figures figures = figures_of(now, before);
  if (console.json) {
    console.out << to_json(now, figures).dump(-1, ' ', false, Json::error_handler_t::replace)
                << std::endl;
    return;
  }
  if (redraw && console.out_is_terminal) console.out << "\x1b[H\x1b[2J";
  print_table(console, now, figures);
}

bool interrupted(const Console& console) {
  return console.interrupted != nullptr && *console.interrupted;
}

void sleep_until_interrupted(const Console& console, double seconds) {
  const auto end = Clock::now() + std::chrono::duration<double>(seconds);
  while (!interrupted(console) && Clock::now() < end) {
    std::this_thread::sleep_for(std::chrono::milliseconds(50));
  }
}

}  // namespace

int run_status(const StatusOptions& options, Console& console) {
  Result<ClientConfig> config = client_config(options.server, console);
  if (!config.is_ok()) return report_error(console, config.status());
  config->bounds.idle = std::min(config->bounds.idle, std::chrono::milliseconds(10'000));
  ClientConfig metrics_config = *config;
  const Result<Url> metrics_url = parse_url(options.metrics_url);
  if (!metrics_url.is_ok()) return report_error(console, metrics_url.status());
  metrics_config.url = *metrics_url;
  if (metrics_config.url.tls && !metrics_config.tls) {
    Result<std::shared_ptr<const TlsClient>> tls = TlsClient::make(options.server.tls);
    if (!tls.is_ok()) return report_error(console, config_error(tls.status()));
    metrics_config.tls = *tls;
  }
  HttpClient server(std::move(config).value());
  HttpClient metrics(std::move(metrics_config));
  std::optional<Look> before;
  int code = kExitOk;
  while (true) {
    Result<Look> now = look(server, metrics);
    if (now.is_ok()) {
      print_look(console, *now, before ? &*before : nullptr, options.watch);
      code = now->ready ? kExitOk : kExitUnavailable;
      before = std::move(now).value();
    } else if (now.status().code() != Code::kCancelled) {
      code = report_error(console, now.status());
    }
    if (!options.watch) return code;
    sleep_until_interrupted(console, options.interval_seconds);
    if (interrupted(console)) return code;
  }
}

}  // namespace fathom::ctl
