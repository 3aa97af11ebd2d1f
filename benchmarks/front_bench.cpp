// Streamed tokens a second through the whole front end, and the CPU time that they cost: 256
// streams over HTTP, HTTPS and gRPC from a simulated engine to a reader beside it. A step's tokens
// are released when the reader has those of the step before, so that every token is an event and a
// write of its own.
// Usage: front_bench [--seconds=5] [--rounds=5] [--warmup=1] [--streams=256] [--tokens=512]
//                    [--free] [--only=http] [--model=DIR]
// --tokens: of an answer, a half less or more; --free: the engine does not wait for the reader, and
// events share writes. The result is JSON on stdout.
#include <algorithm>
#include <cmath>
#include <cstdio>
#include <cstdlib>
#include <nlohmann/json.hpp>
#include <string>
#include <string_view>
#include <thread>
#include <vector>

#include "base/version.h"
#include "front/cpu_time.h"
#include "front/front_server.h"
#include "front/reader.h"
#include "net/test_pki.h"

namespace fathom::bench {
namespace {

struct Settings {
  double seconds = 5.0;
  int rounds = 5;
  double warmup_s = 1.0;
  int32_t streams = 256;
  int32_t tokens = 512;
  bool free_running = false;
  std::string only;
  std::string model_dir = FATHOM_SOURCE_DIR "/deploy/demo-model";
};

struct Case {
  const char* name;
  Wire wire;
  bool chat;
};
constexpr Case kCases[] = {
    {"http_completions", Wire::kHttp, false},   {"http_chat", Wire::kHttp, true},
    {"https_completions", Wire::kHttps, false}, {"grpc_complete", Wire::kGrpc, false},
    {"grpc_chat", Wire::kGrpc, true},
};

// Everything that is counted, at one moment.
struct Sample {
  double at_s = 0;
  double server_cpu_s = 0;
  double reader_cpu_s = 0;
  double machine_cpu_s = 0;
  uint64_t tokens = 0;
  uint64_t reads = 0;
  FrontCounts front;
};

Sample take_sample(const FrontServer& server, const Reader& reader, const TokenGate& gate) {
  Sample s;
  s.front = server.counts();
  s.tokens = gate.tokens();
  s.reads = gate.reads();
  s.server_cpu_s = process_cpu_s();
  s.reader_cpu_s = reader.cpu_s();
  s.machine_cpu_s = machine_cpu_s();
  s.at_s = steady_s();
  return s;
}

using Json = nlohmann::ordered_json;

double rounded(double value, double unit) { return std::round(value / unit) * unit; }

Json describe(const Sample& a, const Sample& b) {
  const double seconds = b.at_s - a.at_s;
  const auto tokens = static_cast<double>(std::max<uint64_t>(1, b.tokens - a.tokens));
  const double sim_s = b.front.sim_cpu_s - a.front.sim_cpu_s;
  const double server_s = b.server_cpu_s - a.server_cpu_s - sim_s;
  const double reader_s = b.reader_cpu_s - a.reader_cpu_s;
  const double others_s = b.machine_cpu_s - a.machine_cpu_s - server_s - reader_s - sim_s;
  Json out;
  out["tokens_per_s"] = rounded(tokens / seconds, 1);
  out["server_cpu_us_per_token"] = rounded(server_s / tokens * 1e6, 0.01);
  out["reader_cpu_us_per_token"] = rounded(reader_s / tokens * 1e6, 0.01);
  out["simulation_cpu_us_per_token"] = rounded(sim_s / tokens * 1e6, 0.01);
  out["server_cpu_s_per_1000_tokens"] = rounded(server_s / tokens * 1e3, 1e-5);
  out["cores_used"] = rounded((server_s + reader_s + sim_s) / seconds, 0.01);
  out["cores_taken_by_others"] = rounded(std::max(0.0, others_s) / seconds, 0.01);
  out["tokens_per_step"] =
      rounded(tokens / std::max<uint64_t>(1, b.front.steps - a.front.steps), 1);
  out["tokens_per_read"] = rounded(tokens / std::max<uint64_t>(1, b.reads - a.reads), 0.01);
  if (b.front.socket_writes > a.front.socket_writes) {
    out["writes_per_token"] =
        rounded(static_cast<double>(b.front.socket_writes - a.front.socket_writes) / tokens, 0.001);
    out["bytes_per_token"] =
        rounded(static_cast<double>(b.front.bytes_sent - a.front.bytes_sent) / tokens, 1);
  }
  return out;
}

void sleep_s(double seconds) {
  std::this_thread::sleep_for(std::chrono::duration<double>(seconds));
}

// The round with the median speed, and the speeds of all.
Json measure(const Case& what, const Settings& settings, const FrontServer& server, Reader& reader,
             const TokenGate& gate, std::string& failure) {
  ReadOrder order;
  order.wire = what.wire;
  order.chat = what.chat;
  order.port = what.wire == Wire::kHttp    ? server.http_port()
               : what.wire == Wire::kHttps ? server.https_port()
                                           : server.grpc_port();
  order.streams = settings.streams;
  order.tokens_min = std::max(1, settings.tokens / 2);
  order.tokens_max = std::max(1, settings.tokens * 3 / 2);
  reader.begin(order);
  sleep_s(settings.warmup_s);
  std::vector<Json> rounds;
  for (int i = 0; i < settings.rounds; ++i) {
    const Sample before = take_sample(server, reader, gate);
    sleep_s(settings.seconds);
    rounds.push_back(describe(before, take_sample(server, reader, gate)));
  }
  const ReadReport report = reader.end();
  if (report.failed()) failure = std::string(what.name) + ": " + report.failure.data();
  const auto speed = [](const Json& round) { return round["tokens_per_s"].get<double>(); };
  std::ranges::sort(rounds, {}, speed);
  Json out = rounds[rounds.size() / 2];
  out["rounds_tokens_per_s"] = Json::array();
  for (const Json& round : rounds) out["rounds_tokens_per_s"].push_back(speed(round));
  out["answers_checked"] = report.answers;
  if (report.answers == 0 && failure.empty())
    failure = std::string(what.name) + ": no answer ended";
  std::fprintf(stderr, "%-18s %8.0f tokens/s  %5.2f us server, %5.2f us reader a token\n",
               what.name, speed(out), out["server_cpu_us_per_token"].get<double>(),
               out["reader_cpu_us_per_token"].get<double>());
  return out;
}

bool read_settings(int argc, char** argv, Settings& out) {
  for (int i = 1; i < argc; ++i) {
    const std::string_view text(argv[i]);
    const size_t equals = text.find('=');
    const std::string_view key = text.substr(0, equals);
    const std::string value(equals == text.npos ? "" : text.substr(equals + 1));
    if (key == "--seconds")
      out.seconds = std::atof(value.c_str());
    else if (key == "--rounds")
      out.rounds = std::max(1, std::atoi(value.c_str()));
    else if (key == "--warmup")
      out.warmup_s = std::atof(value.c_str());
    else if (key == "--streams")
      out.streams = std::max(1, std::atoi(value.c_str()));
    else if (key == "--tokens")
      out.tokens = std::max(1, std::atoi(value.c_str()));
    else if (key == "--free")
      out.free_running = true;
    else if (key == "--only")
      out.only = value;
    else if (key == "--model")
      out.model_dir = value;
    else
      return false;
  }
  return true;
}

int run(const Settings& settings) {
  net::TestPki pki;
  const auto authority = pki.authority("ca");
  const auto certificate =
      pki.leaf(authority, "server", {.san = "IP:127.0.0.1,DNS:localhost", .usage = "serverAuth"});
  const auto client = pki.leaf(authority, "client", {.san = "URI:spiffe://bench/reader"});
  auto gate = TokenGate::make();
  if (!gate.is_ok()) return std::fprintf(stderr, "%s\n", gate.status().message().c_str()), 1;
  auto reader = Reader::start(**gate, {authority.cert_file, client.cert_file, client.key_file});
  if (!reader.is_ok()) return std::fprintf(stderr, "%s\n", reader.status().message().c_str()), 1;
  FrontServerOptions options;
  options.model_dir = settings.model_dir;
  options.certificate_file = certificate.cert_file;
  options.key_file = certificate.key_file;
  options.client_ca_file = authority.cert_file;
  options.streams = settings.streams;
  options.tokens_per_stream_max = settings.tokens * 3 / 2 + 1;
  if (!settings.free_running) options.unread_max = 0;
  auto server = FrontServer::start(options, **gate);
  if (!server.is_ok()) return std::fprintf(stderr, "%s\n", server.status().message().c_str()), 1;
  Json out;
  out["what"] = "front end with a simulated engine, reader beside it";
  out["version"] = version_line();
  out["cores"] = machine_cores();
  out["streams"] = settings.streams;
  out["paced_by_reader"] = !settings.free_running;
  out["seconds_per_round"] = settings.seconds;
  std::string failure;
  for (const Case& what : kCases) {
    if (!std::string_view(what.name).starts_with(settings.only)) continue;
    out[what.name] = measure(what, settings, **server, **reader, **gate, failure);
    if (!failure.empty()) return std::fprintf(stderr, "%s\n", failure.c_str()), 1;
  }
  std::printf("%s\n", out.dump(1).c_str());
  return 0;
}

}  // namespace
}  // namespace fathom::bench

int main(int argc, char** argv) {
  fathom::bench::Settings settings;
  if (!fathom::bench::read_settings(argc, argv, settings)) {
    std::fprintf(stderr,
                 "usage: front_bench [--seconds=5] [--rounds=5] [--warmup=1] [--streams=256]\n"
                 "                   [--tokens=512] [--free] [--only=http] [--model=DIR]\n");
    return 2;
  }
  return fathom::bench::run(settings);
}
