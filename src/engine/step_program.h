// StepProgram: one rank's step, from plan to sampled tokens, composed of Ops and Model calls. Owned
// and called by the rank's worker thread. It is the unit that a backend captures as a graph:
// nothing between edit_slots and the end of launch() depends on a value that a step computed.
#pragma once

#include <cstdint>
#include <memory>
#include <vector>

#include "engine/kv_memory.h"
#include "engine/step_buffers.h"
#include "engine/step_shape.h"
#include "fathom/comm.h"
#include "fathom/model.h"
#include "fathom/ops.h"
#include "fathom/plan.h"
#include "fathom/status.h"

namespace fathom {

struct StepProgramOptions {
  SlotLimits slots;
  StepLimits step;
  KvLayout cache;           // of all pipeline stages together: what plans' cache groups mean
  int32_t blocks = 0;       // of each cache group, the padding block 0 included
  bool pad_always = false;  // pad steps as for a backend that replays, whatever Ops::replays says
};

class StepProgram {
 public:
  // Takes all its memory from `ops`. `ops`, `model` and the groups outlive it.
  static Result<std::unique_ptr<StepProgram>> make(Ops& ops, Model& model, const Groups& groups,
                                                   const StepProgramOptions& options);

  // Before the first plan, once: runs the kernels of every kind of step on padding, and captures
  // the steps that a backend replays.
  Status warm();

  // Runs `plan` (or launches it: see Ops::synchronize). Plans come in order. Not ok when a
  // collective was lost; the program is then of no further use.
  Status launch(const StepPlan& plan);
  // Nothing is there to launch: a stage that does not sample takes the samples that are due, for
  // which the last stage waits.
  Status settle();
  // The rows of the oldest launched plan that was not collected. Last stage only.
  Result<StepResult> collect();

  bool samples() const { return stage_ == last_stage_; }
  int64_t kv_bytes() const { return kv_.bytes(); }

 private:
  // One step in flight: its arrays, and how its results are read.
  struct Frame {
    BatchArrays arrays;
    OutputArrays output;
    StepReading reading;
  };
  // A launched plan whose results were not read yet (last stage), or not applied yet (others).
  struct Launched {
    uint64_t number = 0;
    StepShape shape;  // that it ran at: the plan's, padded; without rows it has no frame
    size_t frame = 0;
    uint64_t mark = 0;  // Ops::mark after its launches
  };

  StepProgram(Ops& ops, Model& model, const Groups& groups, const StepProgramOptions& options);

  // Fills the frame's arrays for `plan` at `shape`.
  BatchView advance(const StepPlan& plan, const StepShape& shape, size_t frame);
  bool pads() const { return last_stage_ == 0 && (options_.pad_always || ops_.replays()); }
  Status forward(const BatchView& batch, Frame& frame);
  Status sample(const BatchView& batch, Hidden& hidden, Frame& frame);
  void draft(const BatchView& batch, const Act& normed, SampleOutput& out);
  Status apply_until(size_t left);
  Status apply_before(const StepPlan& plan);

  Ops& ops_;
  Model& model_;
  const Groups groups_;
  const StepProgramOptions options_;
  const int32_t stage_;
  const int32_t last_stage_;
  SlotTable slots_;
  KvMemory kv_;
  std::vector<SlotFacts> facts_;
  std::vector<Frame> frames_;
  std::vector<Launched> launched_;  // oldest first; a few
  size_t next_frame_ = 0;
};

}  // namespace fathom
