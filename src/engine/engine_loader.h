// From EngineOptions to something that runs plans: memory plan, backend, ranks, weights. Called
// once, by the thread that starts an engine.
#pragma once

#include <functional>
#include <memory>

#include "engine/engine_options.h"
#include "fathom/backend.h"
#include "fathom/engine.h"
#include "fathom/executor.h"
#include "fathom/kv_layout.h"
#include "fathom/status.h"
#include "fathom/weight.h"
#include "sched/options.h"

namespace fathom {

// What an EngineLoop is made of.
struct LoadedEngine {
  std::unique_ptr<Executor> executor;
  SchedulerOptions scheduler;
  KvLayout layout;
  EngineInfo info;
};

// Gets 0 to 1; called on loading threads, one at a time.
using ProgressCallback = std::function<void(double)>;
using EngineLoader = std::function<Result<LoadedEngine>(const EngineOptions&, ProgressCallback)>;

// The model that the options name, on the device that they name. Refuses what cannot fit before it
// reads weights; the sentence then holds the memory plan's table.
Result<LoadedEngine> load_engine(const EngineOptions& options, ProgressCallback on_progress);

// The same with the weights from `weights`; the rest of the model is in options.model_dir. `shapes`
// is what the memory plan looks at, and may be the same.
Result<LoadedEngine> load_engine_from(const EngineOptions& options,
                                      std::shared_ptr<const WeightSource> weights,
                                      const WeightSource& shapes, ProgressCallback on_progress);

// The same on a backend of the caller's: tests plant faults in it. kResourceExhausted with the
// memory plan's table when the device has less than its backend said.
Result<LoadedEngine> load_engine_on(std::unique_ptr<Backend> backend, const EngineOptions& options,
                                    std::shared_ptr<const WeightSource> weights,
                                    const WeightSource& shapes, ProgressCallback on_progress);

}  // namespace fathom
