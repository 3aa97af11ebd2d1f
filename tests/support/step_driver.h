// StepDriver: runs plans on one rank with the fewest parts, for tests of ops and models (production
// has engine/step_program). Backend memory must be readable by the host.
#pragma once

#include <map>
#include <optional>
#include <vector>

#include "fathom/model.h"
#include "fathom/plan.h"

namespace fathom::testing {

struct DriverLimits {
  int32_t slots = 80;
  int32_t tokens_max = 256;
  int32_t blocks = 400;
  int32_t drafts_max = 0;  // 1: a verify row may carry the MTP layer's draft
  int32_t vocab = 0;       // real tokens; 0: all columns
};

class StepDriver {
 public:
  StepDriver(Ops& ops, Model& model, const DriverLimits& limits, const Groups& groups = {});

  // Runs one plan; the logits of its sample rows are in logits() afterwards (last stage).
  StepResult run(const StepPlan& plan);

  // Opens a free slot with blocks for the whole answer; the deltas go into `plan`.
  SlotId open(StepPlan& plan, const std::vector<TokenId>& tokens, const SamplingParams& sampling);
  void close(StepPlan& plan, SlotId slot);

  // Alone: prompt in chunks of `chunk` tokens (0: at once), then decode or verify rows to the end.
  struct Generated {
    std::vector<TokenId> tokens;
    std::vector<TokenLogprobs> logprobs;
    std::vector<std::vector<float>> prompt_logits;  // per prompt position, if prompt_logprobs
    std::vector<std::vector<float>> step_logits;    // that each token was sampled from
    int32_t steps = 0;
    int32_t drafted = 0;
    int32_t accepted_drafts = 0;
    FinishReason finish = FinishReason::kNone;
  };
  Generated generate(const std::vector<TokenId>& prompt, const SamplingParams& sampling,
                     int32_t chunk = 0);

  // Whether run() copies logits; on unless a benchmark turns it off.
  void keep_logits(bool keep) { keep_logits_ = keep; }
  // Of the last plan's sample rows; empty on a stage that does not sample.
  const std::vector<std::vector<float>>& logits() const { return logits_; }
  const std::vector<std::vector<float>>& draft_logits() const { return draft_logits_; }
  // From now on no draft layer runs: drafts come by set_drafts alone.
  void draft_by_hand() { by_hand_ = true; }
  // Puts drafts into a slot, as a drafter would.
  void set_drafts(SlotId slot, const std::vector<TokenId>& drafts);
  const SlotTable& slots() const { return table_; }

 private:
  struct Open {
    std::vector<BlockId> blocks;
    bool prompt_logprobs = false;
    std::optional<int32_t> logprobs;
  };

  std::vector<std::vector<float>> copy_logits(const Tensor& logits) const;
  Tensor reserve(DType dtype, std::initializer_list<int64_t> shape);
  BatchView make_batch(const StepPlan& plan);
  SampleOutput make_output(const StepShape& shape);
  void receive(Hidden& hidden, const BatchView& batch);
  void draft(const BatchView& batch, const Act& normed, SampleOutput& out);
  StepResult collect(const StepPlan& plan, const BatchView& batch, const SampleOutput& out) const;

  Ops& ops_;
  Model& model_;
  const DriverLimits limits_;
  const Groups groups_;
  SlotTable table_;
  bool keep_logits_ = true;
  bool by_hand_ = false;
  std::vector<KvView> caches_;
  std::vector<BlockId> free_blocks_;
  std::vector<SlotId> free_slots_;
  std::map<SlotId, Open> open_;
  std::vector<std::vector<float>> logits_;
  std::vector<std::vector<float>> draft_logits_;
};

}  // namespace fathom::testing
