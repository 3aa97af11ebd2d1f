// Sums of what CpuOps takes, each part rounded as the arena rounds.
#include "ops/count/cpu_scratch.h"

#include <algorithm>

namespace fathom {
namespace {

// Decoded weight rows that one thread of a product holds at most.
constexpr int64_t kDecodedRowsPerThread = 16;
// Rows of experts that may be at work at a time, if the step has fewer tokens.
constexpr int64_t kExpertRows = 128;
// Query rows that a thread works on at a time, at most.
constexpr int64_t kTileRows = 64;

int64_t floats(int64_t n) { return (n * 4 + 255) / 256 * 256; }

int64_t scale_groups(int64_t columns, const ActSpec& spec) {
  return (spec.first_column_in_block + columns + 127) / 128;
}

// Values and scales, where there are any, of a row as float32.
int64_t row_floats(int64_t columns, const ActSpec& spec) {
  return columns + (spec.format == ActFormat::kFp8Block ? scale_groups(columns, spec) : 0);
}

}  // namespace

int64_t CpuScratch::rows(int64_t, int64_t columns) const {
  return floats(2 * threads_ * columns) + floats(threads_ * columns);
}

int64_t CpuScratch::product(int64_t rows, const Weight& weight) const {
  const int64_t groups = scale_groups(weight.in(), act_spec_of(weight, numerics_));
  return floats(rows * (weight.in() + groups)) + floats(rows * weight.out()) +
         floats(threads_ * kDecodedRowsPerThread * (weight.in() + 64));
}

int64_t CpuScratch::gated(int64_t rows, const Weight& gate_up) const {
  return product(rows, gate_up);
}

// Experts at work over `tokens`: both products, and the activation between them.
int64_t CpuScratch::expert(int64_t tokens, const Weight& gate_up, const Weight& down) const {
  const int64_t rows = std::max(tokens, kExpertRows);
  const int64_t width = gate_up.out() / 2;
  return product(rows, gate_up) + act_bytes_max(rows, width, act_spec_of(down, numerics_)) +
         product(rows, down);
}

// Inputs as an expert wants them.
int64_t CpuScratch::expert_input(int64_t rows, const Weight& gate_up) const {
  const ActSpec spec = act_spec_of(gate_up, numerics_);
  const int64_t hidden = gate_up.in();
  return act_bytes_max(rows, hidden, spec) +
         floats(rows * (hidden + scale_groups(hidden, spec)) + hidden);
}

// Scores, routes, dispatch lists and sums beside what the experts and the shared expert take.
int64_t CpuScratch::moe(int64_t tokens, int64_t hidden, const ActSpec& x,
                        const MoeParams& p) const {
  const int64_t choices = tokens * p.experts_per_token;
  const auto here = static_cast<int64_t>(p.gate_up.size());
  int64_t bytes = floats(tokens * row_floats(hidden, x)) +
                  floats(tokens * p.experts + 3 * p.experts + 2 * p.groups) +
                  4 * floats(choices + here + 1) + floats(tokens * hidden);
  int64_t experts = 0;
  if (here > 0) {
    bytes += expert_input(tokens, p.gate_up.front());
    experts = expert(tokens, p.gate_up.front(), p.down.front());
  }
  if (p.shared_gate_up.values.defined()) {
    bytes += expert_input(tokens, p.shared_gate_up);
    experts = std::max(experts, expert(tokens, p.shared_gate_up, p.shared_down));
  }
  return bytes + experts;
}

// Queries and outputs of every token; per thread a tile of query rows with its running softmax
// over one block, and that block's entries, keys and values.
int64_t CpuScratch::mla(const BatchView& batch, const KvView& cache, const MlaParams& p) const {
  const StepShape& shape = batch.shape;
  const int64_t entry = p.kv_lora + p.rope_dims;
  const int64_t block = cache.block_tokens;
  const int64_t head_dims = p.nope_dims + p.rope_dims + p.value_dims;
  const int64_t row = std::max(entry + p.kv_lora, head_dims) + block + 3;
  return floats(int64_t{shape.tokens} * p.heads * (p.nope_dims + p.rope_dims)) +
         floats(int64_t{shape.tokens} * p.heads * p.value_dims) + floats(entry) +
         floats(threads_ * (kTileRows * row + block * (entry + head_dims)));
}

// Queries and outputs of every token, a row of the input; per thread a tile of query rows with its
// running softmax over one block, and that block's keys and values where the cache is FP8.
int64_t CpuScratch::gqa(const BatchView& batch, const KvView& cache, const GqaParams& p) const {
  const StepShape& shape = batch.shape;
  const int64_t columns = int64_t{p.heads} * p.head_dims;
  const int64_t entry = 2 * int64_t{p.kv_heads} * p.head_dims;
  const int64_t block = cache.block_tokens;
  const int64_t tile_rows = std::max<int64_t>(kTileRows, p.heads / p.kv_heads);
  const bool fp8 = cache.cache.dtype == DType::kF8E4M3;
  return 2 * floats(shape.tokens * columns) + floats(columns + entry) +
         floats(threads_ * tile_rows * (2 * p.head_dims + block + 3)) +
         (fp8 ? floats(threads_ * 2 * block * p.head_dims) : 0);
}

// Where each row's samples begin; per thread: one row's weights, candidates and penalty counts.
int64_t CpuScratch::sample(int64_t rows, int64_t vocab) const {
  return floats(rows + 1) + floats(threads_ * 3 * vocab) + floats(threads_ * 2 * vocab);
}

}  // namespace fathom
