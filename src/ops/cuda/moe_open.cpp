// Sums of few tokens' experts that are left open for the norm behind them. Their rows outlive the
// op's arena scope, so they have memory of their own.
#include "kernels/moe_few.h"
#include "ops/cuda/choose_rows.h"
#include "ops/cuda/cuda_ops.h"

namespace fathom {

Status CudaOps::make_open_sum() {
  FATHOM_ASSIGN(const Tensor rows,
                reserve(DType::kF32, {kernels::kMoeOpenRowWords + 2 * kernels::kMoeOpenPairsMax}));
  open_rows_ = rows.as<float>();
  return Status::ok();
}

bool CudaOps::keeps_open(const kernels::MoeFew& m) const {
  return kernels::moe_few_rows(m) * m.hidden <= kernels::kMoeOpenRowWords &&
         int64_t{m.tokens} * m.router.experts_per_token <= kernels::kMoeOpenPairsMax;
}

void CudaOps::close_sum(const Partial& partial) {
  FATHOM_CHECK(partial.data.data == open_sum_.out.data, "another sum is open");
  check(kernels::moe_few_combine(stream_, open_sum_), "moe_few_combine");
}

bool CudaOps::close_sum_in_norm(const Partial& partial, const Tensor& residual,
                                const Tensor& weight, float epsilon, const Act& out) {
  FATHOM_CHECK(partial.data.data == open_sum_.out.data, "another sum is open");
  const bool fits = residual.dtype == DType::kBF16 && rows_in_vectors({&residual, &out.data}) &&
                    groups_in_vectors(out.spec) && residual.shape[0] == open_sum_.tokens &&
                    residual.shape[1] == open_sum_.hidden &&
                    kernels::moe_few_sum_norm_fits(open_sum_, epilogue_of(out));
  if (!fits) return false;
  const kernels::MoeFewNorm norm{{}, rows_of(residual), weight.as<float>(), epsilon};
  check(kernels::moe_few_sum_norm(stream_, open_sum_, norm, epilogue_of(out)), "norm");
  return true;
}

}  // namespace fathom
