// Slot edits, rows to tokens, and what a drafter asks of the slot table.
#include "steps.h"

namespace fathom::kernels {
namespace {

constexpr int kThreads = 256;

__device__ void clear_slot(const SlotArrays& s, int32_t slot) {
  auto* words = reinterpret_cast<int32_t*>(&s.sampling[slot]);
  for (unsigned i = threadIdx.x; i < sizeof(SlotSamplingData) / 4; i += blockDim.x) words[i] = 0;
  for (int32_t g = 0; g < s.groups; ++g) {
    int32_t* table = s.block_table + g * s.group_stride + slot * s.blocks_max;
    for (int64_t i = threadIdx.x; i < s.blocks_max; i += blockDim.x) table[i] = 0;
  }
  if (threadIdx.x != 0) return;
  s.length[slot] = 0;
  s.computed[slot] = 0;
  s.draft_count[slot] = 0;
  s.finished[slot] = 0;
}

__device__ void open_slot(const SlotArrays& s, const SlotEdit& edit, const int32_t* payload) {
  clear_slot(s, edit.slot);
  __syncthreads();
  int32_t* history = s.history + edit.slot * s.history_stride;
  for (int32_t i = threadIdx.x; i < edit.count; i += blockDim.x)
    history[i] = payload[edit.payload + i];
  auto* words = reinterpret_cast<int32_t*>(&s.sampling[edit.slot]);
  for (unsigned i = threadIdx.x; i < sizeof(SlotSamplingData) / 4; i += blockDim.x) {
    words[i] = payload[edit.sampling + i];
  }
  __syncthreads();
  const int32_t bias = s.sampling[edit.slot].bias_count;
  for (int32_t i = threadIdx.x; i < bias; i += blockDim.x) {
    s.bias_ids[int64_t{edit.slot} * kBiasMax + i] = payload[edit.bias + i];
    s.bias_values[int64_t{edit.slot} * kBiasMax + i] =
        __int_as_float(payload[edit.bias + bias + i]);
  }
  if (threadIdx.x != 0) return;
  s.length[edit.slot] = edit.count;
  s.computed[edit.slot] = edit.first;
}

__global__ void edit_kernel(SlotArrays s, const SlotEdit* edits, const int32_t* payload) {
  const SlotEdit edit = edits[blockIdx.x];
  if (edit.kind == SlotEdit::kClose) return clear_slot(s, edit.slot);
  if (edit.kind == SlotEdit::kOpen) return open_slot(s, edit, payload);
  int32_t* table =
      s.block_table + edit.group * s.group_stride + edit.slot * s.blocks_max + edit.first;
  for (int32_t i = threadIdx.x; i < edit.count; i += blockDim.x)
    table[i] = payload[edit.payload + i];
}

// Tokens that a row really computes: none once its slot has finished.
__device__ int32_t query_of(const SlotArrays& s, const PlanRowData& row) {
  if (s.finished[row.slot] != 0) return 0;
  const int32_t left = s.length[row.slot] - s.computed[row.slot];
  if (row.kind == 2) return min(row.tokens, left);
  if (row.kind == 0) return 1;
  const int32_t room = s.sampling[row.slot].total_tokens_max - s.length[row.slot] - 1;
  return 1 + max(0, min(min(s.draft_count[row.slot], room), row.tokens - 1));
}

// Rows, tokens and sample rows past the plan's, by one block.
__device__ void fill_padding(const PlanTotals& plan, const BatchArrays& b) {
  const auto thread = static_cast<int32_t>(threadIdx.x);
  const auto threads = static_cast<int32_t>(blockDim.x);
  for (int32_t r = plan.rows + thread; r < b.rows; r += threads) {
    b.row_slot[r] = 0;
    b.row_kind[r] = 0;
    b.row_first[r] = plan.tokens;
    b.row_query[r] = 0;
    b.row_context[r] = 0;
  }
  for (int32_t t = plan.tokens + thread; t < b.tokens; t += threads) {
    b.token_ids[t] = 0;
    b.token_row[t] = b.rows - 1;
    b.positions[t] = 0;
    b.token_valid[t] = 0;
  }
  for (int32_t i = plan.sample_rows + thread; i < b.sample_rows; i += threads) {
    b.sample_tokens[i] = 0;
    b.sample_row[i] = b.rows;
  }
  if (thread == 0) b.row_first[b.rows] = plan.tokens;
}

// One block a row of the plan, and one for the padding.
__global__ void advance_kernel(SlotArrays s, const PlanRowData* rows, PlanTotals plan,
                               BatchArrays b) {
  const int32_t r = static_cast<int32_t>(blockIdx.x);
  if (r == plan.rows) return fill_padding(plan, b);
  const PlanRowData row = rows[r];
  const int32_t query = query_of(s, row);
  const int32_t computed = s.computed[row.slot];
  const int32_t length = s.length[row.slot];
  if (threadIdx.x == 0) {
    b.row_slot[r] = row.slot;
    b.row_kind[r] = row.kind;
    b.row_first[r] = row.first;
    b.row_query[r] = query;
    b.row_context[r] = computed;
  }
  for (int32_t i = threadIdx.x; i < row.tokens; i += blockDim.x) {
    const int32_t position = computed + i;
    const bool valid = i < query;
    int32_t id = 0;
    if (valid) {
      id = position < length ? s.history[row.slot * s.history_stride + position]
                             : s.drafts[row.slot * s.drafts_max + position - length];
    }
    b.token_ids[row.first + i] = id;
    b.token_row[row.first + i] = r;
    b.positions[row.first + i] = valid ? position : 0;
    b.token_valid[row.first + i] = valid ? 1 : 0;
  }
  for (int32_t i = threadIdx.x; i < row.sample_count; i += blockDim.x) {
    const bool last_only = row.kind == 2 && row.sample_count == 1;
    const int32_t token = last_only ? query - 1 : min(i, query - 1);
    b.sample_tokens[row.sample_first + i] = row.first + max(token, 0);
    b.sample_row[row.sample_first + i] = r;
  }
}

__global__ void next_kernel(SlotArrays s, BatchArrays b, int32_t* out) {
  const int32_t t = static_cast<int32_t>(blockIdx.x * blockDim.x + threadIdx.x);
  if (t >= b.tokens) return;
  const int32_t slot = b.row_slot[b.token_row[t]];
  const int32_t next = b.positions[t] + 1;
  const bool known = b.token_valid[t] != 0 && next < s.length[slot];
  out[t] = known ? s.history[slot * s.history_stride + next] : 0;
}

__global__ void last_kernel(BatchArrays b, const int32_t* accepted, int32_t* out) {
  const int32_t r = static_cast<int32_t>(blockIdx.x * blockDim.x + threadIdx.x);
  if (r < b.rows) out[r] = b.row_first[r] + max(accepted[r] - 1, 0);
}

// One warp a row; rows of padding share slot 0 and change nothing there.
__global__ void apply_kernel(SlotArrays s, BatchArrays b, OutputArrays out) {
  const auto r = static_cast<int32_t>(blockIdx.x);
  const auto lane = static_cast<int32_t>(threadIdx.x);
  const int32_t slot = b.row_slot[r];
  const int32_t fresh = out.new_count[r];
  const int32_t drafts = out.draft_count[r];
  const int32_t length = s.length[slot];
  int32_t* history = s.history + slot * s.history_stride + length;
  for (int32_t i = lane; i < fresh; i += 32) history[i] = out.new_tokens[r * out.new_stride + i];
  for (int32_t i = lane; i < drafts; i += 32)
    s.drafts[slot * s.drafts_max + i] = out.drafts[r * out.draft_stride + i];
  __syncwarp();
  if (lane != 0) return;
  if (fresh > 0) {
    s.length[slot] = length + fresh;
    s.finished[slot] = out.finish[r];
  }
  if (out.accepted[r] > 0) s.computed[slot] += out.accepted[r];
  s.draft_count[slot] = drafts;
}

}  // namespace

void edit_slots(cudaStream_t stream, const SlotArrays& slots, const SlotEdit* edits, int32_t count,
                const int32_t* payload) {
  if (count == 0) return;
  edit_kernel<<<static_cast<unsigned>(count), kThreads, 0, stream>>>(slots, edits, payload);
}

void advance(cudaStream_t stream, const SlotArrays& slots, const PlanRowData* rows,
             const PlanTotals& totals, const BatchArrays& batch) {
  if (batch.rows == 0) return;
  advance_kernel<<<static_cast<unsigned>(totals.rows + 1), kThreads, 0, stream>>>(slots, rows,
                                                                                  totals, batch);
}

void next_tokens(cudaStream_t stream, const SlotArrays& slots, const BatchArrays& batch,
                 int32_t* out) {
  if (batch.tokens == 0) return;
  next_kernel<<<static_cast<unsigned>((batch.tokens + kThreads - 1) / kThreads), kThreads, 0,
                stream>>>(slots, batch, out);
}

void last_accepted(cudaStream_t stream, const BatchArrays& batch, const int32_t* accepted,
                   int32_t* out) {
  if (batch.rows == 0) return;
  last_kernel<<<static_cast<unsigned>((batch.rows + kThreads - 1) / kThreads), kThreads, 0,
                stream>>>(batch, accepted, out);
}

void apply_samples(cudaStream_t stream, const SlotArrays& slots, const BatchArrays& batch,
                   const OutputArrays& out) {
  if (batch.rows == 0) return;
  apply_kernel<<<static_cast<unsigned>(batch.rows), 32, 0, stream>>>(slots, batch, out);
}

}  // namespace fathom::kernels
