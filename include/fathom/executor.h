// Executor: where plans go to be run. The engine thread is the only caller. Implementations: ranks
// in production, SimExecutor in tests. Nothing above it knows a device.
#pragma once

#include <cstdint>
#include <optional>

#include "fathom/plan.h"
#include "fathom/status.h"

namespace fathom {

class Executor {
 public:
  virtual ~Executor() = default;

  // Plans in flight at most (2; 2 x stages under pipeline parallelism).
  virtual int32_t depth() const = 0;
  // Never blocks; fewer than depth() plans are in flight. The plan is copied or moved away.
  virtual void submit(StepPlan plan) = 0;
  // The oldest finished plan's result, if there is one. Results come in order of submission.
  virtual std::optional<StepResult> poll() = 0;
  // Readable (level-triggered until poll() returns empty) when a result or a failure is there.
  virtual int event_fd() const = 0;
  // Not ok once a rank has failed: the engine reports it and ends.
  virtual Status health() const = 0;
};

}  // namespace fathom
