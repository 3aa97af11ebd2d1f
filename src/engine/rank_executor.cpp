// Hands plans to ranks, collects results of the one that reports.
#include "engine/rank_executor.h"

#include <utility>

namespace fathom {

RankExecutor::RankExecutor(std::unique_ptr<Backend> backend, const RankGrid& grid, EventFd event)
    : backend_(std::move(backend)), grid_(grid), event_(std::move(event)) {}

Result<std::unique_ptr<RankExecutor>> RankExecutor::start(std::unique_ptr<Backend> backend,
                                                          const RankGrid& grid,
                                                          std::vector<WorkerSetup> setups) {
  FATHOM_CHECK(setups.size() == static_cast<size_t>(grid.ranks()), "one setup for each rank");
  FATHOM_ASSIGN(EventFd event, EventFd::make());
  std::unique_ptr<RankExecutor> executor(
      new RankExecutor(std::move(backend), grid, std::move(event)));
  RankExecutor* self = executor.get();
  FATHOM_ASSIGN(self->groups_, self->backend_->make_groups(grid));
  const int32_t reporter = (grid.pipeline - 1) * grid.tensor;
  for (int32_t rank = 0; rank < grid.ranks(); ++rank) {
    WorkerSetup& setup = setups[static_cast<size_t>(rank)];
    setup.backend = self->backend_.get();
    setup.groups = self->groups_[static_cast<size_t>(rank)];
    WorkerEvents events;
    events.on_failure = [self](const Status& status) { self->fail(status); };
    if (rank == reporter) {
      events.on_result = [self](StepResult result) {
        {
          std::lock_guard lock(self->mutex_);
          self->results_.push_back(std::move(result));
        }
        self->event_.notify();
      };
    }
    self->workers_.push_back(std::make_unique<Worker>(std::move(setup), std::move(events)));
  }
  Status first;
  for (auto& worker : self->workers_) {
    const Status status = worker->loaded().get();
    if (first.is_ok() && !status.is_ok()) {
      first = status;
      self->abort_groups();  // the others may wait for this one
    }
  }
  if (!first.is_ok()) return first;
  return executor;
}

RankExecutor::~RankExecutor() {
  // Ranks may be in the middle of a collective that another rank will not join any more.
  std::vector<std::unique_ptr<Worker>> workers = std::move(workers_);
  abort_groups();
  workers.clear();
}

void RankExecutor::submit(StepPlan plan) {
  const auto shared = std::make_shared<const StepPlan>(std::move(plan));
  for (auto& worker : workers_) worker->submit(shared);
}

std::optional<StepResult> RankExecutor::poll() {
  std::lock_guard lock(mutex_);
  if (results_.empty()) {
    if (failure_.is_ok()) event_.consume();
    return std::nullopt;
  }
  std::optional<StepResult> result(std::move(results_.front()));
  results_.pop_front();
  return result;
}

Status RankExecutor::health() const {
  std::lock_guard lock(mutex_);
  return failure_;
}

void RankExecutor::fail(const Status& status) {
  {
    std::lock_guard lock(mutex_);
    if (failure_.is_ok()) failure_ = status;
  }
  abort_groups();
  event_.notify();
}

void RankExecutor::abort_groups() {
  for (const Groups& groups : groups_) {
    for (Comm* comm : {groups.tp, groups.pp, groups.world}) {
      if (comm != nullptr) comm->abort();
    }
  }
}

}  // namespace fathom
