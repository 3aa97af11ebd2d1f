// Build order: signals, log, spawner, model's text side, engine, work pool, listeners. Teardown is
// the reverse.
#include "daemon/daemon.h"

#include <poll.h>
#include <signal.h>
#include <sys/signalfd.h>
#include <unistd.h>

#include <algorithm>
#include <chrono>
#include <functional>
#include <thread>
#include <utility>

#include "api/api_server.h"
#include "api/grpc_server.h"
#include "auth/api_keys.h"
#include "base/clock.h"
#include "base/file.h"
#include "base/log.h"
#include "base/metrics.h"
#include "base/version.h"
#include "daemon/engine_metrics.h"
#include "daemon/front_metrics.h"
#include "daemon/gpu_metrics.h"
#include "daemon/model_setup.h"
#include "daemon/service_notify.h"
#include "engine/remote_engine.h"
#include "engine/supervisor.h"
#include "net/http_server.h"

namespace fathom {
namespace {

// prefill_slowdown and prefill_step_ms where they are auto.
constexpr double kGpuPrefillSlowdown = 2.0;
constexpr int64_t kGpuPrefillStepUs = 35'000;

constexpr int kTickMs = 200;
// The defaults of watchdog_seconds. A large model's prefill may take minutes on the CPU; on a GPU
// it is seconds even on kernels that were not made for speed.
constexpr double kWatchdogSeconds = 300;
constexpr double kWatchdogSecondsGpu = 60;
constexpr int kPollMs = 20;
// For what cut requests are told to reach clients that read.
constexpr int64_t kFarewellMs = 500;

uint32_t milliseconds(double seconds) { return static_cast<uint32_t>(seconds * 1000); }

// SIGTERM, SIGINT and SIGHUP come as reads of a descriptor; every thread made later inherits the
// mask.
Result<UniqueFd> take_signals() {
  sigset_t set;
  sigemptyset(&set);
  for (int number : {SIGTERM, SIGINT, SIGHUP}) sigaddset(&set, number);
  pthread_sigmask(SIG_BLOCK, &set, nullptr);
  ::signal(SIGPIPE, SIG_IGN);
  const int fd = ::signalfd(-1, &set, SFD_CLOEXEC | SFD_NONBLOCK);
  if (fd < 0) return internal_error("signalfd failed");
  return UniqueFd(fd);
}

EngineOptions engine_options(const Config& config, const std::string& directory,
                             const api::ServedModel& model) {
  EngineOptions options;
  options.model_dir = directory;
  if (config.model.load_format == LoadFormatChoice::kSynthetic) {
    options.load_format = EngineOptions::LoadFormat::kSynthetic;
  }
  options.numerics = config.engine.numerics;
  options.fp8_cache = config.kv.kv_cache_dtype == KvDtypeChoice::kFp8;
  switch (config.engine.device) {
    case DeviceChoice::kAuto: options.device = EngineOptions::Device::kAuto; break;
    case DeviceChoice::kCpu: options.device = EngineOptions::Device::kCpu; break;
    case DeviceChoice::kCuda: options.device = EngineOptions::Device::kCuda; break;
  }
  options.tensor_parallel = static_cast<int32_t>(config.parallel.tensor_parallel_size);
  options.pipeline_parallel = static_cast<int32_t>(config.parallel.pipeline_parallel_size);
  options.max_model_len = model.max_model_len;
  options.max_num_seqs = static_cast<int32_t>(config.scheduler.max_num_seqs);
  const bool on_gpu = config.engine.device == DeviceChoice::kCuda;
  options.max_num_batched_tokens = static_cast<int32_t>(config.batched_tokens_max(on_gpu));
  options.block_tokens = static_cast<int32_t>(config.kv.block_size);
  options.kv_cache_bytes = config.kv.kv_cache_memory_bytes;
  options.memory_fraction = config.kv.gpu_memory_utilization;
  options.speculative_tokens = static_cast<int32_t>(config.engine.speculative_tokens);
  options.prefix_caching = config.kv.enable_prefix_caching;
  options.deterministic = config.engine.deterministic;
  options.pack_weights = config.engine.pack_weights;
  options.threads = static_cast<int32_t>(config.engine.cpu_threads.value_or(0));
  options.seed = static_cast<uint64_t>(config.model.seed);
  options.vocab_tokens = model.vocab;
  if (config.scheduler.queue_seconds > 0) {
    options.queued_us_max = static_cast<int64_t>(config.scheduler.queue_seconds * 1e6);
  }
  if (config.scheduler.prefill_chunk_tokens) {
    options.prefill_chunk_tokens = static_cast<int32_t>(*config.scheduler.prefill_chunk_tokens);
  }
  const bool bounds_prefills = on_gpu && !options.deterministic;
  options.prefill_slowdown = config.scheduler.prefill_slowdown;
  if (!options.prefill_slowdown && bounds_prefills) options.prefill_slowdown = kGpuPrefillSlowdown;
  if (config.scheduler.prefill_step_ms) {
    options.prefill_step_us = static_cast<int64_t>(*config.scheduler.prefill_step_ms * 1000.0);
  } else if (bounds_prefills) {
    options.prefill_step_us = kGpuPrefillStepUs;
  }
  options.queued_requests_max = static_cast<int32_t>(config.scheduler.max_queued_requests);
  options.queued_tokens_max = config.scheduler.max_queued_tokens;
  options.log_json = config.logging.log_format == LogFormat::kJson;
  options.log_level = static_cast<int32_t>(config.logging.log_level);
  return options;
}

api::ApiLimits api_limits(const Config& config) {
  api::ApiLimits limits;
  limits.json_depth_max = config.limits.max_json_depth;
  limits.body_bytes_max = config.limits.max_body_bytes;
  limits.choices_max = static_cast<int32_t>(config.limits.max_n);
  limits.prompts_max = static_cast<int32_t>(config.limits.max_prompts);
  limits.messages_max = static_cast<int32_t>(config.limits.max_messages);
  limits.stop_max = static_cast<int32_t>(config.limits.max_stop);
  limits.logprobs_max = static_cast<int32_t>(config.limits.max_logprobs);
  limits.logit_bias_max = static_cast<int32_t>(config.limits.max_logit_bias);
  limits.keepalive_comment_ms = milliseconds(config.limits.keep_alive_comment_seconds);
  limits.request_deadline_ms = milliseconds(config.scheduler.request_deadline_seconds);
  return limits;
}

net::HttpLimits http_limits(const Config& config) {
  net::HttpLimits limits;
  limits.header_bytes_max = config.limits.max_header_bytes;
  limits.header_fields_max = config.limits.max_header_fields;
  limits.body_bytes_max = config.limits.max_body_bytes;
  limits.write_buffer_bytes_max = config.limits.max_stream_buffer_bytes;
  limits.connections_max = config.limits.max_connections;
  limits.header_timeout_ms = milliseconds(config.limits.header_seconds);
  limits.idle_timeout_ms = milliseconds(config.limits.idle_seconds);
  limits.tls_handshake_timeout_ms = milliseconds(config.limits.tls_handshake_seconds);
  limits.write_stall_ms = milliseconds(config.limits.write_stall_seconds);
  limits.body_rate_bytes_per_s_min = static_cast<uint32_t>(config.limits.min_body_rate_bytes);
  return limits;
}

}  // namespace

class Daemon::Impl {
 public:
  Status build(const Config& config);
  int run();

 private:
  Status build_engine();
  void build_context();
  Status build_security();
  Status build_listeners();
  Status build_grpc();
  net::ListenerConfig listener(const char* name, const std::string& host, int64_t port,
                               auth::ListenerRole role, std::span<const api::Route> routes);
  auth::AuthConfig auth_config(auth::ListenerRole role) const;
  std::string metrics_text();
  bool wait_for_signal(int timeout_ms);
  void tick();
  int drain();
  void wait_until(int64_t time_us, const std::function<bool()>& over);

  Config config_;
  Logger log_{"daemon"};
  SystemClock clock_;
  UniqueFd signals_;
  std::unique_ptr<EngineSupervisor> supervisor_;
  std::shared_ptr<RemoteEngine> engine_;
  MetricsRegistry registry_;
  std::unique_ptr<Metrics> metrics_;
  std::unique_ptr<EngineMetrics> engine_metrics_;
  std::unique_ptr<FrontMetrics> front_metrics_;
  std::unique_ptr<GpuMonitor> gpu_monitor_;
  std::unique_ptr<KeyedHasher> hasher_;
  std::unique_ptr<api::WorkPool> pool_;
  api::ApiContext context_;
  api::ServerState state_;
  std::shared_ptr<const auth::ApiKeyStore> api_keys_;
  std::shared_ptr<net::TlsContextSlot> tls_;
  std::unique_ptr<net::HttpServer> http_;
  std::unique_ptr<api::GrpcServer> grpc_;
  ServiceNotify notify_;
  bool announced_ = false;
  bool serving_ = false;
};

Status Daemon::Impl::build(const Config& config) {
  config_ = config;
  FATHOM_ASSIGN(signals_, take_signals());
  start_logging(
      {.level = config.logging.log_level, .format = config.logging.log_format, .write = {}});
  log_.info("starting", {{"version", version_line()}, {"pid", static_cast<int64_t>(::getpid())}});
  FATHOM_ASSIGN(supervisor_, EngineSupervisor::start());
  FATHOM_RETURN_IF_ERROR(build_engine());
  build_context();
  FATHOM_RETURN_IF_ERROR(build_security());
  FATHOM_RETURN_IF_ERROR(build_listeners());
  return build_grpc();
}

Status Daemon::Impl::build_engine() {
  FATHOM_ASSIGN(const std::string directory, find_model_directory(config_));
  FATHOM_ASSIGN(context_.model, read_served_model(config_, directory, clock_));
  RemoteEngineOptions options;
  options.engine = engine_options(config_, directory, context_.model);
  options.hang_us =
      static_cast<int64_t>(config_.engine.watchdog_seconds.value_or(kWatchdogSeconds) * 1e6);
  if (!config_.engine.watchdog_seconds && config_.engine.numerics == Numerics::kNative) {
    options.hang_us_gpu = static_cast<int64_t>(kWatchdogSecondsGpu * 1e6);
  }
  options.restarts_max = static_cast<int32_t>(config_.engine.max_engine_restarts);
  options.restart_window_us =
      static_cast<int64_t>(config_.engine.engine_restart_window_seconds * 1e6);
  FATHOM_ASSIGN(std::unique_ptr<RemoteEngine> engine,
                RemoteEngine::start(*supervisor_, std::move(options)));
  engine_ = std::move(engine);
  context_.model.engine = engine_;
  log_.info("loading", {{"model", context_.model.name}, {"directory", directory}});
  return Status::ok();
}

void Daemon::Impl::build_context() {
  metrics_ = std::make_unique<Metrics>(registry_, context_.model.name);
  engine_metrics_ = std::make_unique<EngineMetrics>(*engine_, *metrics_);
  front_metrics_ = std::make_unique<FrontMetrics>(*metrics_);
  gpu_monitor_ = std::make_unique<GpuMonitor>(
      *metrics_, [engine = engine_] { return engine->info().device_id; });
  hasher_ = std::make_unique<KeyedHasher>(KeyedHasher::random_key());
  const auto cores = static_cast<int32_t>(std::thread::hardware_concurrency());
  pool_ = std::make_unique<api::WorkPool>(std::clamp(cores / 2, 2, 8));
  context_.limits = api_limits(config_);
  context_.pool = pool_.get();
  context_.clock = &clock_;
  context_.metrics = metrics_.get();
  context_.hasher = hasher_.get();
  context_.version = std::string(version());
  context_.share_prefixes = config_.kv.share_prefix_across_tenants;
  context_.allow_control_tokens = config_.model.allow_control_tokens;
  context_.access_log = config_.logging.access_log;
  metrics_->gauge(GaugeId::kBuildInfo, {version(), commit()}).set(1);
  state_.ready_bound_us = kReadyBoundUs;
}

Status Daemon::Impl::build_security() {
  const SecurityConfig& security = config_.security;
  if (!security.api_key_file.empty()) {
    FATHOM_ASSIGN(auth::ApiKeyStore keys, auth::ApiKeyStore::load(security.api_key_file));
    api_keys_ = std::make_shared<const auth::ApiKeyStore>(std::move(keys));
  }
  if (!security.tls_cert.empty()) {
    FATHOM_ASSIGN(auto tls, net::TlsContext::load({.cert_file = security.tls_cert,
                                                   .key_file = security.tls_key,
                                                   .client_ca_file = security.tls_client_ca}));
    tls_ = std::make_shared<net::TlsContextSlot>(std::move(tls));
  }
  return Status::ok();
}

Status Daemon::Impl::build_listeners() {
  const ServerConfig& server = config_.server;
  net::HttpServerConfig http;
  http.io_threads = static_cast<size_t>(server.io_threads.value_or(0));
  http.listeners.push_back(
      listener("http", server.host, server.port, auth::ListenerRole::kData, api::data_routes()));
  http.listeners.push_back(listener("admin", server.admin_host, server.admin_port,
                                    auth::ListenerRole::kAdmin, api::admin_routes()));
  http.listeners.push_back(listener("metrics", server.metrics_host, server.metrics_port,
                                    auth::ListenerRole::kMetrics, api::metrics_routes()));
  const std::vector<std::string> names = {"http", "admin", "metrics"};
  FATHOM_ASSIGN(http_, net::HttpServer::start(std::move(http)));
  for (size_t i = 0; i < names.size(); ++i) {
    log_.info("listening",
              {{"listener", names[i]}, {"port", static_cast<int64_t>(http_->port(i))}});
  }
  return Status::ok();
}

// gRPC has its own TLS stack: it takes the same files' contents.
Status Daemon::Impl::build_grpc() {
  constexpr size_t kPemBytesMax = size_t{1} << 20;
  const SecurityConfig& security = config_.security;
  api::GrpcServerOptions options;
  options.context = &context_;
  options.state = &state_;
  options.auth = auth_config(auth::ListenerRole::kData);
  options.host = config_.server.host;
  options.port = static_cast<uint16_t>(config_.server.grpc_port);
  if (!security.tls_cert.empty()) {
    FATHOM_ASSIGN(options.certificate, read_file(security.tls_cert, kPemBytesMax));
    FATHOM_ASSIGN(options.key, read_file(security.tls_key, kPemBytesMax));
  }
  if (!security.tls_client_ca.empty()) {
    FATHOM_ASSIGN(options.client_ca, read_file(security.tls_client_ca, kPemBytesMax));
  }
  options.message_bytes_max = static_cast<int32_t>(config_.limits.max_body_bytes);
  options.metadata_bytes_max = static_cast<int32_t>(config_.limits.max_header_bytes);
  options.streams_per_connection_max =
      static_cast<int32_t>(config_.limits.max_streams_per_connection);
  FATHOM_ASSIGN(grpc_, api::GrpcServer::start(std::move(options)));
  log_.info("listening", {{"listener", "grpc"}, {"port", static_cast<int64_t>(grpc_->port())}});
  return Status::ok();
}

auth::AuthConfig Daemon::Impl::auth_config(auth::ListenerRole role) const {
  const bool data = role == auth::ListenerRole::kData;
  return {.role = role,
          .api_keys = data ? api_keys_ : nullptr,
          .client_certificate_required = data && !config_.security.tls_client_ca.empty()};
}

net::ListenerConfig Daemon::Impl::listener(const char* name, const std::string& host, int64_t port,
                                           auth::ListenerRole role,
                                           std::span<const api::Route> routes) {
  const bool data = role == auth::ListenerRole::kData;
  api::ApiServerOptions options;
  options.context = &context_;
  options.state = &state_;
  options.auth = auth_config(role);
  options.routes = routes;
  options.metrics_text = [this] { return metrics_text(); };
  net::ListenerConfig out;
  out.name = name;
  out.host = host;
  out.port = static_cast<uint16_t>(port);
  out.tls = data ? tls_ : nullptr;
  out.handler = std::make_shared<api::ApiServer>(std::move(options));
  out.limits = http_limits(config_);
  return out;
}

std::string Daemon::Impl::metrics_text() {
  engine_metrics_->update(engine_ready(engine_->health(), clock_.now_us(), state_.ready_bound_us));
  front_metrics_->update(http_->stats(), engine_->restarts());
  return registry_.text(config_.metrics.metrics_compat == MetricsCompat::kVllm);
}

// True when a signal asks for the end.
bool Daemon::Impl::wait_for_signal(int timeout_ms) {
  pollfd entry{signals_.get(), POLLIN, 0};
  if (::poll(&entry, 1, timeout_ms) <= 0) return false;
  signalfd_siginfo info{};
  const bool got = ::read(signals_.get(), &info, sizeof info) == sizeof info;
  return got && info.ssi_signo != SIGHUP;
}

void Daemon::Impl::tick() {
  const EngineHealth health = engine_->health();
  const bool ready = engine_ready(health, clock_.now_us(), state_.ready_bound_us);
  if (std::exchange(serving_, ready) != ready) grpc_->set_serving(ready);
  if (ready && !std::exchange(announced_, true)) {
    const EngineInfo info = engine_->info();
    log_.info(
        "ready",
        {{"model", context_.model.name}, {"device", info.device}, {"numerics", info.numerics}});
  }
  notify_.update(health, ready || health.state == EngineState::kLoading);
}

int Daemon::Impl::run() {
  while (!wait_for_signal(kTickMs)) {
    tick();
    const EngineHealth health = engine_->health();
    if (health.state == EngineState::kFailed && !announced_) {
      log_.error("the engine cannot start", {{"reason", health.status.message()}});
      http_->stop();
      return 1;
    }
  }
  return drain();
}

// Not ready at once, still serving while load balancers notice; then new requests are refused and
// running ones finish within the bound; then what is left is told so, and everything is cut.
// Health, metrics and refusals are answered until nothing runs.
int Daemon::Impl::drain() {
  const ServerConfig& server = config_.server;
  log_.info("draining",
            {{"delay_seconds", server.drain_delay_seconds}, {"seconds", server.drain_seconds}});
  state_.leaving.store(true);
  grpc_->set_serving(false);
  notify_.stopping();
  const int64_t refuse_us =
      clock_.now_us() + int64_t{milliseconds(server.drain_delay_seconds)} * 1000;
  wait_until(refuse_us, [this] { return wait_for_signal(0); });
  state_.draining.store(true);
  engine_->drain();
  const int64_t end_us = clock_.now_us() + int64_t{milliseconds(server.drain_seconds)} * 1000;
  wait_until(end_us, [this] { return engine_->health().state == EngineState::kStopped; });
  if (engine_->health().state != EngineState::kStopped) engine_->cut();
  const auto left_ms = [&] {
    return std::max<int64_t>(kFarewellMs, (end_us - clock_.now_us()) / 1000);
  };
  http_->begin_drain();
  const bool clean = http_->wait_drained(std::chrono::milliseconds(left_ms()));
  grpc_->stop(left_ms());
  log_.info("stopped", {{"clean", clean}});
  http_->stop();
  pool_.reset();
  context_.model.engine.reset();
  engine_.reset();
  return 0;
}

// Looks every kPollMs until `over`, or until the time has come.
void Daemon::Impl::wait_until(int64_t time_us, const std::function<bool()>& over) {
  while (clock_.now_us() < time_us && !over()) {
    std::this_thread::sleep_for(std::chrono::milliseconds(kPollMs));
  }
}

Daemon::Daemon(std::unique_ptr<Impl> impl) : impl_(std::move(impl)) {}
Daemon::~Daemon() = default;

Result<std::unique_ptr<Daemon>> Daemon::start(const Config& config) {
  auto impl = std::make_unique<Impl>();
  FATHOM_RETURN_IF_ERROR(impl->build(config));
  return std::unique_ptr<Daemon>(new Daemon(std::move(impl)));
}

int Daemon::run() { return impl_->run(); }

}  // namespace fathom
