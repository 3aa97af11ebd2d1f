// A shared list of 16 MiB pieces; each thread takes the next, in file order, and populates it.
#include "weights/parallel_loader.h"

#include <algorithm>
#include <atomic>
#include <chrono>
#include <condition_variable>
#include <cstring>
#include <mutex>
#include <thread>

#include "weights/page_reads.h"

namespace fathom {
namespace {

constexpr size_t kPieceBytes = size_t{16} << 20;
constexpr std::chrono::milliseconds kProgressPeriod{100};

// Shared by the workers and the caller for the length of one prefault.
struct Work {
  std::vector<std::span<const std::byte>> pieces;
  std::atomic<size_t> next{0};
  std::atomic<int64_t> bytes_done{0};
  std::atomic<int> error{0};
  std::mutex mutex;
  std::condition_variable finished;
  unsigned running = 0;  // under mutex
};

void run_worker(Work& work) {
  for (size_t i = work.next++; i < work.pieces.size() && work.error == 0; i = work.next++) {
    const int error = read_pages(work.pieces[i]);
    if (error != 0) work.error = error;
    work.bytes_done += static_cast<int64_t>(work.pieces[i].size());
  }
  std::lock_guard lock(work.mutex);
  if (--work.running == 0) work.finished.notify_all();
}

void add_pieces(std::vector<std::span<const std::byte>> ranges, Work& work) {
  std::sort(ranges.begin(), ranges.end(),
            [](const auto& a, const auto& b) { return a.data() < b.data(); });
  for (std::span<const std::byte> rest : ranges) {
    while (!rest.empty()) {
      const size_t n = std::min(rest.size(), kPieceBytes);
      work.pieces.push_back(rest.first(n));
      rest = rest.subspan(n);
    }
  }
}

}  // namespace

Status prefault(std::vector<std::span<const std::byte>> ranges, unsigned threads,
                const LoadProgress& on_progress) {
  Work work;
  int64_t total = 0;
  for (const auto& range : ranges) total += static_cast<int64_t>(range.size());
  add_pieces(std::move(ranges), work);
  work.running = std::max(threads, 1U);
  std::vector<std::jthread> workers;
  for (unsigned i = 0; i < std::max(threads, 1U); ++i) {
    workers.emplace_back([&work] { run_worker(work); });
  }
  std::unique_lock lock(work.mutex);
  while (!work.finished.wait_for(lock, kProgressPeriod, [&] { return work.running == 0; })) {
    if (!on_progress) continue;
    lock.unlock();
    on_progress(work.bytes_done, total);
    lock.lock();
  }
  lock.unlock();
  workers.clear();
  if (work.error != 0) {
    return data_loss(std::string("the weights cannot be read: ") + std::strerror(work.error));
  }
  if (on_progress) on_progress(total, total);
  return Status::ok();
}

Status prefault(const Checkpoint& checkpoint, const std::vector<std::string>& names,
                unsigned threads, const LoadProgress& on_progress) {
  std::vector<std::span<const std::byte>> ranges;
  for (const std::string& name : names.empty() ? checkpoint.names() : names) {
    ranges.push_back(checkpoint.mapped_bytes(name));
  }
  return prefault(std::move(ranges), threads, on_progress);
}

}  // namespace fathom
