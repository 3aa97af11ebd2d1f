// A stream and the two events that order it.
#include "ops/cuda/lane.h"

#include <initializer_list>

namespace fathom {

cudaError_t Lane::open() {
  cudaError_t error = cudaStreamCreateWithFlags(&stream_, cudaStreamNonBlocking);
  for (cudaEvent_t* event : {&forked_, &joined_}) {
    if (error == cudaSuccess) error = cudaEventCreateWithFlags(event, cudaEventDisableTiming);
  }
  return error;
}

void Lane::close() {
  for (cudaEvent_t event : {forked_, joined_}) {
    if (event != nullptr) cudaEventDestroy(event);
  }
  if (stream_ != nullptr) cudaStreamDestroy(stream_);
}

cudaError_t Lane::order(cudaStream_t earlier, cudaEvent_t event, cudaStream_t later) {
  const cudaError_t error = cudaEventRecord(event, earlier);
  return error == cudaSuccess ? cudaStreamWaitEvent(later, event) : error;
}

cudaError_t Lane::fork(cudaStream_t main) { return order(main, forked_, stream_); }

cudaError_t Lane::join(cudaStream_t main) { return order(stream_, joined_, main); }

}  // namespace fathom
