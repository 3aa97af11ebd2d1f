// Opens cuBLASLt once per process.
#include "ops/cuda/lt_library.h"

#include <dlfcn.h>

namespace fathom {
namespace {

template <typename Function>
bool find(void* library, const char* name, Function* to) {
  *to = reinterpret_cast<Function>(::dlsym(library, name));
  return *to != nullptr;
}

// The loader's search, then where CUDA's packages put it.
void* open_library() {
  for (const char* name : {"libcublasLt.so.13", "/usr/local/cuda/lib64/libcublasLt.so.13"}) {
    if (void* library = ::dlopen(name, RTLD_NOW | RTLD_LOCAL)) return library;
  }
  return nullptr;
}

bool find_all(void* library, LtLibrary& lt) {
  return find(library, "cublasLtCreate", &lt.create) &&
         find(library, "cublasLtDestroy", &lt.destroy) &&
         find(library, "cublasLtMatmul", &lt.matmul) &&
         find(library, "cublasLtMatmulAlgoGetHeuristic", &lt.find_algorithms) &&
         find(library, "cublasLtMatmulDescInit_internal", &lt.init_product) &&
         find(library, "cublasLtMatmulDescSetAttribute", &lt.set_product) &&
         find(library, "cublasLtMatrixLayoutInit_internal", &lt.init_layout) &&
         find(library, "cublasLtMatmulPreferenceInit_internal", &lt.init_preference) &&
         find(library, "cublasLtMatmulPreferenceSetAttribute", &lt.set_preference);
}

}  // namespace

const LtLibrary* LtLibrary::open() {
  static const LtLibrary* const opened = []() -> const LtLibrary* {
    static LtLibrary lt;
    void* library = open_library();
    return library != nullptr && find_all(library, lt) ? &lt : nullptr;
  }();
  return opened;
}

}  // namespace fathom
