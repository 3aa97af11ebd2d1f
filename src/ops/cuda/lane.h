// Lane: a second stream, for kernels of an op that may run beside those of the main one. What they
// use must stay theirs until join(). The rank's thread owns it.
#pragma once

#include <cuda_runtime_api.h>

namespace fathom {

class Lane {
 public:
  cudaError_t open();
  // Once the device has no more work.
  void close();

  cudaStream_t stream() const { return stream_; }
  // What `main` was given so far comes before what the lane is given from here on.
  cudaError_t fork(cudaStream_t main);
  // What the lane was given comes before what `main` is given from here on.
  cudaError_t join(cudaStream_t main);

 private:
  static cudaError_t order(cudaStream_t earlier, cudaEvent_t event, cudaStream_t later);

  cudaStream_t stream_ = nullptr;
  cudaEvent_t forked_ = nullptr;
  cudaEvent_t joined_ = nullptr;
};

}  // namespace fathom
