// Alignment, row by row.
#include "ops/cuda/choose_rows.h"

#include <algorithm>

namespace fathom {
namespace {

constexpr int64_t kColumns = 8;
constexpr uintptr_t kBytes = 16;

bool in_vectors(const Tensor& t) {
  const bool known = t.dtype == DType::kF32 || t.dtype == DType::kBF16 || t.dtype == DType::kF8E4M3;
  return known && t.rank == 2 && t.stride[1] == 1 && t.shape[1] % kColumns == 0 &&
         t.stride[0] % kColumns == 0 && reinterpret_cast<uintptr_t>(t.data) % kBytes == 0;
}

}  // namespace

bool rows_in_vectors(std::initializer_list<const Tensor*> rows) {
  return std::all_of(rows.begin(), rows.end(),
                     [](const Tensor* t) { return t == nullptr || in_vectors(*t); });
}

bool groups_in_vectors(const ActSpec& spec) {
  return spec.format != ActFormat::kFp8Block || spec.first_column_in_block == 0;
}

}  // namespace fathom
