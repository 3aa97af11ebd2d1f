// Streamed tokens a second through the whole front end, and the CPU time that they cost: 256
// streams over HTTP, HTTPS and gRPC from a simulated engine to a reader beside it. A step is handed
// out when the reader has the tokens of the steps before, but for a quarter of the last, so that a
// token is an event and a write of its own and the threads do not stand idle between steps.
// Usage: front_bench [--seconds=5] [--rounds=5] [--warmup=1] [--streams=256] [--tokens=512]
//                    [--unread=25] [--free] [--only=http] [--model=DIR]
// --tokens: of an answer, up to a half less or more; --unread: percent of a step; --free: the
// engine does not wait for the reader, and events share writes. The result is JSON on stdout.
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
#include "front/floor_server.h"
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
  int32_t unread_percent = 25;
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

// `server`: null while the floor is measured.
Sample take_sample(const FrontServer* server, const Reader& reader, const TokenGate& gate) {
  Sample s;
  if (server != nullptr) s.front = server->counts();
  s.tokens = gate.tokens();
  s.reads = gate.reads();
  s.server_cpu_s = process_cpu_s();
  s.reader_cpu_s = reader.cpu_s();
  s.machine_cpu_s = machine_cpu_s();
  s.at_s = steady_s();
  return s;
}

using Json = nlohmann::ordered_json;

// So many digits behind the point: more are noise.
double rounded(double value, int digits) {
  const double scale = std::pow(10.0, digits);
  return std::round(value * scale) / scale;
}

Json describe(const Sample& a, const Sample& b) {
  const double seconds = b.at_s - a.at_s;
  const auto tokens = static_cast<double>(std::max<uint64_t>(1, b.tokens - a.tokens));
  const double sim_s = b.front.sim_cpu_s - a.front.sim_cpu_s;
  const double server_s = b.server_cpu_s - a.server_cpu_s - sim_s;
  const double reader_s = b.reader_cpu_s - a.reader_cpu_s;
  const double others_s = b.machine_cpu_s - a.machine_cpu_s - server_s - reader_s - sim_s;
  Json out;
  out["tokens_per_s"] = rounded(tokens / seconds, 0);
  out["server_cpu_us_per_token"] = rounded(server_s / tokens * 1e6, 2);
  out["reader_cpu_us_per_token"] = rounded(reader_s / tokens * 1e6, 2);
  out["simulation_cpu_us_per_token"] = rounded(sim_s / tokens * 1e6, 2);
  const double engine_s = b.front.engine_cpu_s - a.front.engine_cpu_s - sim_s;
  out["of_it_engine_cpu_us_per_token"] = rounded(engine_s / tokens * 1e6, 2);
  out["server_cpu_s_per_1000_tokens"] = rounded(server_s / tokens * 1e3, 5);
  out["cores_used"] = rounded((server_s + reader_s + sim_s) / seconds, 2);
  out["cores_taken_by_others"] = rounded(std::max(0.0, others_s) / seconds, 2);
  if (b.front.steps > a.front.steps) {
    out["tokens_per_step"] =
        rounded(tokens / static_cast<double>(b.front.steps - a.front.steps), 0);
  }
  out["tokens_per_read"] = rounded(tokens / std::max<uint64_t>(1, b.reads - a.reads), 2);
  if (b.front.socket_writes > a.front.socket_writes) {
    out["writes_per_token"] =
        rounded(static_cast<double>(b.front.socket_writes - a.front.socket_writes) / tokens, 3);
    out["bytes_per_token"] =
        rounded(static_cast<double>(b.front.bytes_sent - a.front.bytes_sent) / tokens, 0);
  }
  return out;
}

void sleep_s(double seconds) {
  std::this_thread::sleep_for(std::chrono::duration<double>(seconds));
}

// What is measured with: the processes and their common counter.
struct Rig {
  const Settings& settings;
  TokenGate& gate;
  Reader& reader;
  const FrontServer* server = nullptr;  // null while the floor is measured
};

// The round with the median speed, and the speeds of all.
Result<Json> measure(const Rig& rig, const Case& what, uint16_t port) {
  const int32_t tokens = rig.settings.tokens;
  rig.reader.begin({what.wire, what.chat, port, rig.settings.streams, std::max(1, tokens / 2),
                    std::max(1, tokens * 3 / 2)});
  sleep_s(rig.settings.warmup_s);
  std::vector<Json> rounds;
  for (int i = 0; i < rig.settings.rounds; ++i) {
    const Sample before = take_sample(rig.server, rig.reader, rig.gate);
    sleep_s(rig.settings.seconds);
    rounds.push_back(describe(before, take_sample(rig.server, rig.reader, rig.gate)));
  }
  const ReadReport report = rig.reader.end();
  if (report.failed()) return internal_error(std::string(what.name) + ": " + report.failure.data());
  if (report.answers == 0) return internal_error(std::string(what.name) + ": no answer has ended");
  const auto speed = [](const Json& round) { return round["tokens_per_s"].get<double>(); };
  std::ranges::sort(rounds, {}, speed);
  Json out = rounds[rounds.size() / 2];
  out["rounds_tokens_per_s"] = Json::array();
  for (const Json& round : rounds) out["rounds_tokens_per_s"].push_back(speed(round));
  out["answers_checked"] = report.answers;
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
    else if (key == "--unread")
      out.unread_percent = std::clamp(std::atoi(value.c_str()), 0, 100);
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

uint16_t port_of(const FrontServer& server, Wire wire) {
  switch (wire) {
    case Wire::kHttp: return server.http_port();
    case Wire::kHttps: return server.https_port();
    case Wire::kGrpc: return server.grpc_port();
  }
  return 0;
}

// The floor has gone before the front end is made: they would wait on the same gate.
Status measure_all(Rig rig, FrontServerOptions options, Json& out) {
  const auto wanted = [&](const Case& what) {
    return std::string_view(what.name).starts_with(rig.settings.only);
  };
  constexpr Case kFloor = {"floor", Wire::kHttp, false};
  if (wanted(kFloor)) {
    FATHOM_ASSIGN(const auto floor, FloorServer::start(rig.gate));
    FATHOM_ASSIGN(out[kFloor.name], measure(rig, kFloor, floor->port()));
  }
  options.streams = rig.settings.streams;
  options.tokens_per_stream_max = rig.settings.tokens * 3 / 2 + 1;
  if (!rig.settings.free_running) {
    options.unread_max = static_cast<uint64_t>(options.streams * rig.settings.unread_percent / 100);
  }
  FATHOM_ASSIGN(const auto server, FrontServer::start(options, rig.gate));
  rig.server = server.get();
  for (const Case& what : kCases) {
    if (!wanted(what)) continue;
    FATHOM_ASSIGN(out[what.name], measure(rig, what, port_of(*server, what.wire)));
  }
  return Status::ok();
}

Status run(const Settings& settings) {
  net::TestPki pki;
  const auto authority = pki.authority("ca");
  const auto certificate =
      pki.leaf(authority, "server", {.san = "IP:127.0.0.1,DNS:localhost", .usage = "serverAuth"});
  const auto client = pki.leaf(authority, "client", {.san = "URI:spiffe://bench/reader"});
  FATHOM_ASSIGN(const auto gate, TokenGate::make());
  FATHOM_ASSIGN(const auto reader,
                Reader::start(*gate, {authority.cert_file, client.cert_file, client.key_file}));
  Json out;
  out["what"] = "front end with a simulated engine, reader beside it";
  out["version"] = version_line();
  out["cores"] = machine_cores();
  out["streams"] = settings.streams;
  out["unread_percent_of_a_step_max"] =
      settings.free_running ? Json("no bound") : Json(settings.unread_percent);
  out["seconds_per_round"] = settings.seconds;
  FrontServerOptions options;
  options.model_dir = settings.model_dir;
  options.certificate_file = certificate.cert_file;
  options.key_file = certificate.key_file;
  options.client_ca_file = authority.cert_file;
  FATHOM_RETURN_IF_ERROR(measure_all({settings, *gate, *reader}, std::move(options), out));
  std::printf("%s\n", out.dump(1).c_str());
  return Status::ok();
}

}  // namespace
}  // namespace fathom::bench

int main(int argc, char** argv) {
  fathom::bench::Settings settings;
  if (!fathom::bench::read_settings(argc, argv, settings)) {
    std::fprintf(stderr,
                 "usage: front_bench [--seconds=5] [--rounds=5] [--warmup=1] [--streams=256]\n"
                 "                   [--tokens=512] [--unread=25] [--free] [--only=http]\n"
                 "                   [--model=DIR]\n");
    return 2;
  }
  const fathom::Status status = fathom::bench::run(settings);
  if (status.is_ok()) return 0;
  std::fprintf(stderr, "%s\n", status.message().c_str());
  return 1;
}
