// RankExecutor: runs plans on the ranks of a model. Every rank gets the same plan; one rank of the
// last pipeline stage reports. The engine thread calls it; ranks report from their own threads.
#pragma once

#include <deque>
#include <memory>
#include <mutex>
#include <vector>

#include "base/thread.h"
#include "engine/worker.h"
#include "fathom/executor.h"

namespace fathom {

class RankExecutor final : public Executor {
 public:
  // Starts a worker per setup (by rank) and returns when all have loaded. The first failure is the
  // result.
  static Result<std::unique_ptr<RankExecutor>> start(std::unique_ptr<Backend> backend,
                                                     const RankGrid& grid,
                                                     std::vector<WorkerSetup> setups);
  ~RankExecutor() override;

  int32_t depth() const override { return 2 * grid_.pipeline; }
  void submit(StepPlan plan) override;
  std::optional<StepResult> poll() override;
  int event_fd() const override { return event_.fd(); }
  Status health() const override;

 private:
  RankExecutor(std::unique_ptr<Backend> backend, const RankGrid& grid, EventFd event);
  void fail(const Status& status);
  void abort_groups();

  const std::unique_ptr<Backend> backend_;
  const RankGrid grid_;
  const EventFd event_;
  std::vector<Groups> groups_;

  mutable std::mutex mutex_;
  std::deque<StepResult> results_;
  Status failure_;
  std::vector<std::unique_ptr<Worker>> workers_;  // last: their threads use the rest
};

}  // namespace fathom
