# CUDA for kernels/, src/ops/cuda and src/comm/cuda. Included with FATHOM_CUDA=ON.
include_guard(GLOBAL)

if(NOT CMAKE_CUDA_COMPILER)
  find_program(FATHOM_NVCC nvcc HINTS ENV CUDA_HOME PATHS /usr/local/cuda PATH_SUFFIXES bin
    REQUIRED)
  set(CMAKE_CUDA_COMPILER "${FATHOM_NVCC}")
endif()
set(FATHOM_CUDA_ARCHITECTURES 90a CACHE STRING
  "GPU architectures: 90a (H100, H200), 80 (A100), 86 (A10), 89 (L4, L40S); a list")
set(CMAKE_CUDA_ARCHITECTURES ${FATHOM_CUDA_ARCHITECTURES})
enable_language(CUDA)
find_package(CUDAToolkit 13 REQUIRED)

# CMake 3.25 does not know how nvcc is asked for C++20, which CUDA sources take over from
# CMAKE_CXX_STANDARD: it is told. nvcc has no dialect with extensions.
if(NOT CMAKE_CUDA20_STANDARD_COMPILE_OPTION)
  set(CMAKE_CUDA20_STANDARD_COMPILE_OPTION "-std=c++20")
  set(CMAKE_CUDA20_EXTENSION_COMPILE_OPTION "-std=c++20")
endif()

target_compile_options(fathom_options INTERFACE
  $<$<COMPILE_LANGUAGE:CUDA>:-lineinfo;--expt-relaxed-constexpr>
  $<$<COMPILE_LANGUAGE:CUDA>:-Werror=all-warnings;-Xcompiler=-Wall,-Wextra>)
