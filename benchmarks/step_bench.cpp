// Times decode and prefill steps of whole models through the engine's StepProgram, with generated
// weights in true shapes, and says where the time goes.
//
//   step_bench [--rounds N] [--seconds S] [--tb-per-s T] [--fp8-cache 1] [--pack 1] [--greedy 1]
//              [--json FILE] MODEL CASES [MODEL CASES]...
//   step_bench --floors 1 MODEL CASES...    floors alone; needs no GPU
//   step_bench --strict 1 ...    fails where steps took more workspace than the memory plan reckons
//   step_bench --timeline FILE [--cupti LIBRARY] MODEL CASES...
//       instead of times: when each kernel of a few replayed steps starts and ends, one a line
//       (step/kernel_trace.h; benchmarks/timeline.py makes tables of them)
//
// MODEL: llama-8b:bf16, v2-lite:fp8, v3-slice:fp8, ... (step/step_models.h), or a config.json.
// CASES, with commas between: 32x1024 decodes 32 sequences of 1024 tokens; p8192 computes a prompt
// of 8192 tokens, 8p1024 eight of 1024, p2048+65536 one of 2048 on 65536 that are cached,
// 32x1024+p2048 a new prompt beside 32 sequences that decode. Medians after five warm-ups.
// The floor of a step is its least bytes at --tb-per-s (3.0), or its operations at 989 TFLOPS (1979
// for FP8 models), whichever is more. --pack: with the setting pack_weights on; models are then
// named "...+packed", and floors stay those of the plain weights' bytes.
// --greedy: every row asks for its likeliest token; without, for a draw at temperature 1.
#include <unistd.h>

#include <algorithm>
#include <cstdio>
#include <cstdlib>
#include <fstream>
#include <nlohmann/json.hpp>
#include <optional>

#include "ops/cuda/device.h"
#include "step/kernel_trace.h"
#include "step/step_models.h"
#include "step/step_runner.h"

namespace fathom::bench {
namespace {

using nlohmann::json;

struct Asked {
  std::string model;
  std::vector<StepCase> cases;
};

struct Options {
  int32_t rounds = 25;
  double seconds = 4.0;
  double tb_per_s = 3.0;
  bool floors = false;
  bool fp8_cache = false;
  bool pack = false;
  bool greedy = false;
  bool strict = false;
  std::string json;
  std::string timeline;
  std::string cupti = "libcupti.so.13";
  std::vector<Asked> asked;
};

std::string name_of(const StepCase& one) {
  if (one.rows > 0) {
    const std::string beside = one.prompt > 0 ? "+p" + std::to_string(one.prompt) : "";
    return std::to_string(one.rows) + "x" + std::to_string(one.context) + beside;
  }
  const std::string cached = one.context > 0 ? "+" + std::to_string(one.context) : "";
  const std::string many = one.prompts > 1 ? std::to_string(one.prompts) : "";
  return many + "p" + std::to_string(one.prompt) + cached;
}

std::optional<StepCase> parse_case(const std::string& text) {
  StepCase one;
  if (std::sscanf(text.c_str(), "p%d+%d", &one.prompt, &one.context) >= 1 && one.prompt > 0) {
    return one;
  }
  one = StepCase{};
  if (std::sscanf(text.c_str(), "%dp%d+%d", &one.prompts, &one.prompt, &one.context) >= 2) {
    return one.prompts > 0 && one.prompt > 0 ? std::optional(one) : std::nullopt;
  }
  one = StepCase{};
  if (std::sscanf(text.c_str(), "%dx%d+p%d", &one.rows, &one.context, &one.prompt) < 2) return {};
  if (one.rows < 1 || one.context < 1 || one.prompt < 0) return {};
  return one;
}

std::optional<std::vector<StepCase>> parse_cases(const std::string& text) {
  std::vector<StepCase> cases;
  for (size_t at = 0; at < text.size();) {
    const size_t end = std::min(text.find(',', at), text.size());
    const auto one = parse_case(text.substr(at, end - at));
    if (!one) return {};
    cases.push_back(*one);
    at = end + 1;
  }
  return cases;
}

double floor_us(double bytes, double flops, const Options& options, bool fp8) {
  return std::max(bytes / options.tb_per_s, flops / (fp8 ? 1979.0 : 989.0)) * 1e-6;
}

json op_lines(const StepTimes& times, const StepCosts& costs, const Options& options, bool fp8) {
  json lines = json::array();
  for (const auto& [label, us] : times.ops_us) {
    const auto found = costs.ops.find(label);
    const OpCost cost = found == costs.ops.end() ? OpCost{} : found->second;
    const double floor = floor_us(cost.bytes, cost.flops, options, fp8);
    lines.push_back({{"op", label},
                     {"calls", cost.calls},
                     {"us", us},
                     {"us_each", us / static_cast<double>(std::max<int64_t>(cost.calls, 1))},
                     {"bytes", cost.bytes},
                     {"flops", cost.flops},
                     {"floor_us", floor},
                     {"percent_of_floor", 100.0 * floor / us}});
  }
  std::sort(lines.begin(), lines.end(), [](const json& a, const json& b) {
    return a["us"].get<double>() > b["us"].get<double>();
  });
  return lines;
}

void print(const json& line) {
  std::fprintf(stderr,
               "%-16s %-10s gpu %9.1f us  step %9.1f  between %6.1f  host %6.1f  floor %9.1f "
               "(%5.2fx)  %9.0f tokens/s  %4ld launches  [%s]\n",
               line["model"].get<std::string>().c_str(), line["case"].get<std::string>().c_str(),
               line["gpu_us"].get<double>(), line["step_us"].get<double>(),
               line["between_us"].get<double>(), line["host_us"].get<double>(),
               line["floor_us"].get<double>(), line["times_floor"].get<double>(),
               line["tokens_per_s"].get<double>(), line["launches"].get<long>(),
               line["gpu_state"].get<std::string>().c_str());
  for (const json& op : line["ops"]) {
    std::fprintf(stderr, "    %-36s %4ld calls %10.1f us %8.2f each, floor %9.1f %6.1f %%\n",
                 op["op"].get<std::string>().c_str(), op["calls"].get<long>(),
                 op["us"].get<double>(), op["us_each"].get<double>(), op["floor_us"].get<double>(),
                 op["percent_of_floor"].get<double>());
  }
}

json run_case(StepRunner& runner, const std::string& model, const StepCase& one,
              const Options& options) {
  json line = {{"model", model}, {"case", name_of(one)}};
  const Result<StepTimes> times = runner.time(one, options.rounds, options.seconds);
  if (!times.is_ok()) {
    line["error"] = times.status().to_string();
    std::fprintf(stderr, "%s %s: %s\n", model.c_str(), name_of(one).c_str(),
                 times.status().to_string().c_str());
    return line;
  }
  const StepCosts costs = runner.costs(one);
  const bool fp8 = model.find("fp8") != std::string::npos;
  const double gpu = median(times->gpu_us);
  const double step = median(times->step_us);
  const double floor = floor_us(costs.bytes(), costs.flops(), options, fp8);
  double ops = 0.0;
  for (const auto& [label, us] : times->ops_us) ops += us;
  const int32_t tokens = one.all_tokens();
  line.update({{"gpu_us", gpu},
               {"step_us", step},
               {"between_us", median(times->between_us)},
               {"launch_us", median(times->launch_us)},
               {"host_us", median(times->host_us)},
               {"rounds", times->gpu_us.size()},
               {"tokens_per_s", tokens / step * 1e6},
               {"bytes", costs.bytes()},
               {"flops", costs.flops()},
               {"floor_us", floor},
               {"times_floor", step / floor},
               {"launches", times->launches},
               {"gpu_state", times->gpu_state},
               {"sum_of_ops_us", ops},
               {"ops", op_lines(*times, costs, options, fp8)}});
  print(line);
  return line;
}

// A folder with the model's config.json, gone with this.
class ConfigFolder {
 public:
  explicit ConfigFolder(const std::string& text) {
    if (::mkdtemp(path_.data()) != nullptr) std::ofstream(file()) << text;
  }
  ~ConfigFolder() {
    ::unlink(file().c_str());
    ::rmdir(path_.c_str());
  }
  ConfigFolder(const ConfigFolder&) = delete;
  ConfigFolder& operator=(const ConfigFolder&) = delete;
  const std::string& path() const { return path_; }

 private:
  std::string file() const { return path_ + "/config.json"; }
  std::string path_ = "/tmp/step_bench_XXXXXX";
};

Status print_floors(const Asked& asked, const Options& options) {
  const auto text = model_config(asked.model);
  if (!text) return invalid_argument("no model " + asked.model);
  const ConfigFolder folder(*text);
  const bool fp8 = asked.model.find("fp8") != std::string::npos;
  for (const StepCase& one : asked.cases) {
    FATHOM_ASSIGN(const StepCosts costs,
                  StepRunner::costs_of(folder.path(), one, {.fp8_cache = options.fp8_cache}));
    std::printf("%-16s %-10s %9.3f GB %10.3f GFLOP, floor %9.1f us\n", asked.model.c_str(),
                name_of(one).c_str(), costs.bytes() * 1e-9, costs.flops() * 1e-9,
                floor_us(costs.bytes(), costs.flops(), options, fp8));
    for (const auto& [label, cost] : costs.ops) {
      std::printf("    %-36s %4ld calls, floor %9.1f us\n", label.c_str(),
                  static_cast<long>(cost.calls), floor_us(cost.bytes, cost.flops, options, fp8));
    }
  }
  return Status::ok();
}

// Steps of one case, all kernels of the GPU meanwhile: model, case, start and end in ns, blocks,
// threads, name.
Status write_timeline(StepRunner& runner, const std::string& model, const StepCase& one,
                      KernelTrace& trace, const std::string& file) {
  constexpr int32_t kSteps = 12;
  FATHOM_RETURN_IF_ERROR(runner.open(one));
  FATHOM_ASSIGN(const auto before, trace.take());
  FATHOM_RETURN_IF_ERROR(runner.replay(one, kSteps));
  FATHOM_ASSIGN(const auto spans, trace.take());
  std::ofstream out(file, std::ios::app);
  for (const KernelSpan& span : spans) {
    out << model << '\t' << name_of(one) << '\t' << span.start_ns - spans.front().start_ns << '\t'
        << span.end_ns - spans.front().start_ns << '\t' << span.grid << '\t' << span.block << '\t'
        << span.name.substr(0, 160) << '\n';
  }
  std::fprintf(stderr, "%s %s: %zu kernels of %d steps\n", model.c_str(), name_of(one).c_str(),
               spans.size(), kSteps);
  return Status::ok();
}

Status run_model(const Asked& asked, const Options& options, KernelTrace* trace, json& report) {
  const auto text = model_config(asked.model);
  if (!text) return invalid_argument("no model " + asked.model);
  const ConfigFolder folder(*text);
  FATHOM_ASSIGN(const auto runner,
                StepRunner::make(folder.path(), asked.cases,
                                 {options.fp8_cache, options.pack, options.greedy}));
  const std::string model = asked.model + (options.pack ? "+packed" : "");
  std::fprintf(stderr, "%s: %.1f B parameters, loaded and captured in %.1f s\n", model.c_str(),
               1e-9 * static_cast<double>(runner->info().parameters), runner->load_seconds());
  for (const StepCase& one : asked.cases) {
    if (trace != nullptr) {
      FATHOM_RETURN_IF_ERROR(write_timeline(*runner, model, one, *trace, options.timeline));
      continue;
    }
    report["steps"].push_back(run_case(*runner, model, one, options));
    report["workspace"][model] = {{"planned_bytes", runner->workspace_planned()},
                                  {"used_bytes", runner->workspace_used()}};
    if (!options.json.empty()) std::ofstream(options.json) << report.dump(1) << "\n";
  }
  std::fprintf(stderr, "%s: step workspace %.1f MiB planned, %.1f used\n", model.c_str(),
               static_cast<double>(runner->workspace_planned()) / (1 << 20),
               static_cast<double>(runner->workspace_used()) / (1 << 20));
  if (!options.strict || runner->workspace_used() <= runner->workspace_planned())
    return Status::ok();
  return resource_exhausted(
      "a step took more workspace than planned: an op's bound in src/ops/cuda/cuda_scratch is "
      "too small");
}

int run(const Options& options) {
  if (options.floors) {
    for (const Asked& asked : options.asked) {
      const Status status = print_floors(asked, options);
      if (status.is_ok()) continue;
      std::fprintf(stderr, "step_bench: %s\n", status.to_string().c_str());
      return 1;
    }
    return 0;
  }
  std::unique_ptr<KernelTrace> trace;
  if (!options.timeline.empty()) {
    auto opened = KernelTrace::open(options.cupti);
    if (!opened.is_ok()) {
      std::fprintf(stderr, "step_bench: %s\n", opened.status().to_string().c_str());
      return 1;
    }
    trace = std::move(*opened);
  }
  const auto device = open_device();
  if (!device.is_ok()) {
    std::fprintf(stderr, "step_bench: %s\n", device.status().to_string().c_str());
    return 1;
  }
  json report = {{"device", *device}, {"floor_tb_per_s", options.tb_per_s}};
  report["steps"] = json::array();
  bool failed = false;
  for (const Asked& asked : options.asked) {
    const Status status = run_model(asked, options, trace.get(), report);
    if (status.is_ok()) continue;
    std::fprintf(stderr, "step_bench: %s: %s\n", asked.model.c_str(), status.to_string().c_str());
    failed = true;
  }
  if (options.json.empty() && trace == nullptr) std::puts(report.dump(1).c_str());
  return failed ? 1 : 0;
}

std::optional<Options> parse(int argc, char** argv) {
  Options options;
  for (int i = 1; i < argc; ++i) {
    const std::string word = argv[i];
    if (i + 1 >= argc) return {};
    const std::string value = argv[++i];
    if (word == "--rounds")
      options.rounds = std::clamp(std::atoi(value.c_str()), 1, 200);
    else if (word == "--seconds")
      options.seconds = std::atof(value.c_str());
    else if (word == "--tb-per-s")
      options.tb_per_s = std::max(0.001, std::atof(value.c_str()));
    else if (word == "--floors")
      options.floors = value != "0";
    else if (word == "--fp8-cache")
      options.fp8_cache = value != "0";
    else if (word == "--pack")
      options.pack = value != "0";
    else if (word == "--greedy")
      options.greedy = value != "0";
    else if (word == "--strict")
      options.strict = value != "0";
    else if (word == "--json")
      options.json = value;
    else if (word == "--timeline")
      options.timeline = value;
    else if (word == "--cupti")
      options.cupti = value;
    else if (const auto cases = parse_cases(value); cases && !word.starts_with("--"))
      options.asked.push_back({word, *cases});
    else
      return {};
  }
  if (options.asked.empty()) return {};
  return options;
}

}  // namespace
}  // namespace fathom::bench

int main(int argc, char** argv) {
  const auto options = fathom::bench::parse(argc, argv);
  if (!options) {
    std::fprintf(stderr,
                 "usage: step_bench [--rounds N] [--seconds S] [--tb-per-s T] [--fp8-cache 1]\n"
                 "                  [--pack 1] [--greedy 1] [--json FILE]\n"
                 "                  MODEL CASES [MODEL CASES]...\n");
    return 2;
  }
  return fathom::bench::run(*options);
}
