// Times ops in the shapes of bench_cases.cpp and says how far they are from the floor.
//
//   op_bench [--device cpu|cuda] [--case TEXT] [--rounds N] [--threads N] [--no-check] [--list]
//            [--json FILE]
//
// Weights and caches of several copies of a case are used in turn, together 400 MB and more, so
// that no cache holds them. The floor is the case's least bytes at the read bandwidth measured
// first. Results are checked against the CPU backend in the same run where that ends soon.
#include <algorithm>
#include <chrono>
#include <cstdio>
#include <cstdlib>
#include <fstream>
#include <nlohmann/json.hpp>
#include <optional>
#include <string>
#include <thread>

#include "ops/bench_cases.h"
#include "ops/count/count_ops.h"
#include "ops/cpu/cpu_ops.h"
#include "ops/device.h"

namespace fathom::bench {
namespace {

using nlohmann::json;
using testing::OpCase;

constexpr int64_t kColdBytes = int64_t{400} << 20;
constexpr int64_t kCopiesMax = 64;
constexpr int64_t kCallsMin = 64;  // in one round, where a round stays below the next
constexpr double kRoundMsMax = 20.0;
constexpr int64_t kCheckedFlopsMax = 8'000'000'000;

struct Options {
  std::string device = "cpu";
  std::string filter;
  int32_t rounds = 21;
  int32_t threads = static_cast<int32_t>(std::thread::hardware_concurrency());
  bool check = true;
  bool list = false;
  std::string json;
};

// What a case costs, without data.
struct Cost {
  int64_t flops = 0;
  int64_t bytes = 0;         // least
  int64_t memory_bytes = 0;  // of one copy: weights, caches, inputs
  int64_t arena_bytes = 0;
};

Cost cost_of(const OpCase& one, int32_t threads) {
  CountOps count({.numerics = one.numerics, .threads = threads});
  const testing::PreparedOp prepared = one.prepare(count);
  const int64_t memory = count.report().weight_bytes + count.report().reserved_bytes;
  prepared.launch();
  const CountReport report = count.report();
  const int64_t bytes = one.least_bytes ? one.least_bytes() : report.bytes;
  return {report.flops, bytes, memory, report.arena_peak_bytes + (int64_t{16} << 20)};
}

// Empty: right. Nothing: not checked.
std::optional<std::string> check(const OpCase& one, Device& device, const Options& options,
                                 const Cost& cost) {
  if (!options.check || cost.flops > kCheckedFlopsMax || options.device == "cpu") return {};
  const auto oracle = make_cpu_ops({one.numerics, options.threads, cost.arena_bytes});
  const auto expected = run_case(one, *oracle, testing::copy_from_host);
  auto ops = device.make_ops(one.numerics, cost.arena_bytes);
  if (!ops.is_ok()) return ops.status().to_string();
  const auto made = run_case(one, **ops, device.copy_to_host());
  for (const auto& error : compare_backends(one, made, expected)) {
    if (!error.complaint.empty()) return error.complaint;
  }
  return "";
}

struct Times {
  std::vector<double> rounds_us;
  int64_t calls = 1;   // in a round
  int64_t copies = 1;  // of the case's memory
};

Result<Times> time_case(const OpCase& one, Device& device, const Options& options,
                        const Cost& cost) {
  FATHOM_ASSIGN(const auto ops, device.make_ops(one.numerics, cost.arena_bytes));
  Times times;
  times.copies = std::clamp<int64_t>(kColdBytes / cost.memory_bytes + 1, 2, kCopiesMax);
  std::vector<testing::PreparedOp> copies;
  for (int64_t i = 0; i < times.copies; ++i) copies.push_back(one.prepare(*ops));
  const auto call = [&](int64_t i) {
    ArenaScope scope(ops->arena());
    copies[static_cast<size_t>(i % times.copies)].launch();
  };
  call(0);  // what a first call makes is made
  FATHOM_RETURN_IF_ERROR(ops->synchronize());
  const auto begin = std::chrono::steady_clock::now();
  call(1);
  FATHOM_RETURN_IF_ERROR(ops->synchronize());
  const std::chrono::duration<double, std::milli> once = std::chrono::steady_clock::now() - begin;
  const auto fitting = static_cast<int64_t>(kRoundMsMax / once.count());
  times.calls = std::clamp<int64_t>(fitting, 1, std::max(kCallsMin, times.copies));
  const auto body = [&] {
    for (int64_t i = 0; i < times.calls; ++i) call(i);
  };
  FATHOM_ASSIGN(times.rounds_us, device.time_rounds(*ops, body, options.rounds));
  return times;
}

json run_one(const OpCase& one, Device& device, const Options& options, const Bandwidth& memory) {
  json line = {{"op", one.op}, {"case", one.name()}};
  const Cost cost = cost_of(one, options.threads);
  const auto complaint = check(one, device, options, cost);
  line["checked"] = complaint.has_value();
  if (complaint && !complaint->empty()) line["error"] = *complaint;
  const Result<Times> times = time_case(one, device, options, cost);
  if (!times.is_ok()) {
    line["error"] = times.status().to_string();
    return line;
  }
  const double us = median(times->rounds_us) / static_cast<double>(times->calls);
  const double least = *std::min_element(times->rounds_us.begin(), times->rounds_us.end()) /
                       static_cast<double>(times->calls);
  const double floor_us = static_cast<double>(cost.bytes) / memory.read * 1e6;
  line.update({{"us", us},
               {"us_least", least},
               {"calls", times->calls},
               {"copies", times->copies},
               {"bytes", cost.bytes},
               {"flops", cost.flops},
               {"floor_us", floor_us},
               {"percent_of_floor", 100.0 * floor_us / us},
               {"tb_per_s", static_cast<double>(cost.bytes) / us * 1e-6},
               {"tflops", static_cast<double>(cost.flops) / us * 1e-6}});
  std::fprintf(stderr, "%-62s %10.2f us %10.2f floor %6.1f %% %7.3f TB/s %8.2f TFLOPS %s\n",
               one.name().c_str(), us, floor_us, 100.0 * floor_us / us,
               line["tb_per_s"].get<double>(), line["tflops"].get<double>(),
               !complaint           ? ""
               : complaint->empty() ? "checked"
                                    : complaint->c_str());
  return line;
}

int run(const Options& options) {
  std::vector<OpCase> cases;
  for (OpCase& one : bench_cases()) {
    if (one.name().find(options.filter) != std::string::npos) cases.push_back(std::move(one));
  }
  if (options.list) {
    for (const OpCase& one : cases) std::printf("%s\n", one.name().c_str());
    return 0;
  }
  std::unique_ptr<Device> device = make_cpu_device(options.threads);
  if (options.device == "cuda") {
    auto made = make_cuda_device();
    if (!made.is_ok()) {
      std::fprintf(stderr, "op_bench: %s\n", made.status().to_string().c_str());
      return 1;
    }
    device = std::move(made).value();
  }
  const auto memory = device->measure_bandwidth();
  if (!memory.is_ok()) {
    std::fprintf(stderr, "op_bench: %s\n", memory.status().to_string().c_str());
    return 1;
  }
  json report = {{"device", device->name()},
                 {"read_tb_per_s", memory->read * 1e-12},
                 {"copy_tb_per_s", memory->copy * 1e-12},
                 {"rounds", options.rounds},
                 {"cases", json::array()}};
  std::fprintf(stderr, "%s: read %.3f TB/s, copy %.3f TB/s\n", device->name().c_str(),
               memory->read * 1e-12, memory->copy * 1e-12);
  bool wrong = false;
  while (!cases.empty()) {  // a case's inputs are let go after it
    report["cases"].push_back(run_one(cases.front(), *device, options, *memory));
    wrong |= report["cases"].back().contains("error");
    cases.erase(cases.begin());
  }
  const std::string text = report.dump(1) + "\n";
  if (options.json.empty()) {
    std::fputs(text.c_str(), stdout);
  } else {
    std::ofstream(options.json) << text;
  }
  return wrong ? 1 : 0;
}

std::optional<Options> parse(int argc, char** argv) {
  Options options;
  for (int i = 1; i < argc; ++i) {
    const std::string flag = argv[i];
    const auto value = [&] { return i + 1 < argc ? std::string(argv[++i]) : std::string(); };
    if (flag == "--device")
      options.device = value();
    else if (flag == "--case")
      options.filter = value();
    else if (flag == "--rounds")
      options.rounds = std::max(1, std::atoi(value().c_str()));
    else if (flag == "--threads")
      options.threads = std::max(1, std::atoi(value().c_str()));
    else if (flag == "--json")
      options.json = value();
    else if (flag == "--no-check")
      options.check = false;
    else if (flag == "--list")
      options.list = true;
    else
      return {};
  }
  if (options.device != "cpu" && options.device != "cuda") return {};
  return options;
}

}  // namespace
}  // namespace fathom::bench

int main(int argc, char** argv) {
  const auto options = fathom::bench::parse(argc, argv);
  if (!options) {
    std::fprintf(stderr,
                 "usage: op_bench [--device cpu|cuda] [--case TEXT] [--rounds N] [--threads N]\n"
                 "                [--no-check] [--list] [--json FILE]\n");
    return 2;
  }
  return fathom::bench::run(*options);
}
