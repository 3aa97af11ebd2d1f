// LocalEngine: the Engine in this process. For tests, benchmarks and command-line tools; the daemon
// uses RemoteEngine, and the engine process serves with the same parts. Any thread.
#pragma once

#include <atomic>
#include <functional>
#include <memory>

#include "engine/engine_loop.h"
#include "engine/engine_options.h"
#include "engine/stream_hub.h"
#include "fathom/engine.h"

namespace fathom {

struct LocalEngineOptions {
  SchedulerOptions scheduler;
  KvLayout layout;
  EngineInfo info;
  QueueLimits queue;
};

class LocalEngine final : public Engine, private EventSink {
 public:
  // Runs the engine thread over any executor.
  static Result<std::unique_ptr<LocalEngine>> start(std::unique_ptr<Executor> executor,
                                                    LocalEngineOptions options);
  // Loads a model in this process; returns when it is ready. `on_progress` gets 0 to 1 on a loading
  // thread.
  static Result<std::unique_ptr<LocalEngine>> load(const EngineOptions& options,
                                                   std::function<void(double)> on_progress = {});
  // Ends every stream that has not ended: kError, kUnavailable with reason "draining".
  ~LocalEngine() override;

  Result<std::unique_ptr<TokenStream>> submit(Request request) override;
  void drain() override;
  EngineHealth health() const override;
  EngineStats stats() const override;
  EngineInfo info() const override { return info_; }

 private:
  explicit LocalEngine(LocalEngineOptions options);
  void emit(std::vector<RequestEvent> events) override;

  EngineInfo info_;
  std::shared_ptr<StreamHub> hub_;
  std::atomic<RequestId> next_id_{1};
  std::atomic<bool> draining_{false};
  std::unique_ptr<EngineLoop> loop_;
};

}  // namespace fathom
