// Opens a model directory: which files there are, and whether index and shards agree.
#include <algorithm>
#include <filesystem>
#include <set>
#include <system_error>
#include <utility>

#include "weights/checkpoint.h"
#include "weights/json_fields.h"

namespace fathom {
namespace {

namespace fs = std::filesystem;

constexpr size_t kConfigBytesMax = size_t{16} << 20;
constexpr size_t kIndexBytesMax = size_t{256} << 20;

bool exists(const std::string& path) {
  std::error_code ignored;
  return fs::is_regular_file(path, ignored);
}

// Why a directory without a safetensors entry point cannot be loaded.
Status no_weights(const std::string& directory) {
  bool pickled = false;
  bool shards = false;
  std::error_code error;
  fs::directory_iterator it(directory, error);
  for (const fs::directory_iterator end; !error && it != end; it.increment(error)) {
    const std::string extension = it->path().extension().string();
    pickled = pickled || extension == ".bin" || extension == ".pt" || extension == ".pth";
    shards = shards || extension == ".safetensors";
  }
  if (shards) {
    return not_found(directory +
                     " holds safetensors shards but neither model.safetensors.index.json nor "
                     "model.safetensors")
        .about(directory);
  }
  if (pickled) {
    return failed_precondition(directory +
                               " holds pickled weights (*.bin) only, which Fathom does not read: "
                               "convert them to safetensors")
        .about(directory);
  }
  return not_found(directory + " holds no model.safetensors and no model.safetensors.index.json")
      .about(directory);
}

// A shard is a plain file name: an index cannot reach outside its directory.
bool is_plain_file_name(const std::string& name) {
  return !name.empty() && name != "." && name != ".." && name.find('/') == std::string::npos &&
         name.find('\0') == std::string::npos;
}

Result<std::unordered_map<std::string, std::string>> read_weight_map(const std::string& path) {
  FATHOM_ASSIGN(const std::string text, read_file(path, kIndexBytesMax));
  FATHOM_ASSIGN(const Json index, parse_json_object(text, path));
  const auto found = index.find("weight_map");
  if (found == index.end() || !found->is_object() || found->empty()) {
    return invalid_argument(path + " has no weight_map").about(path);
  }
  std::unordered_map<std::string, std::string> map;
  map.reserve(found->size());
  for (const auto& [name, shard] : found->items()) {
    if (!shard.is_string() || !is_plain_file_name(shard.get_ref<const std::string&>())) {
      return invalid_argument(path + ": tensor " + quoted_name(name) +
                              " must be mapped to a file name in the same directory")
          .about(path);
    }
    map.emplace(name, shard.get<std::string>());
  }
  return map;
}

}  // namespace

Result<std::shared_ptr<const Checkpoint>> Checkpoint::open(const std::string& directory) {
  std::shared_ptr<Checkpoint> checkpoint(new Checkpoint);
  std::error_code ignored;
  if (!fs::is_directory(directory, ignored)) {
    return not_found("model directory " + directory + " does not exist").about(directory);
  }
  const std::string config_path = directory + "/config.json";
  FATHOM_ASSIGN(const std::string config, read_file(config_path, kConfigBytesMax));
  FATHOM_ASSIGN(checkpoint->quantization_, parse_quantization_config(config, config_path));
  const std::string index = directory + "/model.safetensors.index.json";
  const std::string single = directory + "/model.safetensors";
  if (exists(index)) {
    FATHOM_RETURN_IF_ERROR(checkpoint->open_sharded(directory, index));
  } else if (exists(single)) {
    FATHOM_RETURN_IF_ERROR(checkpoint->open_single(single));
  } else {
    return no_weights(directory);
  }
  return std::shared_ptr<const Checkpoint>(std::move(checkpoint));
}

Status Checkpoint::open_single(const std::string& path) {
  FATHOM_ASSIGN(auto file, SafetensorsFile::open(path));
  for (const TensorEntry& entry : file->tensors())
    tensors_.emplace(entry.name, Place{file, &entry});
  shards_.push_back(std::move(file));
  return Status::ok();
}

Status Checkpoint::open_sharded(const std::string& directory, const std::string& index_path) {
  FATHOM_ASSIGN(const auto weight_map, read_weight_map(index_path));
  std::set<std::string> names;
  for (const auto& [tensor, shard] : weight_map) names.insert(shard);
  for (const std::string& name : names) {
    const std::string path = directory + "/" + name;
    if (!exists(path)) {
      return not_found(path + " is missing; " + index_path + " maps tensors to it").about(path);
    }
    FATHOM_ASSIGN(auto shard, SafetensorsFile::open(path));
    FATHOM_RETURN_IF_ERROR(add_shard(std::move(shard), weight_map, name));
  }
  for (const auto& [tensor, shard] : weight_map) {
    if (!tensors_.contains(tensor)) {
      return invalid_argument(directory + "/" + shard + " does not hold tensor " +
                              quoted_name(tensor) + ", which the index maps to it")
          .about(tensor);
    }
  }
  return Status::ok();
}

Status Checkpoint::add_shard(std::shared_ptr<const SafetensorsFile> shard,
                             const std::unordered_map<std::string, std::string>& weight_map,
                             const std::string& shard_name) {
  size_t unlisted = 0;
  for (const TensorEntry& entry : shard->tensors()) {
    const auto mapped = weight_map.find(entry.name);
    if (mapped == weight_map.end()) {
      ++unlisted;
      continue;
    }
    if (mapped->second != shard_name) {
      return invalid_argument("tensor " + quoted_name(entry.name) + " is in " + shard->path() +
                              ", but the index maps it to " + quoted_name(mapped->second))
          .about(entry.name);
    }
    tensors_.emplace(entry.name, Place{shard, &entry});
  }
  if (unlisted > 0) {
    warnings_.push_back(shard->path() + " holds " + std::to_string(unlisted) +
                        " tensors that the index leaves out; they are not used");
  }
  shards_.push_back(std::move(shard));
  return Status::ok();
}

}  // namespace fathom
