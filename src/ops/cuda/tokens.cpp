// Sampling and drafts.
#include <utility>

#include "ops/cuda/cuda_ops.h"
#include "ops/cuda/slot_arrays.h"

namespace fathom {

void CudaOps::sample(const SlotTable& slots, const BatchView& batch, const Tensor& logits,
                     const std::vector<TokenId>& eos, SampleOutput& out) {
  if (eos_ == nullptr && !eos.empty()) {
    const Tensor host = Tensor::of(const_cast<TokenId*>(eos.data()), DType::kI32,
                                   {static_cast<int64_t>(eos.size())});
    Result<Tensor> device = upload(host);
    FATHOM_CHECK(device.is_ok(), "no memory for the end-of-sequence ids");
    eos_ = device->as<int32_t>();
  }
  FATHOM_CHECK(slots.limits.vocab <= kernels::kSampleVocabMax, "the vocabulary is too large");
  arena_.name_op("sample");
  ArenaScope scope(arena_);
  kernels::SampleScratchArrays scratch;
  scratch.blocks = kernels::sample_blocks(batch.shape.rows, sms_);
  const int64_t numbers = int64_t{scratch.blocks} * slots.limits.vocab_padded;
  scratch.raw = floats(numbers);
  scratch.probabilities = floats(numbers);
  scratch.counts = arena_.take(DType::kI32, {numbers}).as<int32_t>();
  const bool in_vectors =
      reinterpret_cast<uintptr_t>(logits.data) % 16 == 0 && slots.limits.vocab_padded % 4 == 0;
  const int32_t sample_rows = batch.shape.sample_rows;  // none where no prompt ends
  if (in_vectors && sample_rows > 0 && sample_rows <= kernels::kSampleMeasuredRowsMax)
    scratch.measured = sample_measured_;
  if (logits.data == std::exchange(peaked_logits_, nullptr)) scratch.peaks = logit_peaks_;
  kernels::sample(stream_, slot_arrays(slots), batch_arrays(batch), logits.as<float>(), eos_,
                  static_cast<int32_t>(eos.size()), scratch, output_arrays(out));
  check(cudaGetLastError(), "sample");
}

Tensor CudaOps::next_tokens(const SlotTable& slots, const BatchView& batch) {
  const Tensor out = arena_.take(DType::kI32, {batch.shape.tokens});
  kernels::next_tokens(stream_, slot_arrays(slots), batch_arrays(batch), out.as<int32_t>());
  return out;
}

Tensor CudaOps::last_accepted(const BatchView& batch, const SampleOutput& out) {
  const Tensor index = arena_.take(DType::kI32, {batch.shape.rows});
  kernels::last_accepted(stream_, batch_arrays(batch), out.accepted.as<int32_t>(),
                         index.as<int32_t>());
  return index;
}

void CudaOps::propose(const SlotTable& slots, const BatchView& batch, const Tensor& logits,
                      int32_t index, SampleOutput& out) {
  FATHOM_CHECK(index < slots.limits.drafts_max, "more drafts than a slot can carry");
  kernels::propose(stream_, slot_arrays(slots), batch_arrays(batch), logits.as<float>(), index,
                   output_arrays(out));
  check(cudaGetLastError(), "propose");
}

void CudaOps::apply_samples(const SlotTable& slots, const BatchView& batch,
                            const SampleOutput& out) {
  kernels::apply_samples(stream_, slot_arrays(slots), batch_arrays(batch), output_arrays(out));
  check(cudaGetLastError(), "apply_samples");
}

}  // namespace fathom
