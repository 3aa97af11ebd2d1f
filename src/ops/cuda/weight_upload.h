// WeightUpload: copies weights into device memory with several threads. Each reads a piece (from
// the page cache, a disk or a generator) into pinned memory of its own while its last piece travels
// over the bus. Owned by CudaOps between begin_load and finish_load; one thread adds.
#pragma once

#include <cuda_runtime_api.h>

#include <condition_variable>
#include <cstddef>
#include <cstdint>
#include <deque>
#include <memory>
#include <mutex>
#include <span>
#include <thread>
#include <vector>

#include "fathom/status.h"
#include "fathom/weight.h"

namespace fathom {

// One stretch of a weight and where it goes.
struct UploadJob {
  std::shared_ptr<const ByteSource> from;
  int64_t at = 0;  // byte of `from`
  int64_t bytes = 0;
  std::byte* to = nullptr;  // device memory
  bool is_fp8 = false;      // e4m3 codes: NaN is refused
};

class WeightUpload {
 public:
  static Result<std::unique_ptr<WeightUpload>> start(int threads);
  // Forgets what was not begun.
  ~WeightUpload();

  // Waits while much is waiting, so that progress means bytes that have left the disk.
  void add(UploadJob job);
  // Returns when all bytes are in device memory: the first error, if any.
  Status finish();

 private:
  struct Slot {
    std::byte* host = nullptr;
    cudaEvent_t copied = nullptr;
  };
  // What one thread owns.
  struct Lane {
    cudaStream_t stream = nullptr;
    std::vector<Slot> slots;
    size_t next = 0;
  };

  WeightUpload() = default;
  static Status open(Lane& lane);
  void run(Lane& lane);
  static Status copy(Lane& lane, const UploadJob& job);

  std::mutex mutex_;
  std::condition_variable changed_;
  std::deque<UploadJob> waiting_;  // under mutex_, as the next three
  int32_t busy_ = 0;
  bool closed_ = false;
  Status failure_;
  std::vector<Lane> lanes_;
  std::vector<std::jthread> threads_;  // last: they use the rest
};

}  // namespace fathom
