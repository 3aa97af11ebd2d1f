// inspect: what a model directory (or a config.json alone) holds, and whether it is complete.
#include <algorithm>
#include <filesystem>
#include <map>
#include <optional>
#include <ostream>
#include <set>

#include "base/file.h"
#include "base/json.h"
#include "ctl/commands.h"
#include "ctl/inspect_plan.h"
#include "fathom/fp8_cache.h"
#include "weights/checkpoint.h"
#include "weights/inventory.h"

namespace fathom::ctl {
namespace {

constexpr size_t kConfigBytesMax = size_t{16} << 20;
constexpr size_t kNamesListed = 5;

struct Inspection {
  ArchConfig config;
  ParameterCount parameters;
  int64_t kv_bytes_per_token = 0;
  int64_t draft_kv_bytes_per_token = 0;
  bool has_weights = false;
  int64_t files = 0;
  std::map<std::string, int64_t> bytes_by_format;
  std::vector<std::string> missing;     // of the config's tensors
  std::vector<std::string> unexpected;  // that the config does not know
  std::vector<std::string> wrong_shape;
  std::vector<std::string> warnings;
  InspectPlan plan;

  int64_t bytes() const {
    int64_t sum = 0;
    for (const auto& [format, n] : bytes_by_format) sum += n;
    return sum;
  }
};

// Tensors that checkpoints carry and no model reads.
bool is_known_extra(const std::string& name) {
  return name.ends_with("rotary_emb.inv_freq") || name.ends_with(".weight_scale_inv");
}

std::string shape_text(const Tensor& t) {
  std::string text = "[";
  for (int i = 0; i < t.rank; ++i) text += (i == 0 ? "" : ", ") + std::to_string(t.shape[i]);
  return text + "]";
}

// Compares the checkpoint with the tensors that its config asks for.
void compare(const Checkpoint& checkpoint, Inspection& result) {
  std::set<std::string> known;
  for (const InventoryTensor& t : tensor_inventory(result.config)) {
    known.insert(t.spec.name);
    // A scale is needed where its weight is FP8, which the checkpoint itself says.
    if (t.role == TensorRole::kScale) continue;
    const Result<Tensor> found = checkpoint.info(t.spec.name);
    if (!found.is_ok()) {
      result.missing.push_back(t.spec.name);
      continue;
    }
    const std::vector<int64_t> shape(found->shape.begin(), found->shape.begin() + found->rank);
    if (shape != t.spec.shape) {
      result.wrong_shape.push_back(t.spec.name + " is " + shape_text(*found));
    }
  }
  for (const std::string& name : checkpoint.names()) {
    const Result<Tensor> info = checkpoint.info(name);
    if (info.is_ok()) result.bytes_by_format[std::string(dtype_name(info->dtype))] += info->bytes();
    if (!known.contains(name) && !is_known_extra(name)) result.unexpected.push_back(name);
  }
}

bool has_weights(const std::string& directory) {
  std::error_code ignored;
  return std::filesystem::exists(directory + "/model.safetensors.index.json", ignored) ||
         std::filesystem::exists(directory + "/model.safetensors", ignored);
}

// Of a token in one layer.
int64_t kv_entry_bytes(const ArchConfig& c, const std::string& dtype) {
  const int64_t numbers = c.kv_lora > 0 ? c.kv_lora + c.rope_dims : 2 * c.kv_heads * c.head_dim;
  if (dtype != "fp8") return numbers * (dtype == "float32" ? 4 : 2);
  if (c.kv_lora > 0) return Fp8LatentLayout{c.kv_lora, c.rope_dims}.entry_bytes();
  return Fp8HeadsLayout{c.kv_heads, c.head_dim, 1}.entry_bytes();
}

Result<Inspection> inspect(const InspectOptions& options) {
  std::error_code ignored;
  const bool is_directory = std::filesystem::is_directory(options.model, ignored);
  const std::string path = is_directory ? options.model + "/config.json" : options.model;
  const Result<std::string> text = read_file(path, kConfigBytesMax);
  if (!text.is_ok()) return config_error(text.status());
  const Result<ArchConfig> config = parse_arch_config(*text, path);
  if (!config.is_ok()) return config_error(config.status());
  Inspection result;
  result.config = *config;
  result.parameters = count_parameters(*config);
  const int64_t entry = kv_entry_bytes(*config, options.kv_dtype);
  result.kv_bytes_per_token = entry * config->layers;
  result.draft_kv_bytes_per_token = entry * config->draft_layers;
  if (!is_directory) return result;
  result.has_weights = has_weights(options.model);
  if (!result.has_weights) return result;
  const auto checkpoint = Checkpoint::open(options.model);
  if (!checkpoint.is_ok()) return config_error(checkpoint.status());
  result.files = static_cast<int64_t>((*checkpoint)->shards().size());
  result.warnings = (*checkpoint)->warnings();
  compare(**checkpoint, result);
  return result;
}

// What the config's own formats would take, for a directory without weights.
void estimate_formats(Inspection& result) {
  for (const InventoryTensor& t : tensor_inventory(result.config)) {
    result.bytes_by_format[std::string(dtype_name(t.spec.dtype))] += t.spec.bytes();
  }
}

Json to_json(const InspectPlan& plan) {
  Json body = {{"fits", plan.fits}};
  if (!plan.fits) {
    body["why"] = plan.why;
    return body;
  }
  body["kv_blocks"] = plan.kv_blocks;
  body["block_tokens"] = plan.block_tokens;
  body["max_model_len"] = plan.max_model_len;
  body["stages"] = Json::array();
  for (const PlannedStage& stage : plan.stages) {
    body["stages"].push_back({{"weight_bytes", stage.weight_bytes},
                              {"packed_bytes", stage.packed_bytes},
                              {"kv_bytes", stage.kv_bytes},
                              {"workspace_bytes", stage.workspace_bytes},
                              {"fixed_bytes", stage.fixed_bytes}});
  }
  return body;
}

Json to_json(const Inspection& i) {
  const ArchConfig& c = i.config;
  Json body = {{"architecture", c.architecture},
               {"layers", c.layers},
               {"draft_layers", c.draft_layers},
               {"hidden", c.hidden},
               {"vocab", c.vocab},
               {"positions_max", c.positions_max},
               {"heads", c.heads},
               {"experts", c.experts},
               {"experts_per_token", c.experts_per_token},
               {"quantization", c.quantization.fp8_block ? "fp8_block" : "none"},
               {"parameters",
                {{"total", i.parameters.total},
                 {"active", i.parameters.active},
                 {"draft", i.parameters.draft}}},
               {"kv_bytes_per_token", i.kv_bytes_per_token},
               {"draft_kv_bytes_per_token", i.draft_kv_bytes_per_token},
               {"has_weights", i.has_weights},
               {"files", i.files},
               {"weight_bytes", i.bytes()},
               {"bytes_by_format", i.bytes_by_format},
               {"missing", i.missing},
               {"unexpected", i.unexpected},
               {"wrong_shape", i.wrong_shape},
               {"warnings", i.warnings},
               {"plan", to_json(i.plan)}};
  return body;
}

void print_names(std::ostream& out, const char* what, const std::vector<std::string>& names) {
  if (names.empty()) return;
  out << what << with_commas(static_cast<int64_t>(names.size())) << " tensors: ";
  for (size_t i = 0; i < std::min(names.size(), kNamesListed); ++i) {
    out << (i == 0 ? "" : ", ") << printable(names[i]);
  }
  out << (names.size() > kNamesListed ? ", ...\n" : "\n");
}

void print_text(std::ostream& out, const Inspection& i) {
  const ArchConfig& c = i.config;
  out << "architecture   " << c.architecture << "\n";
  out << "layers         " << c.layers;
  if (c.draft_layers > 0) out << " and " << c.draft_layers << " for drafts";
  out << ", hidden " << c.hidden << ", " << c.heads << " heads\n";
  if (c.experts > 0) {
    out << "experts        " << c.experts << ", " << c.experts_per_token << " per token, "
        << c.shared_experts << " shared\n";
  }
  out << "vocabulary     " << with_commas(c.vocab) << ", context " << with_commas(c.positions_max)
      << " tokens\n";
  out << "parameters     " << format_count(i.parameters.total) << " ("
      << with_commas(i.parameters.total) << "), active " << format_count(i.parameters.active);
  if (i.parameters.draft > 0) out << ", drafts " << format_count(i.parameters.draft);
  out << "\n";
  out << "weights        " << format_bytes(i.bytes());
  if (i.has_weights) {
    out << " in " << i.files << (i.files == 1 ? " file" : " files");
  } else {
    out << ", none here";
  }
  for (const auto& [format, bytes] : i.bytes_by_format) {
    out << "\n  " << format << std::string(13 - std::min<size_t>(format.size(), 12), ' ')
        << format_bytes(bytes);
  }
  out << "\nKV cache       " << format_bytes(i.kv_bytes_per_token) << " per token";
  if (i.draft_kv_bytes_per_token > 0) {
    out << ", " << format_bytes(i.draft_kv_bytes_per_token) << " more for drafts";
  }
  out << "\n";
  print_names(out, "missing        ", i.missing);
  print_names(out, "wrong shape    ", i.wrong_shape);
  print_names(out, "unexpected     ", i.unexpected);
  for (const std::string& warning : i.warnings)
    out << "warning        " << printable(warning) << "\n";
  out << "\nmemory plan\n" << printable(i.plan.fits ? i.plan.table : i.plan.why + "\n");
}

// The model directory that `model` is or lies in; empty for a file of another name.
std::string directory_of(const std::string& model) {
  const std::filesystem::path path(model);
  std::error_code ignored;
  if (std::filesystem::is_directory(path, ignored)) return model;
  if (path.filename() != "config.json") return "";
  return path.has_parent_path() ? path.parent_path().string() : ".";
}

}  // namespace

int run_inspect(const InspectOptions& options, Console& console) {
  Result<Inspection> inspected = inspect(options);
  if (!inspected.is_ok()) return report_error(console, inspected.status());
  if (!inspected->has_weights) estimate_formats(*inspected);
  const std::string directory = directory_of(options.model);
  if (directory.empty()) {
    inspected->plan.why = "the plan needs a model directory";
  } else {
    inspected->plan = make_plan(options, directory, inspected->has_weights);
  }
  if (console.json) {
    console.out << to_json(*inspected).dump(-1, ' ', false, Json::error_handler_t::replace) << "\n";
  } else {
    print_text(console.out, *inspected);
  }
  const bool complete = inspected->missing.empty() && inspected->wrong_shape.empty();
  return complete ? kExitOk : kExitFail;
}

}  // namespace fathom::ctl
