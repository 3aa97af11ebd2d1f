// Worker: one rank of an engine, on a thread of its own: its Ops, its shard of the model, its step
// program. Loads first, then runs every plan it is given, in order. Owned by a RankExecutor.
#pragma once

#include <atomic>
#include <deque>
#include <functional>
#include <future>
#include <memory>
#include <string>
#include <thread>

#include "base/queue.h"
#include "engine/step_program.h"
#include "fathom/backend.h"
#include "fathom/model.h"
#include "fathom/plan.h"
#include "fathom/weight.h"

namespace fathom {

// Everything a rank is made of. The backend outlives the worker.
struct WorkerSetup {
  Backend* backend = nullptr;
  Groups groups;
  OpsSetup ops;
  std::string model_dir;
  std::shared_ptr<const WeightSource> weights;
  ModelOptions model;
  StepProgramOptions program;
};

// What a worker tells its executor, on the worker's thread.
struct WorkerEvents {
  std::function<void(StepResult)> on_result;  // called by the rank that reports; empty on others
  std::function<void(const Status&)> on_failure;
};

class Worker {
 public:
  Worker(WorkerSetup setup, WorkerEvents events);
  // Ends after the plan in hand. A rank that waits for another must be released by Comm::abort.
  ~Worker();

  // Ready when the rank has loaded, or failed to. Once.
  std::future<Status> loaded() { return loaded_.get_future(); }
  // Never blocks.
  void submit(std::shared_ptr<const StepPlan> plan);

 private:
  void run();
  Status load();
  Status serve();
  Status collect();

  const WorkerSetup setup_;
  const WorkerEvents events_;
  std::promise<Status> loaded_;
  BoundedQueue<std::shared_ptr<const StepPlan>> plans_;
  std::atomic<bool> stop_{false};
  // The worker's thread.
  std::unique_ptr<Ops> ops_;
  std::unique_ptr<Model> model_;
  std::unique_ptr<StepProgram> program_;
  std::deque<int64_t> launched_us_;  // of plans whose results were not collected yet
  int64_t collected_us_ = 0;         // the last result
  std::jthread thread_;
};

}  // namespace fathom
