// A queue of pieces, and threads that take the next one.
#include "ops/cuda/weight_upload.h"

#include <algorithm>
#include <utility>

#include "base/thread.h"
#include "ops/cpu/weight_layout.h"
#include "ops/cuda/device.h"

namespace fathom {
namespace {

// A piece is long enough for the bus's rate, and short enough that every thread has work.
constexpr int64_t kPieceBytes = int64_t{4} << 20;
constexpr size_t kSlotsPerLane = 2;
constexpr size_t kWaitingMax = 256;

}  // namespace

Result<std::unique_ptr<WeightUpload>> WeightUpload::start(int threads) {
  std::unique_ptr<WeightUpload> upload(new WeightUpload());
  upload->lanes_.resize(static_cast<size_t>(std::max(1, threads)));
  for (Lane& lane : upload->lanes_) FATHOM_RETURN_IF_ERROR(open(lane));
  for (size_t i = 0; i < upload->lanes_.size(); ++i) {
    upload->threads_.push_back(
        start_thread("weights-" + std::to_string(i),
                     [self = upload.get(), i](std::stop_token) { self->run(self->lanes_[i]); }));
  }
  return upload;
}

Status WeightUpload::open(Lane& lane) {
  FATHOM_RETURN_IF_ERROR(
      cuda_status(cudaStreamCreateWithFlags(&lane.stream, cudaStreamNonBlocking), "stream"));
  for (size_t i = 0; i < kSlotsPerLane; ++i) {
    Slot& slot = lane.slots.emplace_back();
    void* host = nullptr;
    FATHOM_RETURN_IF_ERROR(cuda_status(cudaMallocHost(&host, kPieceBytes), "pinned weights"));
    slot.host = static_cast<std::byte*>(host);
    FATHOM_RETURN_IF_ERROR(
        cuda_status(cudaEventCreateWithFlags(&slot.copied, cudaEventDisableTiming), "event"));
  }
  return Status::ok();
}

WeightUpload::~WeightUpload() {
  {
    std::lock_guard lock(mutex_);
    closed_ = true;
    waiting_.clear();
  }
  changed_.notify_all();
  threads_.clear();
  for (Lane& lane : lanes_) {
    for (Slot& slot : lane.slots) {
      if (slot.copied != nullptr) cudaEventSynchronize(slot.copied);
      if (slot.copied != nullptr) cudaEventDestroy(slot.copied);
      cudaFreeHost(slot.host);
    }
    if (lane.stream != nullptr) cudaStreamDestroy(lane.stream);
  }
}

void WeightUpload::add(UploadJob job) {
  std::unique_lock lock(mutex_);
  for (int64_t done = 0; done < job.bytes; done += kPieceBytes) {
    changed_.wait(lock, [&] { return waiting_.size() < kWaitingMax || !failure_.is_ok(); });
    if (!failure_.is_ok()) return;
    UploadJob piece = job;
    piece.at += done;
    piece.to += done;
    piece.bytes = std::min(kPieceBytes, job.bytes - done);
    waiting_.push_back(std::move(piece));
    changed_.notify_all();
  }
}

Status WeightUpload::finish() {
  std::unique_lock lock(mutex_);
  changed_.wait(lock, [&] { return (waiting_.empty() && busy_ == 0) || !failure_.is_ok(); });
  if (!failure_.is_ok()) return failure_;
  lock.unlock();
  for (Lane& lane : lanes_)
    FATHOM_RETURN_IF_ERROR(cuda_status(cudaStreamSynchronize(lane.stream), "weights"));
  return Status::ok();
}

void WeightUpload::run(Lane& lane) {
  Status status = cuda_status(cudaSetDevice(0), "cudaSetDevice");
  std::unique_lock lock(mutex_);
  while (true) {
    if (!status.is_ok() && failure_.is_ok()) {
      failure_ = status;
      changed_.notify_all();
    }
    changed_.wait(lock, [&] { return closed_ || !waiting_.empty(); });
    if (closed_ || !failure_.is_ok()) return;
    const UploadJob job = std::move(waiting_.front());
    waiting_.pop_front();
    ++busy_;
    lock.unlock();
    status = copy(lane, job);
    lock.lock();
    --busy_;
    changed_.notify_all();
  }
}

Status WeightUpload::copy(Lane& lane, const UploadJob& job) {
  Slot& slot = lane.slots[lane.next];
  lane.next = (lane.next + 1) % lane.slots.size();
  FATHOM_RETURN_IF_ERROR(cuda_status(cudaEventSynchronize(slot.copied), "weights"));
  const auto bytes = static_cast<size_t>(job.bytes);
  FATHOM_RETURN_IF_ERROR(job.from->read(job.at, {slot.host, bytes}));
  if (job.is_fp8) {
    FATHOM_RETURN_IF_ERROR(check_fp8({reinterpret_cast<const uint8_t*>(slot.host), bytes}));
  }
  FATHOM_RETURN_IF_ERROR(cuda_status(
      cudaMemcpyAsync(job.to, slot.host, bytes, cudaMemcpyHostToDevice, lane.stream), "weights"));
  return cuda_status(cudaEventRecord(slot.copied, lane.stream), "weights");
}

}  // namespace fathom
