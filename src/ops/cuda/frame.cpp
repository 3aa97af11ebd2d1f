// The step's frame: plans' deltas and rows travel through pinned buffers, and steps are captured
// and replayed.
#include <algorithm>
#include <cstring>
#include <utility>

#include "base/log.h"
#include "ops/cpu/slot_sampling.h"
#include "ops/cuda/cuda_ops.h"
#include "ops/cuda/slot_arrays.h"

namespace fathom {
namespace {

using kernels::SlotEdit;

static_assert(sizeof(SlotSampling) == sizeof(kernels::SlotSamplingData));

// Edits and their payload of 4-byte words.
struct EditBuffer {
  std::vector<SlotEdit> edits;
  std::vector<int32_t> payload;

  int32_t append(const int32_t* words, size_t count) {
    const auto at = static_cast<int32_t>(payload.size());
    payload.insert(payload.end(), words, words + count);
    return at;
  }
  size_t bytes() const { return edits.size() * sizeof(SlotEdit) + payload.size() * 4; }
};

void add_open(const OpenSlot& open, const SlotLimits& limits, EditBuffer& out) {
  SlotEdit edit{};
  edit.kind = SlotEdit::kOpen;
  edit.slot = open.slot;
  edit.first = open.computed_tokens;
  edit.count = static_cast<int32_t>(open.tokens->size());
  FATHOM_CHECK(edit.count > 0 && edit.count <= limits.tokens_max,
               "a slot was opened with a sequence that does not fit");
  edit.payload = out.append(open.tokens->data(), open.tokens->size());
  const SlotSampling sampling = slot_sampling(open, limits);
  edit.sampling =
      out.append(reinterpret_cast<const int32_t*>(&sampling), sizeof(sampling) / sizeof(int32_t));
  edit.bias = static_cast<int32_t>(out.payload.size());
  for (const auto& [id, value] : open.sampling->logit_bias) out.payload.push_back(id);
  for (const auto& [id, value] : open.sampling->logit_bias) {
    int32_t word = 0;
    std::memcpy(&word, &value, sizeof word);
    out.payload.push_back(word);
  }
  out.edits.push_back(edit);
}

// Every pointer and bound of a captured body is a function of these.
uint64_t graph_key(const StepShape& shape, int32_t frame) {
  return static_cast<uint64_t>(frame) << 56 |
         static_cast<uint64_t>(shape.query_tokens_max & 0xFF) << 48 |
         static_cast<uint64_t>(shape.sample_rows & 0xFFFF) << 32 |
         static_cast<uint64_t>(shape.tokens & 0xFFFF) << 16 |
         static_cast<uint64_t>(shape.rows & 0xFFFF);
}

}  // namespace

// What reads it is launched before the next mark. Whoever waits for its steps before it launches
// more finds it free without a call; where no mark followed, all that was launched is waited for.
CudaOps::Staging& CudaOps::stage(size_t bytes) {
  Staging& staging = staging_[next_staging_];
  next_staging_ = (next_staging_ + 1) % staging_.size();
  FATHOM_CHECK(bytes <= staging.capacity, "a plan is larger than the staging buffer");
  if (staging.read_by >= next_mark_) {
    check(cudaStreamSynchronize(stream_), "staging");
  } else if (staging.read_by > reached_mark_) {
    check(cudaEventSynchronize(marks_[staging.read_by % marks_.size()]), "staging");
  }
  staging.read_by = next_mark_;
  return staging;
}

// One pass over each kind, in the plan's order: close, open, append.
void CudaOps::edit_slots(const SlotTable& slots, const StepPlan& plan) {
  EditBuffer buffer;
  for (const SlotId slot : plan.close)
    buffer.edits.push_back({SlotEdit::kClose, slot, 0, 0, 0, 0, 0, 0});
  const size_t closed = buffer.edits.size();
  if (prompt_logprobs_.empty()) prompt_logprobs_.resize(static_cast<size_t>(slots.limits.slots));
  for (const OpenSlot& open : plan.open) {
    add_open(open, slots.limits, buffer);
    prompt_logprobs_[open.slot] = open.sampling->prompt_logprobs ? 1 : 0;
  }
  const size_t opened = buffer.edits.size();
  for (const AppendBlocks& append : plan.append) {
    const auto count = static_cast<int32_t>(append.blocks.size());
    FATHOM_CHECK(append.first >= 0 && append.first + count <= slots.limits.blocks_max,
                 "a plan appends blocks past the table's end");
    const int32_t at = buffer.append(append.blocks.data(), append.blocks.size());
    buffer.edits.push_back(
        {SlotEdit::kAppend, append.slot, append.first, count, append.group, at, 0, 0});
  }
  if (buffer.edits.empty()) return;
  const Staging& staging = stage(buffer.bytes());
  const size_t edit_bytes = buffer.edits.size() * sizeof(SlotEdit);
  std::memcpy(staging.host, buffer.edits.data(), edit_bytes);
  std::memcpy(staging.host + edit_bytes, buffer.payload.data(), buffer.payload.size() * 4);
  check(cudaMemcpyAsync(staging.device, staging.host, buffer.bytes(), cudaMemcpyHostToDevice,
                        stream_),
        "edits");
  const auto* edits = reinterpret_cast<const SlotEdit*>(staging.device);
  const auto* payload = reinterpret_cast<const int32_t*>(staging.device + edit_bytes);
  const kernels::SlotArrays arrays = slot_arrays(slots);
  const auto run = [&](size_t begin, size_t end) {
    kernels::edit_slots(stream_, arrays, edits + begin, static_cast<int32_t>(end - begin), payload);
  };
  run(0, closed);
  run(closed, opened);
  run(opened, buffer.edits.size());
}

void CudaOps::advance(const SlotTable& slots, const StepPlan& plan, BatchView& batch) {
  auto* rows = reinterpret_cast<kernels::PlanRowData*>(
      stage(plan.rows.size() * sizeof(kernels::PlanRowData)).host);
  kernels::PlanTotals totals{static_cast<int32_t>(plan.rows.size()), 0, 0};
  for (size_t r = 0; r < plan.rows.size(); ++r) {
    const PlanRow& row = plan.rows[r];
    int32_t wanted = row.tokens;
    if (row.kind == RowKind::kPrefill && prompt_logprobs_[row.slot] == 0)
      wanted = row.sample ? 1 : 0;
    rows[r] = {row.slot,           static_cast<int32_t>(row.kind),
               row.tokens,         totals.tokens,
               totals.sample_rows, wanted};
    totals.tokens += row.tokens;
    totals.sample_rows += wanted;
  }
  FATHOM_CHECK(totals.rows <= batch.shape.rows && totals.tokens <= batch.shape.tokens &&
                   totals.sample_rows <= batch.shape.sample_rows,
               "the batch's shape has no room for the plan");
  batch.block_table = slots.block_table;
  decode_schedule_.made = {};  // lengths have moved
  prefill_schedule_.made = {};
  take_turn(0);
  // Read where they lie: a copy before it would be one more wait between two steps.
  kernels::advance(stream_, slot_arrays(slots), rows, totals, batch_arrays(batch));
}

Status CudaOps::capture(const StepShape& shape, int32_t frame,
                        const std::function<Status()>& body) {
  FATHOM_CHECK(!sealed_, "a step is captured after loading");
  FATHOM_CHECK(shape.decode_rows == shape.rows && shape.tokens <= 0xFFFF,
               "only steps of decode and verify rows are captured");
  FATHOM_RETURN_IF_ERROR(body());
  FATHOM_RETURN_IF_ERROR(synchronize());
  take_turn(0);  // a replay's first kernel has none before it
  check(cudaStreamBeginCapture(stream_, cudaStreamCaptureModeThreadLocal), "capture");
  const Status status = body();
  cudaGraph_t graph = nullptr;
  check(cudaStreamEndCapture(stream_, &graph), "capture");
  FATHOM_RETURN_IF_ERROR(status);
  FATHOM_RETURN_IF_ERROR(health_);
  cudaGraphExec_t exec = nullptr;
  check(cudaGraphInstantiate(&exec, graph, 0), "graph");
  cudaGraphDestroy(graph);
  FATHOM_RETURN_IF_ERROR(health_);
  graphs_.emplace(graph_key(shape, frame), exec);
  check(cudaGraphUpload(exec, stream_), "graph upload");
  return health_;
}

Status CudaOps::seal() {
  FATHOM_RETURN_IF_ERROR(synchronize());
  sealed_ = true;
  Logger("cuda").info("steps captured", {{"graphs", graphs_.size()}});
  return health_;
}

Status CudaOps::run_step(const StepShape& shape, int32_t frame,
                         const std::function<Status()>& body) {
  if (shape.decode_rows != shape.rows) return body();
  const auto found = graphs_.find(graph_key(shape, frame));
  if (found == graphs_.end()) return body();
  check(cudaGraphLaunch(found->second, stream_), "graph launch");
  // The engine's end is abrupt by design: what was done is said on the way, at powers of two.
  if (++replays_ >= 1024 && (replays_ & (replays_ - 1)) == 0) {
    Logger("cuda").info("steps replayed", {{"graphs", graphs_.size()}, {"replays", replays_}});
  }
  return health_;
}

uint64_t CudaOps::mark() {
  const uint64_t ticket = next_mark_++;
  check(cudaEventRecord(marks_[ticket % marks_.size()], stream_), "mark");
  return ticket;
}

Status CudaOps::wait(uint64_t ticket) {
  if (!health_.is_ok()) return health_;
  FATHOM_CHECK(next_mark_ - ticket <= marks_.size(), "waiting for a mark that was reused");
  check(cudaEventSynchronize(marks_[ticket % marks_.size()]), "step");
  reached_mark_ = std::max(reached_mark_, ticket);
  return health_;
}

}  // namespace fathom
