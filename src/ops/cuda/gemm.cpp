// Linear layers: the chooser's kernel for each.
#include <algorithm>

#include "kernels/dense.h"
#include "kernels/gated.h"
#include "kernels/skinny_gemm.h"
#include "kernels/wide_gemm.h"
#include "ops/cuda/choose_gemm.h"
#include "ops/cuda/cuda_ops.h"

namespace fathom {
namespace {

using kernels::Format;

bool aligned(const void* data, int64_t stride, DType dtype) {
  return reinterpret_cast<uintptr_t>(data) % 16 == 0 && stride * dtype_bytes(dtype) % 16 == 0;
}

GemmProblem problem_of(const Act& x, const Weight& weight, const kernels::Rows& out, int32_t sms,
                       bool hopper) {
  GemmProblem p;
  p.rows = x.data.shape[0];
  p.out = weight.out();
  p.in = weight.in();
  p.weight = weight.format;
  p.act = x.spec.format;
  p.first_column_in_block = weight.first_column_in_block;
  p.aligned = aligned(x.data.data, x.data.stride[0], x.data.dtype) &&
              aligned(weight.values.data, weight.values.stride[0], weight.values.dtype);
  const int64_t size = out.format == Format::kF32 ? 4 : 2;
  p.out_in_vectors = reinterpret_cast<uintptr_t>(out.data) % 16 == 0 && out.stride * size % 16 == 0;
  p.sms = sms;
  p.hopper = hopper;
  return p;
}

// What cuBLASLt would write: it has no rounding inside, so rounded float32 passes through bf16.
bool library_runs(const LargeGemm* large, const kernels::Matrix& w, kernels::Rows out, Format round,
                  int64_t rows) {
  if (large == nullptr || rows == 0) return false;
  if (out.format != round && (out.format != Format::kF32 || out.stride != w.out)) return false;
  out.format = round;
  return large->runs(w, out, rows);
}

constexpr int64_t kTurnBytesMin = 8'000'000;  // a few microseconds of the memory's time

int64_t weight_bytes(const kernels::Matrix& w) {
  return w.out * w.in * (w.format == Format::kFp8 ? 1 : 2);
}

// Rows from `first` on.
kernels::Rows rows_from(kernels::Rows rows, int64_t first) {
  const int64_t bytes = rows.format == Format::kF32 ? 4 : rows.format == Format::kBF16 ? 2 : 1;
  rows.data = static_cast<std::byte*>(rows.data) + first * rows.stride * bytes;
  if (rows.scales != nullptr) rows.scales += first * rows.scale_stride;
  return rows;
}

}  // namespace

void CudaOps::multiply(const Act& x, const Weight& weight, const Tensor& out, Format round) {
  FATHOM_CHECK(x.data.shape[1] == weight.in(), "activation and weight differ in columns");
  const kernels::Matrix w = matrix_of(weight);
  const kernels::Rows to = rows_of(out);
  if (multiply_packed(x, weight, false, to, round)) return;
  const kernels::Epilogue plain{out.data, to.format, to.stride};
  if (round == Format::kBF16 && multiply_many(x, weight, false, plain)) return;
  if (round == Format::kF32 && multiply_exact(x, weight, to)) return;
  if (to.format == round && multiply_tall(x, weight, false, plain)) return;
  GemmProblem problem = problem_of(x, weight, to, sms_, hopper_);
  problem.deterministic = deterministic_;
  const bool large = !hopper_ || problem.rows > kernels::kSkinnyTokensMax;
  problem.library = large && library_runs(large_.get(), w, to, round, problem.rows);
  const GemmChoice choice = choose_gemm(problem);
  if (choice.kernel == GemmKernel::kWide) {
    check(kernels::wide_gemm(stream_, rows_of(x), problem.rows, w, to, round, false, choice.wide),
          "wide_gemm");
    return;
  }
  int64_t done = 0;
  if (choice.kernel == GemmKernel::kLibrary &&
      multiply_large(x, choice.library_rows, w, to, round)) {
    done = choice.library_rows;
  }
  if (choice.kernel == GemmKernel::kPlain || (!hopper_ && done == 0)) {
    kernels::linear(stream_, rows_of(x), problem.rows, w, to, round);
    return;
  }
  problem.rows -= done;
  multiply_in_passes(rows_from(rows_of(x), done), problem, w, rows_from(to, done), round);
}

kernels::Turn CudaOps::take_turn(int64_t blocks) {
  kernels::Turn turn;
  if (blocks > 0) {
    const uint32_t at = next_turn_++;
    turn = {turns_ + (at + kTurns - 1) % kTurns, turn_blocks_, turns_ + at % kTurns,
            turns_ + (at + 1) % kTurns};
  }
  turn_blocks_ = static_cast<uint32_t>(blocks);
  return turn;
}

void CudaOps::multiply_in_passes(const kernels::Rows& x, GemmProblem problem,
                                 const kernels::Matrix& weight, const kernels::Rows& out,
                                 Format round) {
  const int64_t rows = problem.rows;
  problem.library = false;
  for (int64_t first = 0; first < rows; first += problem.rows) {
    problem.rows = rows - first;
    const kernels::SkinnyPlan plan = choose_gemm(problem).skinny;
    problem.rows = std::min<int64_t>(problem.rows, plan.token_tile * plan.token_blocks);
    // Behind small weights, and behind kernels that let the next one start late, there is nothing
    // to hold back.
    const bool counts = plan.token_tile < kernels::kSkinnyTokensMax &&
                        weight_bytes(weight) >= kTurnBytesMin;
    const int64_t blocks = counts ? kernels::skinny_blocks(weight.out, plan) : 0;
    check(kernels::skinny_gemm(stream_, rows_from(x, first), problem.rows, weight,
                               rows_from(out, first), round, plan, take_turn(blocks)),
          "skinny_gemm");
  }
}

// The whole layer in one kernel, where there is one for its shape.
bool CudaOps::multiply_gated(const Act& x, const Weight& gate_up, const Act& act) {
  FATHOM_CHECK(x.data.shape[1] == gate_up.in(), "activation and weight differ in columns");
  if (act.spec.format != ActFormat::kBF16) return false;
  const kernels::Rows to = rows_of(act);
  GemmProblem problem = problem_of(x, gate_up, to, sms_, hopper_);
  problem.gated = true;
  problem.deterministic = deterministic_;
  problem.library = large_ != nullptr;  // what it is compared with
  const GemmChoice choice = choose_gemm(problem);
  if (choice.kernel != GemmKernel::kWide) return false;
  check(kernels::wide_gemm(stream_, rows_of(x), problem.rows, matrix_of(gate_up), to, act_format(),
                           true, choice.wide),
        "wide_gemm");
  return true;
}

// The product passes through memory as it is rounded: bf16 holds it in native numerics.
Act CudaOps::gated_linear(const Act& x, const Weight& gate_up, ActSpec out) {
  arena_.name_op("gated_linear");
  const int64_t rows = x.data.shape[0];
  const int64_t width = gate_up.out() / 2;
  Act act = take_act(rows, width, out);
  const bool exact = act.spec.format == ActFormat::kBF16;
  if (exact && multiply_packed(x, gate_up, true, rows_of(act), act_format())) return act;
  if (multiply_many(x, gate_up, true, epilogue_of(act), &act.scales_by_group)) return act;
  if (multiply_tall(x, gate_up, true, epilogue_of(act))) return act;
  if (multiply_gated(x, gate_up, act)) return act;
  ArenaScope scope(arena_);
  const Tensor both = arena_.take(act_dtype(), {rows, 2 * width});
  multiply(x, gate_up, both, act_format());
  check(kernels::gate_rows(stream_, rows_of(both), rows, width, epilogue_of(act)), "gate_rows");
  return act;
}

}  // namespace fathom
