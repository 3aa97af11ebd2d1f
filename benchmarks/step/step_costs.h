// What a model's steps cost without data: bytes and operations of each op, workspace and caches.
// From CountOps, under the model's own text.
#pragma once

#include <map>
#include <memory>
#include <string>

#include "fathom/model.h"
#include "observed_ops.h"
#include "ops/count/count_ops.h"

namespace fathom::bench {

struct OpCost {
  int64_t calls = 0;
  double bytes = 0.0;  // of experts: of as many as uniform routing is expected to choose
  double flops = 0.0;
};

struct StepCosts {
  std::map<std::string, OpCost> ops;  // by ObservedOps' label
  int64_t arena_bytes = 0;
  double bytes() const;
  double flops() const;
};

// scratch: of the backend that will run, outlives this; null: the CPU's.
class CountedModel {
 public:
  static Result<std::unique_ptr<CountedModel>> load(const std::string& directory,
                                                    const WeightSource& shapes,
                                                    const ModelOptions& options,
                                                    const ScratchBounds* scratch = nullptr);

  StepCosts step(const StepShape& shape, int32_t vocab);
  const ModelInfo& info() const { return model_->info(); }
  KvLayout kv_layout() const { return model_->kv_layout(); }
  int64_t weight_bytes() const { return count_.report().weight_bytes; }

 private:
  explicit CountedModel(const ScratchBounds* scratch)
      : count_({.scratch = scratch}), ops_(count_) {}

  CountOps count_;
  ObservedOps ops_;
  std::unique_ptr<Model> model_;
};

}  // namespace fathom::bench
