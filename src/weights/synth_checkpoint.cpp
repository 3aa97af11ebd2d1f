// Writes generated weights to disk: shards are laid out first, then all threads fill pieces of
// them.
#include <algorithm>
#include <atomic>
#include <chrono>
#include <condition_variable>
#include <cstdio>
#include <filesystem>
#include <mutex>
#include <thread>

#include "base/file.h"
#include "base/json.h"
#include "weights/synthetic.h"

namespace fathom {
namespace {

namespace fs = std::filesystem;

constexpr int64_t kPieceBytes = int64_t{8} << 20;
constexpr std::chrono::milliseconds kProgressPeriod{100};

// Tensor number and a range of its elements, in one shard.
struct Piece {
  size_t shard = 0;
  size_t tensor_in_shard = 0;
  size_t tensor = 0;  // in the source
  int64_t first = 0;
  int64_t count = 0;
};

struct Shard {
  std::string name;
  std::vector<TensorSpec> tensors;
};

std::vector<Shard> split_into_shards(const std::vector<InventoryTensor>& tensors,
                                     int64_t shard_bytes_max) {
  std::vector<Shard> shards(1);
  int64_t bytes = 0;
  for (const InventoryTensor& t : tensors) {
    if (bytes > 0 && bytes + t.spec.bytes() > shard_bytes_max) {
      shards.emplace_back();
      bytes = 0;
    }
    shards.back().tensors.push_back(t.spec);
    bytes += t.spec.bytes();
  }
  for (size_t i = 0; i < shards.size(); ++i) {
    char name[64];
    std::snprintf(name, sizeof(name), "model-%05zu-of-%05zu.safetensors", i + 1, shards.size());
    shards[i].name = shards.size() == 1 ? "model.safetensors" : name;
  }
  return shards;
}

Status write_index(const std::string& directory, const std::vector<Shard>& shards) {
  if (shards.size() == 1) return Status::ok();
  int64_t total = 0;
  Json map = Json::object();
  auto& fields = static_cast<Json::object_t::Container&>(map.get_ref<Json::object_t&>());
  for (const Shard& shard : shards) {
    for (const TensorSpec& t : shard.tensors) {
      fields.emplace_back(t.name, shard.name);
      total += t.bytes();
    }
  }
  Json index = {{"metadata", {{"total_size", total}}}};
  index["weight_map"] = std::move(map);
  return write_file(directory + "/model.safetensors.index.json", index.dump(1) + "\n");
}

Status make_directory(const std::string& directory) {
  std::error_code error;
  fs::create_directories(directory, error);
  if (error) return file_error("create", directory, error.value());
  for (const auto& entry : fs::directory_iterator(directory, error)) {
    if (entry.path().extension() == ".safetensors") {
      return Status(Code::kAlreadyExists, directory + " holds weights already").about(directory);
    }
  }
  return error ? file_error("list", directory, error.value()) : Status::ok();
}

// Shared by the writing threads for the length of one call.
struct Work {
  explicit Work(const SyntheticSource& s) : source(s) {}

  const SyntheticSource& source;
  std::vector<SafetensorsWriter> writers;
  std::vector<Piece> pieces;
  std::atomic<size_t> next{0};
  std::atomic<int64_t> bytes_done{0};
  std::atomic<bool> failed{false};
  std::mutex mutex;
  std::condition_variable finished;
  unsigned running = 0;  // under mutex
  Status status;         // under mutex: the first error
};

void run_writer(Work& work) {
  std::vector<std::byte> buffer(static_cast<size_t>(kPieceBytes));
  for (size_t i = work.next++; i < work.pieces.size() && !work.failed; i = work.next++) {
    const Piece& p = work.pieces[i];
    const SafetensorsWriter& writer = work.writers[p.shard];
    const int64_t item = dtype_bytes(writer.tensors()[p.tensor_in_shard].dtype);
    const auto bytes = static_cast<size_t>(p.count * item);
    work.source.fill(p.tensor, p.first, p.count, buffer.data());
    const Status written =
        writer.write(p.tensor_in_shard, p.first * item, std::span(buffer.data(), bytes));
    if (!written.is_ok()) {
      std::lock_guard lock(work.mutex);
      if (work.status.is_ok()) work.status = written;
      work.failed = true;
    }
    work.bytes_done += static_cast<int64_t>(bytes);
  }
  std::lock_guard lock(work.mutex);
  if (--work.running == 0) work.finished.notify_all();
}

Status open_writers(const std::string& directory, const std::vector<Shard>& shards, Work& work) {
  std::unordered_map<std::string_view, size_t> number;
  for (size_t i = 0; i < work.source.tensors().size(); ++i) {
    number.emplace(work.source.tensors()[i].spec.name, i);
  }
  for (size_t s = 0; s < shards.size(); ++s) {
    FATHOM_ASSIGN(SafetensorsWriter writer,
                  SafetensorsWriter::create(directory + "/" + shards[s].name, shards[s].tensors));
    for (size_t t = 0; t < writer.tensors().size(); ++t) {
      const TensorSpec& spec = writer.tensors()[t];
      const int64_t step = kPieceBytes / dtype_bytes(spec.dtype);
      for (int64_t first = 0; first < spec.elements(); first += step) {
        work.pieces.push_back(
            {s, t, number.at(spec.name), first, std::min(step, spec.elements() - first)});
      }
    }
    work.writers.push_back(std::move(writer));
  }
  return Status::ok();
}

void run_all(Work& work, unsigned threads, int64_t total,
             const std::function<void(int64_t, int64_t)>& on_progress) {
  work.running = threads;
  std::vector<std::jthread> writers;
  for (unsigned i = 0; i < threads; ++i) writers.emplace_back([&work] { run_writer(work); });
  std::unique_lock lock(work.mutex);
  while (!work.finished.wait_for(lock, kProgressPeriod, [&] { return work.running == 0; })) {
    if (!on_progress) continue;
    lock.unlock();
    on_progress(work.bytes_done, total);
    lock.lock();
  }
}

}  // namespace

Result<SynthSummary> write_synthetic_checkpoint(
    const SynthOptions& options, const std::function<void(int64_t, int64_t)>& on_progress) {
  FATHOM_ASSIGN(const ArchConfig config, parse_arch_config(options.config_json, "config.json"));
  FATHOM_RETURN_IF_ERROR(make_directory(options.directory));
  const SyntheticSource source(config, options.seed, false);
  const std::vector<Shard> shards = split_into_shards(source.tensors(), options.shard_bytes_max);
  FATHOM_RETURN_IF_ERROR(write_file(options.directory + "/config.json", options.config_json));
  Work work(source);
  FATHOM_RETURN_IF_ERROR(open_writers(options.directory, shards, work));
  SynthSummary summary;
  summary.tensors = static_cast<int64_t>(source.tensors().size());
  summary.shards = static_cast<int64_t>(shards.size());
  int64_t total = 0;
  for (const InventoryTensor& t : source.tensors()) total += t.spec.bytes();
  run_all(work, std::max(options.threads, 1U), total, on_progress);
  FATHOM_RETURN_IF_ERROR(work.status);
  for (SafetensorsWriter& writer : work.writers) {
    summary.bytes += static_cast<int64_t>(writer.file_bytes());
    FATHOM_RETURN_IF_ERROR(writer.finish());
  }
  // The index comes last: a directory without it is visibly incomplete.
  FATHOM_RETURN_IF_ERROR(write_index(options.directory, shards));
  if (on_progress) on_progress(total, total);
  return summary;
}

}  // namespace fathom
