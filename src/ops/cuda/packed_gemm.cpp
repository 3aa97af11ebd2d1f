// Packed copies of bf16 matrices, made at load, and the products of few rows that read them.
#include "kernels/packed_gemm.h"

#include "base/log.h"
#include "ops/cuda/choose_packed.h"
#include "ops/cuda/cuda_ops.h"

namespace fathom {
namespace {

using kernels::Format;

bool aligned(const void* data, int64_t stride_bytes) {
  return reinterpret_cast<uintptr_t>(data) % 16 == 0 && stride_bytes % 16 == 0;
}

bool aligned(const Tensor& t) { return aligned(t.data, t.stride[0] * dtype_bytes(t.dtype)); }

}  // namespace

GemmProblem CudaOps::packed_problem(const Weight& weight, bool gated) const {
  GemmProblem p;
  p.out = weight.out();
  p.in = weight.in();
  p.weight = weight.format;
  p.aligned = aligned(weight.values) && weight.values.stride[0] == weight.in();
  p.gated = gated;
  p.deterministic = deterministic_;
  p.sms = sms_;
  p.hopper = hopper_ && numerics_ == Numerics::kNative;
  return p;
}

Status CudaOps::pack_linear(const Weight& weight, bool gated) {
  if (!has_packed_form(packed_problem(weight, gated))) return Status::ok();
  if (uploading_ == nullptr) return make_packed(weight, gated);
  to_pack_.emplace_back(weight, gated);
  return Status::ok();
}

Status CudaOps::pack_waiting() {
  if (to_pack_.empty()) return Status::ok();
  for (const auto& [weight, gated] : to_pack_) {
    FATHOM_RETURN_IF_ERROR(make_packed(weight, gated));
  }
  Logger("cuda").info("weights packed", {{"matrices", static_cast<int64_t>(packed_.size())},
                                         {"of", static_cast<int64_t>(to_pack_.size())}});
  to_pack_.clear();
  return Status::ok();
}

// A matrix with too many numbers that have no packed form stays plain.
Status CudaOps::make_packed(const Weight& weight, bool gated) {
  kernels::PackedMatrix packed;
  packed.out = weight.out();
  packed.in = weight.in();
  packed.gated = gated;
  FATHOM_ASSIGN(void* records, allocate(kernels::packed_bytes(packed.out, packed.in)));
  if (packed_note_ == nullptr) {
    FATHOM_ASSIGN(void* memory, allocate(sizeof(kernels::PackedNote)));
    packed_note_ = static_cast<kernels::PackedNote*>(memory);
  }
  FATHOM_RETURN_IF_ERROR(
      cuda_status(kernels::pack_weights(stream_, matrix_of(weight), gated, records, packed_note_),
                  "pack_weights"));
  kernels::PackedNote note;
  FATHOM_RETURN_IF_ERROR(cuda_status(
      cudaMemcpyAsync(&note, packed_note_, sizeof note, cudaMemcpyDeviceToHost, stream_),
      "pack_weights"));
  FATHOM_RETURN_IF_ERROR(synchronize());
  if (!note.packed()) return Status::ok();
  packed.records = records;
  packed.base = note.base;
  packed_.insert_or_assign(weight.values.data, packed);
  return Status::ok();
}

bool CudaOps::multiply_packed(const Act& x, const Weight& weight, bool gated,
                              const kernels::Rows& out, Format round) {
  const auto found = packed_.find(weight.values.data);
  if (found == packed_.end() || found->second.gated != gated) return false;
  FATHOM_CHECK(x.data.shape[1] == weight.in(), "activation and weight differ in columns");
  GemmProblem problem = packed_problem(weight, gated);
  problem.rows = x.data.shape[0];
  problem.act = x.spec.format;
  problem.aligned = problem.aligned && aligned(x.data);
  problem.out_in_vectors = aligned(out.data, out.stride * (out.format == Format::kF32 ? 4 : 2));
  const auto plan = choose_packed(problem);
  if (!plan) return false;
  check(kernels::packed_gemm(stream_, rows_of(x), problem.rows, found->second, out, round, *plan),
        "packed_gemm");
  return true;
}

}  // namespace fathom
