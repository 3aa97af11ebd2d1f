// One layer's grouped attention of a step, with queries and cache ready: what its row classes
// share. A view; the rank's thread makes it.
#pragma once

#include "fathom/ops.h"
#include "kernels/attention_batch.h"
#include "kernels/gqa.h"
#include "kernels/tall_plan.h"

namespace fathom {

struct GqaStep {
  const BatchView& batch;
  const KvView& cache;
  const GqaParams& params;
  kernels::GqaShape shape;
  kernels::AttentionBatch tokens;
  Tensor queries;         // act_dtype [tokens, heads * head_dims], ready for the scores
  kernels::Epilogue out;  // [tokens, heads * head_dims]; padding tokens' rows are zero already
};

// Where queries, keys and values come from: they are there, or a product of this plan makes them.
struct GqaSource {
  DType dtype;
  const Tensor* qkv = nullptr;
  const Act* x = nullptr;
  const Weight* weight = nullptr;
  kernels::TallPlan plan;
};

// Whether CudaOps::gqa_prefill_rows takes a step's prefill rows. prefill_gqa.cpp
bool prefills_on_tensor_cores(const KvView& cache, DType qkv, const GqaParams& p);

}  // namespace fathom
