// What the machine, and the cgroup that this process is in, let it use.
#include <sched.h>

#include <algorithm>
#include <cmath>
#include <cstdlib>
#include <fstream>
#include <iterator>
#include <optional>
#include <sstream>
#include <string>
#include <thread>

#include "engine/backends.h"

namespace fathom {
namespace {

constexpr const char* kCgroupRoot = "/sys/fs/cgroup";

// Files of procfs and cgroupfs have no size of their own.
std::optional<std::string> read_text(const std::string& path) {
  std::ifstream file(path);
  if (!file) return std::nullopt;
  return std::string(std::istreambuf_iterator<char>(file), {});
}

// This process's cgroup (version 2) and those above it, innermost first.
std::vector<std::string> cgroup_folders() {
  std::vector<std::string> folders;
  const std::optional<std::string> text = read_text("/proc/self/cgroup");
  if (!text) return folders;
  std::istringstream lines(*text);
  for (std::string line; std::getline(lines, line);) {
    if (!line.starts_with("0::/")) continue;
    std::string path = line.substr(3);
    while (true) {
      folders.push_back(kCgroupRoot + (path == "/" ? "" : path));
      if (path.size() <= 1) break;
      path.resize(std::max<size_t>(path.rfind('/'), 1));
    }
  }
  return folders;
}

std::optional<int64_t> meminfo_bytes(const std::string& key) {
  const std::optional<std::string> text = read_text("/proc/meminfo");
  const size_t at = text ? text->find(key + ":") : std::string::npos;
  if (at == std::string::npos) return std::nullopt;
  return std::strtoll(text->c_str() + at + key.size() + 1, nullptr, 10) * 1024;
}

}  // namespace

int32_t usable_cores() {
  cpu_set_t set;
  CPU_ZERO(&set);
  int32_t cores = static_cast<int32_t>(std::max(1U, std::thread::hardware_concurrency()));
  if (::sched_getaffinity(0, sizeof set, &set) == 0) cores = std::max(1, CPU_COUNT(&set));
  for (const std::string& folder : cgroup_folders()) {
    const std::optional<std::string> text = read_text(folder + "/cpu.max");
    if (!text || text->starts_with("max")) continue;
    double quota = 0.0;
    double period = 0.0;
    std::istringstream(*text) >> quota >> period;
    if (quota > 0.0 && period > 0.0) {
      cores = std::min(cores, std::max(1, static_cast<int32_t>(std::ceil(quota / period))));
    }
  }
  return cores;
}

Result<int64_t> usable_memory_bytes() {
  const std::optional<int64_t> available = meminfo_bytes("MemAvailable");
  if (!available) return unavailable("/proc/meminfo does not say how much memory is available");
  int64_t bytes = *available;
  for (const std::string& folder : cgroup_folders()) {
    const std::optional<std::string> text = read_text(folder + "/memory.max");
    if (!text || text->starts_with("max")) continue;
    const int64_t limit = std::strtoll(text->c_str(), nullptr, 10);
    if (limit > 0) bytes = std::min(bytes, limit);
  }
  return bytes;
}

}  // namespace fathom
