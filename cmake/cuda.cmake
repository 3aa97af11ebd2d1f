# CUDA for kernels/, src/ops/cuda and src/comm/cuda. Included with FATHOM_CUDA=ON.
include_guard(GLOBAL)

if(NOT CMAKE_CUDA_COMPILER)
  find_program(FATHOM_NVCC nvcc HINTS ENV CUDA_HOME PATHS /usr/local/cuda PATH_SUFFIXES bin
    REQUIRED)
  set(CMAKE_CUDA_COMPILER "${FATHOM_NVCC}")
endif()
set(CMAKE_CUDA_ARCHITECTURES 90a CACHE STRING "GPU architectures")
enable_language(CUDA)
find_package(CUDAToolkit 13 REQUIRED)

# CMake 3.25 does not know nvcc 13's C++20: the dialect is given as a flag.
target_compile_options(fathom_options INTERFACE
  $<$<COMPILE_LANGUAGE:CUDA>:-std=c++20;-lineinfo;--expt-relaxed-constexpr>
  $<$<COMPILE_LANGUAGE:CUDA>:-Werror=all-warnings;-Xcompiler=-Wall,-Wextra>)
