// cuBLASLt is column-major: what it calls A is W, its B is x, its D the output, all transposed.
#include "ops/cuda/large_gemm.h"

#include <algorithm>

namespace fathom {
namespace {

using kernels::Format;

constexpr int64_t kPartsMax = 4;     // more are slower than the skinny kernel's passes
constexpr int64_t kTrialRows = 128;  // of the run that loads an algorithm's kernels
constexpr uint32_t kAlignment = 16;

int64_t size_of(Format format) {
  return format == Format::kF32 ? 4 : format == Format::kBF16 ? 2 : 1;
}

cudaDataType_t type_of(Format format) {
  return format == Format::kF32    ? CUDA_R_32F
         : format == Format::kBF16 ? CUDA_R_16BF
                                   : CUDA_R_8F_E4M3;
}

bool aligned(const void* data, int64_t stride, Format format) {
  return reinterpret_cast<uintptr_t>(data) % kAlignment == 0 &&
         stride * size_of(format) % kAlignment == 0;
}

const void* offset(const void* data, int64_t rows, int64_t stride, Format format) {
  return static_cast<const std::byte*>(data) + rows * stride * size_of(format);
}

struct Descriptors {
  cublasLtMatmulDescOpaque_t product;
  cublasLtMatrixLayoutOpaque_t w;
  cublasLtMatrixLayoutOpaque_t x;
  cublasLtMatrixLayoutOpaque_t out;
};

}  // namespace

struct LargeGemm::Product {
  Shape shape;
  const void* w = nullptr;
  int64_t w_stride = 0;
  const float* w_scales = nullptr;
  const void* x = nullptr;
  int64_t x_stride = 0;
  const float* x_scales = nullptr;
  void* out = nullptr;
  int64_t out_stride = 0;

  bool describe(const LtLibrary& lt, int64_t rows, Descriptors& d) const {
    const auto [n, k, format, out_format] = shape;
    const auto layout = [&](cublasLtMatrixLayoutOpaque_t& to, Format of, int64_t height,
                            int64_t width, int64_t stride) {
      return lt.init_layout(&to, sizeof to, type_of(of), static_cast<uint64_t>(height),
                            static_cast<uint64_t>(width), stride) == CUBLAS_STATUS_SUCCESS;
    };
    const auto set = [&](cublasLtMatmulDescAttributes_t attribute, const auto& value) {
      return lt.set_product(&d.product, attribute, &value, sizeof value) == CUBLAS_STATUS_SUCCESS;
    };
    const cublasOperation_t transposed = CUBLAS_OP_T;
    bool ok = lt.init_product(&d.product, sizeof d.product, CUBLAS_COMPUTE_32F, CUDA_R_32F) ==
                  CUBLAS_STATUS_SUCCESS &&
              set(CUBLASLT_MATMUL_DESC_TRANSA, transposed) && layout(d.w, format, k, n, w_stride) &&
              layout(d.x, format, k, rows, x_stride) &&
              layout(d.out, out_format, n, rows, out_stride);
    if (ok && format == Format::kFp8) {
      const cublasLtMatmulMatrixScale_t blocks = CUBLASLT_MATMUL_MATRIX_SCALE_BLK128x128_32F;
      const cublasLtMatmulMatrixScale_t vectors = CUBLASLT_MATMUL_MATRIX_SCALE_VEC128_32F;
      ok = set(CUBLASLT_MATMUL_DESC_A_SCALE_MODE, blocks) &&
           set(CUBLASLT_MATMUL_DESC_B_SCALE_MODE, vectors) &&
           set(CUBLASLT_MATMUL_DESC_A_SCALE_POINTER, w_scales) &&
           set(CUBLASLT_MATMUL_DESC_B_SCALE_POINTER, x_scales);
    }
    return ok;
  }
};

std::unique_ptr<LargeGemm> LargeGemm::make(LargeMemory workspace) {
  const LtLibrary* library = LtLibrary::open();
  cublasLtHandle_t handle = nullptr;
  if (library == nullptr || library->create(&handle) != CUBLAS_STATUS_SUCCESS) return nullptr;
  return std::unique_ptr<LargeGemm>(new LargeGemm(*library, handle, workspace));
}

LargeGemm::~LargeGemm() { library_.destroy(handle_); }

std::optional<cublasLtMatmulAlgo_t> LargeGemm::find(const Product& product, int64_t rows) const {
  Descriptors d;
  cublasLtMatmulPreferenceOpaque_t preference;
  if (!product.describe(library_, rows, d)) return std::nullopt;
  library_.init_preference(&preference, sizeof preference);
  const auto prefer = [&](cublasLtMatmulPreferenceAttributes_t attribute, const auto& value) {
    library_.set_preference(&preference, attribute, &value, sizeof value);
  };
  prefer(CUBLASLT_MATMUL_PREF_MAX_WORKSPACE_BYTES, static_cast<uint64_t>(workspace_.bytes));
  prefer(CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_A_BYTES, kAlignment);
  prefer(CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_B_BYTES, kAlignment);
  prefer(CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_C_BYTES, kAlignment);
  prefer(CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_D_BYTES, kAlignment);
  cublasLtMatmulHeuristicResult_t result{};
  int found = 0;
  const cublasStatus_t status = library_.find_algorithms(handle_, &d.product, &d.w, &d.x, &d.out,
                                                         &d.out, &preference, 1, &result, &found);
  const bool ok =
      status == CUBLAS_STATUS_SUCCESS && found == 1 && result.state == CUBLAS_STATUS_SUCCESS;
  return ok ? std::optional(result.algo) : std::nullopt;
}

bool LargeGemm::launch(cudaStream_t stream, const Product& p, int64_t rows,
                       const cublasLtMatmulAlgo_t& algorithm) const {
  Descriptors d;
  if (!p.describe(library_, rows, d)) return false;
  const float one = 1.0F;
  const float zero = 0.0F;
  return library_.matmul(handle_, &d.product, &one, p.w, &d.w, p.x, &d.x, &zero, p.out, &d.out,
                         p.out, &d.out, &algorithm, workspace_.data, workspace_.bytes,
                         stream) == CUBLAS_STATUS_SUCCESS;
}

// An algorithm whose trial is refused is not used.
void LargeGemm::choose(cudaStream_t stream, const Shape& shape, const Product& sample,
                       LargeMemory scratch) {
  const auto [n, k, format, out_format] = shape;
  const int64_t row_bytes = k * size_of(format) + n * size_of(out_format) + (k + 127) / 128 * 4;
  const int64_t fitting = (static_cast<int64_t>(scratch.bytes) - 1024) / row_bytes / 4 * 4;
  const int64_t rows = std::min(kTrialRows, fitting);
  Algorithms& algorithms = algorithms_[shape];
  if (rows < 4) return;
  const auto place = [](int64_t bytes) { return (bytes + 255) / 256 * 256; };
  auto* base = static_cast<std::byte*>(scratch.data);
  Product trial = sample;
  trial.shape = shape;
  trial.x = base;
  trial.x_stride = k;
  base += place(rows * k * size_of(format));
  trial.x_scales = reinterpret_cast<const float*>(base);
  trial.out = base + place((k + 127) / 128 * rows * 4);
  trial.out_stride = n;
  for (int bucket = 0; bucket < kLibraryBuckets; ++bucket) {
    algorithms[bucket] = find(trial, kLibraryRows[bucket]);
    if (algorithms[bucket] && !launch(stream, trial, rows, *algorithms[bucket])) {
      algorithms[bucket].reset();
    }
  }
}

void LargeGemm::add(cudaStream_t stream, const kernels::Matrix& weight,
                    std::vector<LargePart> parts, LargeMemory scratch) {
  const bool fp8 = weight.format == Format::kFp8;
  if (weight.format == Format::kF32 || weight.first_column_in_block != 0 ||
      static_cast<int64_t>(parts.size()) > kPartsMax ||
      !aligned(weight.data, weight.stride, weight.format)) {
    return;
  }
  for (const LargePart& part : parts) {
    if (fp8 && !aligned(part.scales, 0, Format::kF32)) return;
    Product sample;
    sample.w = offset(weight.data, part.first_row, weight.stride, weight.format);
    sample.w_stride = weight.stride;
    sample.w_scales = part.scales;
    for (const Format out : {Format::kBF16, Format::kF32}) {
      const Shape shape{part.rows, weight.in, weight.format, out};
      if (part.rows * size_of(out) % kAlignment != 0 || algorithms_.count(shape) != 0) continue;
      choose(stream, shape, sample, scratch);
    }
  }
  weights_.insert_or_assign(weight.data, std::move(parts));
}

bool LargeGemm::runs(const kernels::Matrix& weight, const kernels::Rows& out, int64_t rows) const {
  const auto found = weights_.find(weight.data);
  if (found == weights_.end() || !aligned(out.data, out.stride, out.format)) return false;
  return std::all_of(found->second.begin(), found->second.end(), [&](const LargePart& part) {
    const auto algorithms =
        algorithms_.find(Shape{part.rows, weight.in, weight.format, out.format});
    return algorithms != algorithms_.end() && algorithms->second[library_bucket(rows)] &&
           aligned(offset(out.data, 1, part.first_row, out.format), 0, out.format);
  });
}

bool LargeGemm::run(cudaStream_t stream, const kernels::Rows& x, int64_t rows,
                    const float* x_scales, const kernels::Matrix& weight,
                    const kernels::Rows& out) const {
  for (const LargePart& part : weights_.at(weight.data)) {
    Product product;
    product.shape = Shape{part.rows, weight.in, weight.format, out.format};
    product.w = offset(weight.data, part.first_row, weight.stride, weight.format);
    product.w_stride = weight.stride;
    product.w_scales = part.scales;
    product.x = x.data;
    product.x_stride = x.stride;
    product.x_scales = x_scales;
    product.out = static_cast<std::byte*>(out.data) + part.first_row * size_of(out.format);
    product.out_stride = out.stride;
    const Algorithms& algorithms = algorithms_.at(product.shape);
    if (!launch(stream, product, rows, *algorithms[library_bucket(rows)])) return false;
  }
  return true;
}

}  // namespace fathom
