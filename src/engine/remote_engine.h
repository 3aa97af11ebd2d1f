// RemoteEngine: the front end's handle on an engine process. It starts the process, starts it again
// when it dies, and is the Engine that the API talks to. Any thread.
#pragma once

#include <cstdint>
#include <functional>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "engine/engine_options.h"
#include "engine/supervisor.h"
#include "fathom/engine.h"

namespace fathom {

struct RemoteEngineOptions {
  EngineOptions engine;
  std::string program = "/proc/self/exe";
  std::vector<std::string> arguments = {"--engine"};  // the socket is descriptor 3
  int32_t restarts_max = 5;  // within restart_window_us; then the engine stays kFailed
  int64_t restart_window_us = 600'000'000;
  int64_t backoff_us_min = 100'000;
  int64_t backoff_us_max = 5'000'000;
  // An engine that proves no progress for so long is killed and started again.
  int64_t hang_us = 30'000'000;
  // The same once the engine has said that it runs on a GPU, whose steps are short.
  std::optional<int64_t> hang_us_gpu;
  // Gets every change of state and every percent of loading; on the handle's threads, one call at a
  // time. Must not block, nor call the handle.
  std::function<void(const EngineHealth&)> on_health;
};

class RemoteEngine final : public Engine {
 public:
  // Returns at once: health() goes kStarting, kLoading, kReady. The supervisor outlives the handle.
  static Result<std::unique_ptr<RemoteEngine>> start(EngineSupervisor& supervisor,
                                                     RemoteEngineOptions options);
  // Ends the process, and every stream that has not ended: kError, kUnavailable with reason
  // "draining".
  ~RemoteEngine() override;

  // A request that had emitted nothing when the process died is given to the next one, once; others
  // end with kUnavailable, reason "engine_failed".
  Result<std::unique_ptr<TokenStream>> submit(Request request) override;
  void drain() override;
  // After drain(), when time is up: what still runs ends with shutting_down().
  void cut();
  EngineHealth health() const override;
  EngineStats stats() const override;
  // Empty (model.layers is 0) until the first kReady.
  EngineInfo info() const override;

  // Of the process that runs now; 0: none.
  int32_t pid() const;
  uint64_t restarts() const;

 private:
  class Core;
  explicit RemoteEngine(std::shared_ptr<Core> core) : core_(std::move(core)) {}
  std::shared_ptr<Core> core_;
};

// What /health/ready says: kReady, and the step loop moved within `bound_us`.
bool engine_ready(const EngineHealth& health, int64_t now_us, int64_t bound_us);
inline constexpr int64_t kReadyBoundUs = 3'000'000;

}  // namespace fathom
