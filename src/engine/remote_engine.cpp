// The handle: every call goes to the core, which outlives it in others' callbacks.
#include "engine/remote_engine.h"

#include <utility>

#include "engine/remote_core.h"

namespace fathom {

Result<std::unique_ptr<RemoteEngine>> RemoteEngine::start(EngineSupervisor& supervisor,
                                                          RemoteEngineOptions options) {
  FATHOM_RETURN_IF_ERROR(check_options(options.engine));
  auto core = std::make_shared<Core>(supervisor, std::move(options));
  core->begin();
  return std::unique_ptr<RemoteEngine>(new RemoteEngine(std::move(core)));
}

RemoteEngine::~RemoteEngine() { core_->shut_down(); }

Result<std::unique_ptr<TokenStream>> RemoteEngine::submit(Request request) {
  return core_->submit(std::move(request));
}

void RemoteEngine::drain() { core_->drain(); }
void RemoteEngine::cut() { core_->cut(); }
EngineHealth RemoteEngine::health() const { return core_->health(); }
EngineStats RemoteEngine::stats() const { return core_->stats(); }
EngineInfo RemoteEngine::info() const { return core_->info(); }
int32_t RemoteEngine::pid() const { return core_->pid(); }
uint64_t RemoteEngine::restarts() const { return core_->restarts(); }

bool engine_ready(const EngineHealth& health, int64_t now_us, int64_t bound_us) {
  return health.state == EngineState::kReady && now_us - health.last_progress_us <= bound_us;
}

}  // namespace fathom
