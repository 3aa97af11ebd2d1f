// The CPU backend's bounds: float32 copies of what an op reads and writes and, per thread, some
// decoded weight rows or a tile of attention. A test holds CpuOps to them.
#pragma once

#include "fathom/scratch.h"

namespace fathom {

class CpuScratch final : public ScratchBounds {
 public:
  // threads: of the CpuOps that will run.
  CpuScratch(Numerics numerics, int32_t threads) : numerics_(numerics), threads_(threads) {}

  int64_t rows(int64_t rows, int64_t columns) const override;
  int64_t product(int64_t rows, const Weight& weight) const override;
  int64_t gated(int64_t rows, const Weight& gate_up) const override;
  int64_t moe(int64_t tokens, int64_t hidden, const ActSpec& x,
              const MoeParams& params) const override;
  int64_t mla(const BatchView& batch, const KvView& cache, const MlaParams& params) const override;
  int64_t gqa(const BatchView& batch, const KvView& cache, const GqaParams& params) const override;
  int64_t sample(int64_t rows, int64_t vocab) const override;

 private:
  int64_t expert(int64_t tokens, const Weight& gate_up, const Weight& down) const;
  int64_t expert_input(int64_t rows, const Weight& gate_up) const;

  const Numerics numerics_;
  const int32_t threads_;
};

}  // namespace fathom
