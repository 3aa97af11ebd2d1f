// Products of many rows on cuBLASLt: bf16, and e4m3 with scales of 1 x 128 (x) and 128 x 128 (W).
// Owned by CudaOps and called on its rank's thread. Algorithms are chosen, and their kernels
// loaded, when a weight is added at load; products look them up and allocate nothing.
#pragma once

#include <array>
#include <map>
#include <memory>
#include <optional>
#include <tuple>
#include <unordered_map>
#include <vector>

#include "kernels/format.h"
#include "ops/cuda/choose_gemm.h"
#include "ops/cuda/lt_library.h"

namespace fathom {

// Device memory.
struct LargeMemory {
  void* data = nullptr;
  size_t bytes = 0;
};

// Rows of a weight under one grid of scales.
struct LargePart {
  int64_t first_row = 0;
  int64_t rows = 0;
  const float* scales = nullptr;  // e4m3: [blocks of rows, blocks of columns, padded to fours]
};

class LargeGemm {
 public:
  // Null where cuBLASLt is not found. `workspace` is used by every product, one after another.
  static std::unique_ptr<LargeGemm> make(LargeMemory workspace);
  ~LargeGemm();

  // At load. `scratch` is memory for a trial of each algorithm, which loads its kernels.
  void add(cudaStream_t stream, const kernels::Matrix& weight, std::vector<LargePart> parts,
           LargeMemory scratch);
  // Whether `rows` rows of x can be multiplied into `out`.
  bool runs(const kernels::Matrix& weight, const kernels::Rows& out, int64_t rows) const;
  // out[i, o] = x[i, :] . w[o, :]. e4m3: rows is a multiple of 4, and `x_scales` has x's scales as
  // [blocks of columns, rows].
  bool run(cudaStream_t stream, const kernels::Rows& x, int64_t rows, const float* x_scales,
           const kernels::Matrix& weight, const kernels::Rows& out) const;

 private:
  using Algorithms = std::array<std::optional<cublasLtMatmulAlgo_t>, kLibraryBuckets>;
  // Rows of W, columns, formats of W and of the output.
  using Shape = std::tuple<int64_t, int64_t, kernels::Format, kernels::Format>;
  struct Product;

  LargeGemm(const LtLibrary& library, cublasLtHandle_t handle, LargeMemory workspace)
      : library_(library), handle_(handle), workspace_(workspace) {}
  void choose(cudaStream_t stream, const Shape& shape, const Product& sample, LargeMemory scratch);
  std::optional<cublasLtMatmulAlgo_t> find(const Product& product, int64_t rows) const;
  bool launch(cudaStream_t stream, const Product& product, int64_t rows,
              const cublasLtMatmulAlgo_t& algorithm) const;

  const LtLibrary& library_;
  cublasLtHandle_t handle_;
  LargeMemory workspace_;
  std::unordered_map<const void*, std::vector<LargePart>> weights_;
  std::map<Shape, Algorithms> algorithms_;
};

}  // namespace fathom
