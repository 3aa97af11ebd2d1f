// synth: a checkpoint of generated weights on disk.
#include <chrono>
#include <filesystem>
#include <ostream>
#include <thread>

#include "base/file.h"
#include "base/json.h"
#include "ctl/commands.h"
#include "ctl/presets.h"
#include "weights/json_fields.h"
#include "weights/synthetic.h"

namespace fathom::ctl {
namespace {

constexpr size_t kConfigBytesMax = size_t{16} << 20;
constexpr size_t kTokenizerBytesMax = size_t{256} << 20;

Result<std::string> config_text(const SynthCommand& options) {
  if (!options.preset.empty()) return *preset_config(options.preset);
  if (options.config.empty()) return invalid_argument("give --config or --preset");
  const Result<std::string> text = read_file(options.config, kConfigBytesMax);
  if (!text.is_ok()) return config_error(text.status());
  return text;
}

// `text` with the number format that --dtype asks for.
Result<std::string> with_dtype(const std::string& text, const std::string& dtype,
                               const std::string& name) {
  Result<Json> parsed = parse_json_object(text, name);
  if (!parsed.is_ok()) return config_error(parsed.status());
  Json& config = *parsed;
  if (!dtype.empty()) config.erase("quantization_config");
  if (dtype == "fp8") {
    config["quantization_config"] = {{"quant_method", "fp8"},
                                     {"fmt", "e4m3"},
                                     {"activation_scheme", "dynamic"},
                                     {"weight_block_size", {128, 128}}};
  }
  if (!dtype.empty()) {
    config.erase("dtype");
    config["torch_dtype"] = dtype == "f32" ? "float32" : "bfloat16";
  }
  return config.dump(2) + "\n";
}

Status copy_tokenizer(const std::string& from, const std::string& to) {
  bool any = false;
  for (const char* name : {"tokenizer.json", "tokenizer_config.json", "generation_config.json"}) {
    const std::string source = from + "/" + name;
    std::error_code ignored;
    if (!std::filesystem::exists(source, ignored)) continue;
    FATHOM_ASSIGN(const std::string text, read_file(source, kTokenizerBytesMax));
    FATHOM_RETURN_IF_ERROR(write_file(to + "/" + name, text));
    any = true;
  }
  return any ? Status::ok() : not_found(from + " holds no tokenizer.json").about("tokenizer");
}

std::string speed(int64_t bytes, double seconds) {
  return format_bytes(static_cast<int64_t>(static_cast<double>(bytes) / std::max(seconds, 1e-9))) +
         "/s";
}

void print_summary(Console& console, const SynthCommand& options, const SynthSummary& summary,
                   double seconds) {
  if (console.json) {
    const Json body = {{"directory", options.output},
                       {"tensors", summary.tensors},
                       {"shards", summary.shards},
                       {"bytes", summary.bytes},
                       {"seconds", seconds},
                       {"bytes_per_second", static_cast<double>(summary.bytes) / seconds}};
    console.out << body.dump() << "\n";
    return;
  }
  console.out << options.output << ": " << with_commas(summary.tensors) << " tensors in "
              << summary.shards << (summary.shards == 1 ? " file, " : " files, ")
              << format_bytes(summary.bytes) << " (" << speed(summary.bytes, seconds) << ")\n";
}

// What fathomd --load-format synthetic needs.
int write_config_only(const SynthCommand& options, const std::string& config, Console& console) {
  std::error_code error;
  std::filesystem::create_directories(options.output, error);
  Status status = error ? internal_error(options.output + ": " + error.message())
                        : write_file(options.output + "/config.json", config);
  if (status.is_ok() && !options.tokenizer.empty())
    status = copy_tokenizer(options.tokenizer, options.output);
  if (!status.is_ok()) return report_error(console, status);
  if (console.json) console.out << Json{{"directory", options.output}}.dump() << "\n";
  return kExitOk;
}

}  // namespace

int run_synth(const SynthCommand& options, Console& console) {
  const Result<std::string> text = config_text(options);
  if (!text.is_ok()) {
    const int code = report_error(console, text.status());
    return text.status().code() == Code::kInvalidArgument && code == kExitFail ? kExitUsage : code;
  }
  const std::string name = options.preset.empty() ? options.config : "preset " + options.preset;
  const Result<std::string> config = with_dtype(*text, options.dtype, name);
  if (!config.is_ok()) return report_error(console, config.status());
  const Result<ArchConfig> arch = parse_arch_config(*config, name);
  if (!arch.is_ok()) return report_error(console, config_error(arch.status()));

  if (options.config_only) return write_config_only(options, *config, console);

  SynthOptions synth;
  synth.directory = options.output;
  synth.config_json = *config;
  synth.seed = static_cast<uint64_t>(options.seed);
  synth.shard_bytes_max = options.shard_bytes_max;
  synth.threads = options.threads > 0 ? static_cast<unsigned>(options.threads)
                                      : std::max(1U, std::thread::hardware_concurrency());
  ProgressBar bar(console, "writing");
  const auto start = std::chrono::steady_clock::now();
  const auto seconds = [&] {
    return std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count();
  };
  const Result<SynthSummary> summary =
      write_synthetic_checkpoint(synth, [&](int64_t done, int64_t total) {
        bar.update(static_cast<double>(done) / static_cast<double>(std::max<int64_t>(total, 1)),
                   format_bytes(done) + "  " + speed(done, seconds()));
      });
  bar.clear();
  if (!summary.is_ok()) return report_error(console, summary.status());
  if (!options.tokenizer.empty()) {
    const Status copied = copy_tokenizer(options.tokenizer, options.output);
    if (!copied.is_ok()) return report_error(console, copied);
  }
  print_summary(console, options, *summary, seconds());
  return kExitOk;
}

}  // namespace fathom::ctl
