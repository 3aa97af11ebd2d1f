// Grouped-query attention: heads made ready for all tokens, then decode and verify rows, then
// prefill rows.
#include "kernels/gqa.h"

#include <string>

#include "fathom/fp8_cache.h"
#include "kernels/gqa_decode.h"
#include "kernels/gqa_few.h"
#include "kernels/gqa_prepare_many.h"
#include "kernels/tall_gemm.h"
#include "ops/cuda/choose_gqa.h"
#include "ops/cuda/cuda_ops.h"
#include "ops/cuda/gqa_step.h"
#include "ops/cuda/slot_arrays.h"

namespace fathom {
namespace {

using kernels::Format;

constexpr int32_t kHeadDimsMax = 256;

const float* floats_of(const Tensor& t) { return t.defined() ? t.as<float>() : nullptr; }

bool has_fast_prepare(int32_t head_dims) {
  return head_dims == 64 || head_dims == 128 || head_dims == 256;
}

GqaProblem problem_of(const BatchView& batch, const KvView& cache, DType qkv, const GqaParams& p,
                      int32_t sms) {
  GqaProblem problem;
  problem.rows = batch.shape.decode_rows;
  problem.query_tokens_max = batch.shape.query_tokens_max;
  problem.heads = p.heads;
  problem.kv_heads = p.kv_heads;
  problem.head_dims = p.head_dims;
  problem.block_tokens = cache.block_tokens;
  problem.blocks_max = static_cast<int32_t>(batch.block_table.shape[2]);
  problem.bf16 = cache.cache.dtype != DType::kF32;
  problem.alone = batch.shape.tokens == batch.shape.decode_rows &&
                  batch.shape.rows == batch.shape.decode_rows && qkv == DType::kBF16 &&
                  cache.cache.dtype == DType::kBF16;
  problem.bf16_products = p.out.format == ActFormat::kBF16;
  problem.sms = sms;
  return problem;
}

// Whether a kernel may write the heads' values as their consumer wants them.
bool heads_are_groups(const GqaParams& p) {
  return p.out.format != ActFormat::kFp8Block ||
         (p.head_dims == 128 && p.out.first_column_in_block == 0);
}

int64_t cache_columns(const KvView& cache, const GqaParams& p) {
  const Fp8HeadsLayout fp8{p.kv_heads, p.head_dims, cache.block_tokens};
  return cache.cache.dtype == DType::kF8E4M3 ? fp8.entry_bytes() : fp8.code_bytes();
}

}  // namespace

Status CudaOps::check_cache(DType dtype, int32_t head_dims) const {
  const bool latents = head_dims == 0;
  if (dtype != DType::kF8E4M3 || latents || has_fast_prepare(head_dims)) return Status::ok();
  return unimplemented("kv_cache_dtype fp8 is not there for heads of " + std::to_string(head_dims) +
                       " dimensions on a GPU")
      .about("kv_cache_dtype");
}

void CudaOps::gqa_prepare_step(const GqaStep& step, const GqaSource& from, int32_t* arrivals,
                               int32_t arrival_count) {
  const GqaParams& p = step.params;
  if (from.qkv == nullptr) {
    const kernels::GqaPrepareCall call{step.shape,        step.tokens, {},       {},
                                       step.queries.data, step.out,    arrivals, arrival_count};
    check(kernels::tall_heads_gemm(stream_, rows_of(*from.x), step.tokens.tokens,
                                   matrix_of(*from.weight), call, from.plan, sms_),
          "gqa_attention");
    return;
  }
  const Tensor& qkv = *from.qkv;
  const kernels::GqaHeads heads{floats_of(p.bias), floats_of(p.q_norm), floats_of(p.k_norm)};
  const bool fast = qkv.dtype == DType::kBF16 && step.tokens.cache_format != Format::kF32 &&
                    has_fast_prepare(p.head_dims);
  if (!fast) {
    FATHOM_CHECK(step.tokens.cache_format != Format::kFp8, "check_cache refuses such a cache");
    kernels::gqa_prepare(stream_, step.shape, step.tokens, heads, rows_of(qkv),
                         rows_of(step.queries));
    return;
  }
  const kernels::GqaPrepareCall call{step.shape,        step.tokens, heads,    rows_of(qkv),
                                     step.queries.data, step.out,    arrivals, arrival_count};
  check(kernels::gqa_prepares_many(call) ? kernels::gqa_prepare_many(stream_, call)
                                         : kernels::gqa_prepare_heads(stream_, call),
        "gqa_attention");
}

void CudaOps::gqa_decode_rows(const GqaStep& step, const kernels::GqaDecodePlan& plan,
                              const GqaSource& from, int32_t* arrivals) {
  const BatchView& batch = step.batch;
  const GqaParams& p = step.params;
  kernels::GqaDecodeCall call;
  call.rows = {step.tokens.row_slot,          batch.row_first.as<int32_t>(),
               batch.row_query.as<int32_t>(), batch.row_context.as<int32_t>(),
               step.tokens.block_table,       step.tokens.table_stride,
               batch.shape.decode_rows};
  call.heads = p.heads;
  call.kv_heads = p.kv_heads;
  call.head_dims = p.head_dims;
  call.queries = step.queries.data;
  call.cache = step.cache.cache.data;
  call.fp8_cache = step.cache.cache.dtype == DType::kF8E4M3;
  call.cache_blocks = step.cache.cache.shape[0];
  call.softmax_scale = p.softmax_scale;
  call.out = step.out;
  const int64_t pairs = plan.slots() * plan.pairs;
  call.partial = floats(pairs * p.head_dims);
  call.statistics = reinterpret_cast<float2*>(floats(pairs * 2));
  call.arrivals = arrivals;
  if (plan.few) {
    const kernels::GqaHeads heads{floats_of(p.bias), floats_of(p.q_norm), floats_of(p.k_norm)};
    check(kernels::gqa_few(
              stream_, plan,
              {call, step.tokens, heads, p.norm_epsilon, rows_of(*from.qkv), gqa_exchange_}),
          "gqa_attention");
    take_turn(0);  // what comes behind need not wait for qkv's product: attention does
    return;
  }
  check(kernels::gqa_decode(stream_, plan, call), "gqa_attention");
}

Act CudaOps::gqa_attention(const BatchView& batch, const KvView& cache, const Tensor& qkv,
                           const GqaParams& p) {
  FATHOM_CHECK(qkv.shape[1] == (p.heads + 2 * int64_t{p.kv_heads}) * p.head_dims,
               "gqa_attention's inputs differ in shape");
  return attend_gqa(batch, cache, {qkv.dtype, &qkv, nullptr, nullptr, {}}, p);
}

Act CudaOps::attend_gqa(const BatchView& batch, const KvView& cache, const GqaSource& from,
                        const GqaParams& p) {
  arena_.name_op("gqa_attention");
  const int64_t tokens = batch.shape.tokens;
  const int64_t columns = int64_t{p.heads} * p.head_dims;
  FATHOM_CHECK(p.head_dims <= kHeadDimsMax && p.head_dims % 2 == 0,
               "this backend has heads of up to 256 dimensions");
  FATHOM_CHECK(cache.cache.shape[2] == cache_columns(cache, p), "the cache has another width");
  const Act act = take_act(tokens, columns, p.out);
  ArenaScope scope(arena_);
  GqaProblem problem = problem_of(batch, cache, from.dtype, p, sms_);
  problem.hopper = hopper_;
  const kernels::GqaDecodePlan plan = choose_gqa_decode(problem);
  const bool prefills = batch.shape.decode_rows < batch.shape.rows && hopper_ &&
                        prefills_on_tensor_cores(cache, from.dtype, p);
  // Rows that the plain kernel takes: [first_plain, end_plain).
  const int32_t first_plain = plan.pair_tile > 0 ? batch.shape.decode_rows : 0;
  const int32_t end_plain = prefills ? batch.shape.decode_rows : batch.shape.rows;
  const bool direct = first_plain == end_plain && heads_are_groups(p);
  float* values = direct ? nullptr : floats(tokens * columns);
  const GqaStep step{
      batch,
      cache,
      p,
      {p.heads, p.kv_heads, p.head_dims, cache.block_tokens, p.softmax_scale, p.norm_epsilon},
      attention_batch(batch, cache, p.rope),
      arena_.take(act_dtype(), {tokens, columns}),
      direct ? epilogue_of(act) : kernels::Epilogue{values, Format::kF32, columns}};
  int32_t* arrivals = arena_.take(DType::kI32, {2 * int64_t{plan.blocks} + 1}).as<int32_t>();
  if (!plan.few) gqa_prepare_step(step, from, arrivals, 2 * plan.blocks);
  // Beside each other, so that one's first blocks fill the multiprocessors that the other's last
  // ones leave.
  const bool beside = prefills && plan.pair_tile > 0;
  if (beside) check(lane_.fork(stream_), "gqa_attention");
  if (prefills) gqa_prefill_rows(step, beside ? lane_.stream() : stream_);
  if (plan.pair_tile > 0) gqa_decode_rows(step, plan, from, arrivals);
  if (first_plain < end_plain) {
    kernels::gqa_attend(stream_, step.shape, step.tokens, rows_of(step.queries), first_plain,
                        end_plain, values);
  }
  if (beside) check(lane_.join(stream_), "gqa_attention");
  if (!direct) finish(values, tokens, columns, act);
  check(cudaGetLastError(), "gqa_attention");
  return act;
}

}  // namespace fathom
