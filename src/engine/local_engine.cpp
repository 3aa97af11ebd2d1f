// The engine loop behind the Engine interface, in this process.
#include "engine/local_engine.h"

#include <utility>

#include "engine/request_check.h"

namespace fathom {

LocalEngine::LocalEngine(LocalEngineOptions options)
    : info_(std::move(options.info)),
      hub_(StreamHub::make(options.queue, [this](RequestId id) { loop_->cancel(id); })) {}

Result<std::unique_ptr<LocalEngine>> LocalEngine::start(std::unique_ptr<Executor> executor,
                                                        LocalEngineOptions options) {
  EngineLoopOptions loop{options.scheduler, options.layout};
  loop.scheduler.queued_requests_max = options.queue.requests_max;
  loop.scheduler.queued_tokens_max = options.queue.tokens_max;
  std::unique_ptr<LocalEngine> engine(new LocalEngine(std::move(options)));
  FATHOM_ASSIGN(engine->loop_, EngineLoop::start(std::move(executor), std::move(loop), *engine));
  engine->info_.max_model_len = engine->loop_->max_model_len();
  return engine;
}

LocalEngine::~LocalEngine() {
  hub_->close();
  loop_.reset();
  hub_->finish_all(FinishReason::kError, shutting_down());
}

Result<std::unique_ptr<TokenStream>> LocalEngine::submit(Request request) {
  const EngineHealth now = loop_->health();
  if (now.state == EngineState::kFailed) {
    return unavailable("the engine has failed").because("engine_failed");
  }
  if (draining_.load()) return shutting_down();
  FATHOM_RETURN_IF_ERROR(check_request(request, info_));
  if (request.id == 0) request.id = next_id_.fetch_add(1);
  const RequestId id = request.id;
  FATHOM_ASSIGN(auto stream, hub_->open(id, static_cast<int64_t>(request.prompt.size())));
  if (Status status = loop_->submit(std::move(request)); !status.is_ok()) {
    hub_->forget(id);
    return status;
  }
  return stream;
}

void LocalEngine::drain() {
  draining_.store(true);
  loop_->drain();
}

EngineHealth LocalEngine::health() const {
  EngineHealth health = loop_->health();
  if (draining_.load() && health.state == EngineState::kReady) {
    health.state = EngineState::kDraining;
  }
  return health;
}

EngineStats LocalEngine::stats() const { return loop_->stats(); }

void LocalEngine::emit(std::vector<RequestEvent> events) { hub_->deliver(std::move(events)); }

}  // namespace fathom
