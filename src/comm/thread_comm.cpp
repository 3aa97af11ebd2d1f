// Every collective is the same three moves: publish this rank's tensor, meet, work on what the
// others published, meet again before anybody may reuse its memory.
#include "comm/thread_comm.h"

#include <algorithm>
#include <condition_variable>
#include <cstring>
#include <mutex>
#include <optional>
#include <utility>

#include "base/float_formats.h"

namespace fathom {
namespace {

// Elements of a sum that are added at a time, in a buffer on the stack.
constexpr int64_t kChunkElements = 1024;

Status aborted() { return unavailable("the group of ranks was aborted"); }

// What the ranks of a group share. Under `mutex`, except `published`, which a rank writes before a
// meeting and others read after it.
struct Shared {
  explicit Shared(int32_t n) : size(n), published(n), mail(static_cast<size_t>(n) * n) {}

  // Returns when every rank has arrived; all get ok, or, when the group is aborted first, none.
  Status meet() {
    std::unique_lock lock(mutex);
    if (is_aborted) return aborted();
    return wait_for_all(lock, true);
  }
  // The same after the work that follows a meeting. All ranks are on their way and none waits for
  // anything else, so it does not heed an abort: a rank that left now would free what others read.
  Status part() {
    std::unique_lock lock(mutex);
    return wait_for_all(lock, false);
  }
  Status wait_for_all(std::unique_lock<std::mutex>& lock, bool heed_abort) {
    const uint64_t mine = generation;
    if (++arrived == size) {
      arrived = 0;
      ++generation;
      changed.notify_all();
      return Status::ok();
    }
    changed.wait(lock, [&] { return (heed_abort && is_aborted) || generation != mine; });
    return generation != mine ? Status::ok() : aborted();
  }

  const int32_t size;
  std::mutex mutex;
  std::condition_variable changed;
  bool is_aborted = false;
  int32_t arrived = 0;
  uint64_t generation = 0;
  std::vector<Tensor> published;
  // A tensor that rank `from` offers to rank `to`, at [from * size + to], until it is taken.
  std::vector<std::optional<Tensor>> mail;
};

bool is_contiguous(const Tensor& t) {
  int64_t step = 1;
  for (int i = t.rank - 1; i >= 0; --i) {
    if (t.shape[i] != 1 && t.stride[i] != step) return false;
    step *= t.shape[i];
  }
  return true;
}

void add_chunk(float* sum, const Tensor& t, int64_t first, int64_t count) {
  if (t.dtype == DType::kF32) {
    const float* from = t.as<const float>() + first;
    for (int64_t i = 0; i < count; ++i) sum[i] += from[i];
    return;
  }
  const uint16_t* from = t.as<const uint16_t>() + first;
  for (int64_t i = 0; i < count; ++i) sum[i] += bf16_to_float(from[i]);
}

void store_chunk(const float* sum, const Tensor& t, int64_t first, int64_t count) {
  if (t.dtype == DType::kF32) {
    std::memcpy(t.as<float>() + first, sum, static_cast<size_t>(count) * sizeof(float));
    return;
  }
  uint16_t* to = t.as<uint16_t>() + first;
  for (int64_t i = 0; i < count; ++i) to[i] = float_to_bf16(sum[i]);
}

class ThreadComm final : public Comm {
 public:
  ThreadComm(std::shared_ptr<Shared> shared, int32_t rank)
      : shared_(std::move(shared)), rank_(rank) {}

  int32_t rank() const override { return rank_; }
  int32_t size() const override { return shared_->size; }

  Status all_reduce_sum(const Tensor& tensor) override;
  Status all_gather(const Tensor& part, const Tensor& out) override;
  Status broadcast(const Tensor& tensor, int32_t root) override;
  Status send(const Tensor& tensor, int32_t peer) override;
  Status receive(const Tensor& tensor, int32_t peer) override;

  void abort() override {
    std::lock_guard lock(shared_->mutex);
    shared_->is_aborted = true;
    shared_->changed.notify_all();
  }

 private:
  Status publish(const Tensor& tensor) {
    FATHOM_CHECK(is_contiguous(tensor), "collectives work on contiguous tensors");
    shared_->published[rank_] = tensor;
    return shared_->meet();
  }
  std::optional<Tensor>& mail(int32_t from, int32_t to) const {
    FATHOM_CHECK(from >= 0 && from < size() && to >= 0 && to < size() && from != to,
                 "send and receive name another rank of the group");
    return shared_->mail[static_cast<size_t>(from) * size() + to];
  }

  const std::shared_ptr<Shared> shared_;
  const int32_t rank_;
};

// Each rank adds its share of the elements, over all ranks in order, and stores the sum to every
// rank: no two ranks touch the same element.
Status ThreadComm::all_reduce_sum(const Tensor& tensor) {
  FATHOM_CHECK(tensor.dtype == DType::kF32 || tensor.dtype == DType::kBF16,
               "all_reduce_sum is for float32 and bfloat16");
  if (size() == 1) return Status::ok();
  FATHOM_RETURN_IF_ERROR(publish(tensor));
  for (const Tensor& t : shared_->published) {
    FATHOM_CHECK(t.dtype == tensor.dtype && t.elements() == tensor.elements(),
                 "all_reduce_sum with different tensors on different ranks");
  }
  const int64_t n = tensor.elements();
  const int64_t end = n * (rank_ + 1) / size();
  for (int64_t first = n * rank_ / size(); first < end; first += kChunkElements) {
    const int64_t count = std::min(kChunkElements, end - first);
    float sum[kChunkElements] = {};
    for (const Tensor& t : shared_->published) add_chunk(sum, t, first, count);
    for (const Tensor& t : shared_->published) store_chunk(sum, t, first, count);
  }
  return shared_->part();
}

Status ThreadComm::all_gather(const Tensor& part, const Tensor& out) {
  FATHOM_CHECK(
      is_contiguous(out) && out.dtype == part.dtype && out.elements() == part.elements() * size(),
      "all_gather needs an output of size times the part");
  FATHOM_RETURN_IF_ERROR(publish(part));
  auto* to = out.as<std::byte>();
  for (const Tensor& t : shared_->published) {
    FATHOM_CHECK(t.dtype == part.dtype && t.elements() == part.elements(),
                 "all_gather with different parts on different ranks");
    // A part may lie in its own place of the output.
    if (to != t.data) std::memcpy(to, t.data, static_cast<size_t>(t.bytes()));
    to += t.bytes();
  }
  return shared_->part();
}

Status ThreadComm::broadcast(const Tensor& tensor, int32_t root) {
  FATHOM_CHECK(root >= 0 && root < size(), "broadcast from a rank of the group");
  FATHOM_RETURN_IF_ERROR(publish(tensor));
  const Tensor& from = shared_->published[root];
  FATHOM_CHECK(from.dtype == tensor.dtype && from.elements() == tensor.elements(),
               "broadcast with different tensors on different ranks");
  if (rank_ != root) std::memcpy(tensor.data, from.data, static_cast<size_t>(from.bytes()));
  return shared_->part();
}

// Offers the tensor and waits until the peer has copied it.
Status ThreadComm::send(const Tensor& tensor, int32_t peer) {
  FATHOM_CHECK(is_contiguous(tensor), "send needs a contiguous tensor");
  std::optional<Tensor>& slot = mail(rank_, peer);
  std::unique_lock lock(shared_->mutex);
  if (shared_->is_aborted) return aborted();
  slot = tensor;
  shared_->changed.notify_all();
  shared_->changed.wait(lock, [&] { return shared_->is_aborted || !slot; });
  return slot ? aborted() : Status::ok();
}

Status ThreadComm::receive(const Tensor& tensor, int32_t peer) {
  FATHOM_CHECK(is_contiguous(tensor), "receive needs a contiguous tensor");
  std::optional<Tensor>& slot = mail(peer, rank_);
  std::unique_lock lock(shared_->mutex);
  shared_->changed.wait(lock, [&] { return shared_->is_aborted || slot; });
  if (shared_->is_aborted) return aborted();
  FATHOM_CHECK(slot->dtype == tensor.dtype && slot->elements() == tensor.elements(),
               "receive of another tensor than was sent");
  // Under the lock: an abort then cannot free the sender's memory in the middle of the copy.
  std::memcpy(tensor.data, slot->data, static_cast<size_t>(tensor.bytes()));
  slot.reset();
  shared_->changed.notify_all();
  return Status::ok();
}

}  // namespace

std::vector<std::unique_ptr<Comm>> make_thread_group(int32_t size) {
  FATHOM_CHECK(size > 0, "a group has at least one rank");
  auto shared = std::make_shared<Shared>(size);
  std::vector<std::unique_ptr<Comm>> group;
  for (int32_t rank = 0; rank < size; ++rank) {
    group.push_back(std::make_unique<ThreadComm>(shared, rank));
  }
  return group;
}

}  // namespace fathom
