// The daemon's build order, with a simulated executor where the engine's process would be.
#include "front_server.h"

#include <algorithm>
#include <thread>
#include <utility>

#include "api/api_server.h"
#include "api/grpc_server.h"
#include "base/clock.h"
#include "base/log.h"
#include "base/metrics.h"
#include "engine/local_engine.h"
#include "net/http_server.h"
#include "paced_executor.h"
#include "text/utf8.h"

namespace fathom::bench {
namespace {

constexpr int32_t kBlockTokens = 64;
constexpr int32_t kPromptTokensMax = 256;

struct IdRange {
  TokenId first = 0;
  TokenId end = 0;
};

// The longest run of ids that are whole characters each: every token makes one event.
IdRange plain_tokens(const text::Tokenizer& tokenizer) {
  IdRange best;
  IdRange run;
  for (TokenId id = 0; id < tokenizer.vocab_size(); ++id) {
    const std::string_view bytes = tokenizer.token_bytes(id);
    const bool plain = !bytes.empty() && !tokenizer.is_special(id) && !tokenizer.is_control(id) &&
                       text::is_valid_utf8(bytes);
    if (!plain) {
      run = {id + 1, id + 1};
      continue;
    }
    run.end = id + 1;
    if (run.end - run.first > best.end - best.first) best = run;
  }
  return best;
}

LocalEngineOptions engine_options(const FrontServerOptions& options, int32_t vocab) {
  LocalEngineOptions engine;
  const int32_t length_max = kPromptTokensMax + options.tokens_per_stream_max;
  engine.layout.block_tokens = kBlockTokens;
  engine.layout.groups.emplace_back();
  engine.scheduler.max_model_len = length_max;
  engine.scheduler.max_num_seqs = options.streams;
  engine.scheduler.blocks = {options.streams * (length_max / kBlockTokens + 3) * 11 / 10};
  engine.queue.requests_max = 4 * options.streams;
  engine.info.model.vocab = vocab;
  engine.info.max_model_len = length_max;
  engine.info.device = "simulated";
  return engine;
}

}  // namespace

class FrontServer::Impl {
 public:
  Status build(const FrontServerOptions& options, TokenGate& gate);
  ~Impl();

  Status build_model(const FrontServerOptions& options, TokenGate& gate);
  Status build_http(const FrontServerOptions& options);
  Status build_grpc();
  net::ListenerConfig listener(const char* name, std::shared_ptr<net::TlsContextSlot> tls);

  SystemClock clock_;
  MetricsRegistry registry_;
  std::unique_ptr<Metrics> metrics_;
  KeyedHasher hasher_{KeyedHasher::random_key()};
  PacedExecutor* executor_ = nullptr;  // the engine's
  std::unique_ptr<api::WorkPool> pool_;
  api::ApiContext context_;
  api::ServerState state_;
  std::unique_ptr<net::HttpServer> http_;
  std::unique_ptr<api::GrpcServer> grpc_;
};

FrontServer::Impl::~Impl() {
  if (grpc_) grpc_->stop(0);
  if (http_) http_->stop();
  pool_.reset();
}

Status FrontServer::Impl::build_model(const FrontServerOptions& options, TokenGate& gate) {
  api::ServedModel& model = context_.model;
  model.name = "demo-model";
  model.created_unix_s = clock_.unix_us() / 1'000'000;
  FATHOM_ASSIGN(model.tokenizer, text::Tokenizer::load(options.model_dir));
  FATHOM_ASSIGN(model.chat_format, text::recognise_chat_format(model.tokenizer->chat_template()));
  model.vocab = model.tokenizer->vocab_size();
  const IdRange plain = plain_tokens(*model.tokenizer);
  if (plain.end - plain.first < 1000) {
    return invalid_argument("the tokenizer has no run of 1000 tokens of whole characters");
  }
  SimOptions sim;
  sim.slots = options.streams + 1;
  sim.model.first_token = plain.first;
  sim.model.vocab = plain.end;
  auto executor = std::make_unique<PacedExecutor>(std::move(sim), gate, options.unread_max);
  executor_ = executor.get();
  LocalEngineOptions engine = engine_options(options, model.vocab);
  model.max_model_len = engine.info.max_model_len;
  FATHOM_ASSIGN(model.engine, LocalEngine::start(std::move(executor), std::move(engine)));
  return Status::ok();
}

net::ListenerConfig FrontServer::Impl::listener(const char* name,
                                                std::shared_ptr<net::TlsContextSlot> tls) {
  api::ApiServerOptions options;
  options.context = &context_;
  options.state = &state_;
  options.auth.client_certificate_required = tls != nullptr;
  options.routes = api::data_routes();
  options.metrics_text = [] { return std::string(); };
  net::ListenerConfig out;
  out.name = name;
  out.tls = std::move(tls);
  out.handler = std::make_shared<api::ApiServer>(std::move(options));
  return out;
}

Status FrontServer::Impl::build_http(const FrontServerOptions& options) {
  FATHOM_ASSIGN(auto tls, net::TlsContext::load({.cert_file = options.certificate_file,
                                                 .key_file = options.key_file,
                                                 .client_ca_file = options.client_ca_file}));
  net::HttpServerConfig http;
  http.listeners.push_back(listener("http", nullptr));
  http.listeners.push_back(listener("https", std::make_shared<net::TlsContextSlot>(tls)));
  FATHOM_ASSIGN(http_, net::HttpServer::start(std::move(http)));
  return Status::ok();
}

Status FrontServer::Impl::build_grpc() {
  api::GrpcServerOptions options;
  options.context = &context_;
  options.state = &state_;
  FATHOM_ASSIGN(grpc_, api::GrpcServer::start(std::move(options)));
  grpc_->set_serving(true);
  return Status::ok();
}

Status FrontServer::Impl::build(const FrontServerOptions& options, TokenGate& gate) {
  start_logging({.write = [](std::string_view) {}});  // lines are made, as in service, and dropped
  FATHOM_RETURN_IF_ERROR(build_model(options, gate));
  metrics_ = std::make_unique<Metrics>(registry_, context_.model.name);
  const auto cores = static_cast<int32_t>(std::thread::hardware_concurrency());
  pool_ = std::make_unique<api::WorkPool>(std::clamp(cores / 2, 2, 8));  // as the daemon's
  context_.pool = pool_.get();
  context_.clock = &clock_;
  context_.metrics = metrics_.get();
  context_.hasher = &hasher_;
  context_.version = "bench";
  FATHOM_RETURN_IF_ERROR(build_http(options));
  return build_grpc();
}

FrontServer::FrontServer(std::unique_ptr<Impl> impl) : impl_(std::move(impl)) {}
FrontServer::~FrontServer() = default;

Result<std::unique_ptr<FrontServer>> FrontServer::start(const FrontServerOptions& options,
                                                        TokenGate& gate) {
  auto impl = std::make_unique<Impl>();
  FATHOM_RETURN_IF_ERROR(impl->build(options, gate));
  return std::unique_ptr<FrontServer>(new FrontServer(std::move(impl)));
}

uint16_t FrontServer::http_port() const { return impl_->http_->port(0); }
uint16_t FrontServer::https_port() const { return impl_->http_->port(1); }
uint16_t FrontServer::grpc_port() const { return impl_->grpc_->port(); }

FrontCounts FrontServer::counts() const {
  const net::HttpServerStats http = impl_->http_->stats();
  const PacedExecutor& executor = *impl_->executor_;
  return {http.socket_writes, http.bytes_sent, executor.steps(), executor.sim_cpu_s(),
          executor.engine_cpu_s()};
}

}  // namespace fathom::bench
