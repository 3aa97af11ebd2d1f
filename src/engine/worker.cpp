// The life of a rank: load, run plans, end.
#include "engine/worker.h"

#include <algorithm>
#include <utility>

#include "base/clock.h"
#include "base/log.h"
#include "base/thread.h"

namespace fathom {
namespace {

// Far over any executor's depth.
constexpr size_t kPlansMax = 1024;

}  // namespace

Worker::Worker(WorkerSetup setup, WorkerEvents events)
    : setup_(std::move(setup)), events_(std::move(events)), plans_(kPlansMax) {
  thread_ =
      start_thread("rank-" + std::to_string(setup_.ops.rank), [this](std::stop_token) { run(); });
}

Worker::~Worker() {
  stop_.store(true);
  plans_.close();
}

void Worker::submit(std::shared_ptr<const StepPlan> plan) {
  FATHOM_CHECK(plans_.try_push(std::move(plan)) == PushOutcome::kPushed,
               "a rank has more plans than an executor may have in flight");
}

void Worker::run() {
  const Status status = load();
  loaded_.set_value(status);
  if (!status.is_ok()) return;
  if (const Status end = serve(); !end.is_ok() && !stop_.load()) events_.on_failure(end);
}

Status Worker::load() {
  const SystemClock clock;
  const int64_t start_us = clock.now_us();
  FATHOM_ASSIGN(ops_, setup_.backend->make_ops(setup_.ops));
  FATHOM_RETURN_IF_ERROR(ops_->begin_load());
  FATHOM_ASSIGN(model_,
                load_model(setup_.model_dir, *setup_.weights, *ops_, setup_.groups, setup_.model));
  FATHOM_RETURN_IF_ERROR(ops_->finish_load());
  const int64_t weights_us = clock.now_us();
  FATHOM_ASSIGN(program_, StepProgram::make(*ops_, *model_, setup_.groups, setup_.program));
  const int64_t memory_us = clock.now_us();
  FATHOM_RETURN_IF_ERROR(program_->warm());
  FATHOM_RETURN_IF_ERROR(ops_->seal());
  Logger("engine").info("rank loaded", {{"weights_ms", (weights_us - start_us) / 1000},
                                        {"cache_ms", (memory_us - weights_us) / 1000},
                                        {"warm_ms", (clock.now_us() - memory_us) / 1000},
                                        {"workspace_bytes", setup_.ops.arena_bytes},
                                        {"workspace_used", ops_->arena().peak()}});
  return Status::ok();
}

// A backend that returns before the work is done gets the next plan, when there is one, before the
// last one's result is waited for.
Status Worker::serve() {
  const SystemClock clock;
  const size_t in_flight_max = ops_->asynchronous() ? 2 : 1;
  while (!stop_.load()) {
    std::optional<std::shared_ptr<const StepPlan>> plan;
    if (launched_us_.size() < in_flight_max) plan = plans_.try_pop();
    if (!plan && !launched_us_.empty()) {
      FATHOM_RETURN_IF_ERROR(collect());
      continue;
    }
    if (!plan) {
      FATHOM_RETURN_IF_ERROR(program_->settle());
      plan = plans_.pop();
      if (!plan) break;
    }
    const int64_t start_us = clock.now_us();
    FATHOM_RETURN_IF_ERROR(program_->launch(**plan));
    if (program_->samples()) launched_us_.push_back(start_us);
  }
  return Status::ok();
}

Status Worker::collect() {
  FATHOM_ASSIGN(StepResult result, program_->collect());
  const int64_t now_us = SystemClock().now_us();
  result.duration_us = now_us - launched_us_.front();
  result.own_us = now_us - std::max(launched_us_.front(), collected_us_);
  collected_us_ = now_us;
  launched_us_.pop_front();
  if (events_.on_result) events_.on_result(std::move(result));
  return Status::ok();
}

}  // namespace fathom
