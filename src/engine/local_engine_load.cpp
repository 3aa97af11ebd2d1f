// Loading in this process. Apart, so that whoever brings an executor links no backend.
#include <utility>

#include "engine/engine_loader.h"
#include "engine/local_engine.h"

namespace fathom {

Result<std::unique_ptr<LocalEngine>> LocalEngine::load(const EngineOptions& options,
                                                       std::function<void(double)> on_progress) {
  FATHOM_ASSIGN(LoadedEngine loaded, load_engine(options, std::move(on_progress)));
  LocalEngineOptions local{std::move(loaded.scheduler),
                           std::move(loaded.layout),
                           std::move(loaded.info),
                           {options.queued_requests_max, options.queued_tokens_max}};
  return start(std::move(loaded.executor), std::move(local));
}

}  // namespace fathom
