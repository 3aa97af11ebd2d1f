// Generated checkpoints: parameter counts of the published models, determinism of slices, and the
// round trip through disk.
#include "weights/synthetic.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <cstring>

#include "base/float_formats.h"
#include "test_configs.h"
#include "test_files.h"
#include "weights/checkpoint.h"

namespace fathom {
namespace {

using testing::TempDir;

ArchConfig config_of(const std::string& json) {
  auto config = parse_arch_config(json, "config.json");
  EXPECT_TRUE(config.is_ok()) << config.status().to_string();
  return std::move(config).value();
}

// models.md 1 and 8.5: the sums over the official checkpoints.
TEST(Inventory, CountsTheParametersOfPublishedModels) {
  EXPECT_EQ(count_parameters(config_of(testing::kV3Config)).total, 671'026'419'200);
  EXPECT_EQ(count_parameters(config_of(testing::kV2LiteConfig)).total, 15'706'484'224);
  EXPECT_EQ(count_parameters(config_of(testing::kV2Config)).total, 235'741'434'880);
  EXPECT_EQ(count_parameters(config_of(testing::kMoe16bConfig)).total, 16'375'728'128);
  EXPECT_EQ(count_parameters(config_of(testing::kLlm7bConfig)).total, 6'910'365'696);
  EXPECT_EQ(count_parameters(config_of(testing::kDistillQwen7bConfig)).total, 7'615'616'512);
  EXPECT_EQ(count_parameters(config_of(testing::kDistillLlama70bConfig)).total, 70'553'706'496);
}

TEST(Inventory, CountsActiveAndDraftParameters) {
  const ParameterCount v3 = count_parameters(config_of(testing::kV3Config));
  EXPECT_NEAR(static_cast<double>(v3.active) / 1e9, 36.7, 0.1);
  EXPECT_NEAR(static_cast<double>(v3.draft) / 1e9, 11.61, 0.02);
  const ParameterCount dense = count_parameters(config_of(testing::kLlm7bConfig));
  EXPECT_EQ(dense.active, dense.total - 102400LL * 4096);
}

TEST(Inventory, CountsTheCacheOfPublishedModels) {
  EXPECT_EQ(kv_elements_per_token(config_of(testing::kV3Config)).layers * 2, 70'272);
  EXPECT_EQ(kv_elements_per_token(config_of(testing::kV2LiteConfig)).layers * 2, 31'104);
  EXPECT_EQ(kv_elements_per_token(config_of(testing::kLlm7bConfig)).layers * 2, 491'520);
  EXPECT_EQ(kv_elements_per_token(config_of(testing::kDistillQwen7bConfig)).layers * 2, 57'344);
}

TEST(ArchConfig, NamesWhatIsWrong) {
  const std::pair<const char*, const char*> cases[] = {
      {R"({"architectures":["MixtralForCausalLM"]})", "MixtralForCausalLM"},
      {R"({"architectures":[]})", "architectures"},
      {R"({})", "architectures"},
      {R"({"architectures":["LlamaForCausalLM"]})", "num_hidden_layers"},
      {R"({"architectures":["LlamaForCausalLM"],"num_hidden_layers":-1})", "num_hidden_layers"},
      {R"({"architectures":["LlamaForCausalLM"],"num_hidden_layers":2.5})", "num_hidden_layers"},
      {R"({"architectures":["LlamaForCausalLM"],"num_hidden_layers":2,"hidden_size":1e30})",
       "hidden_size"},
      {R"({"architectures":["LlamaForCausalLM"],"torch_dtype":"int8"})", "torch_dtype"},
  };
  for (const auto& [json, expected] : cases) {
    const auto config = parse_arch_config(json, "config.json");
    ASSERT_FALSE(config.is_ok()) << json;
    EXPECT_NE(config.status().message().find(expected), std::string::npos)
        << config.status().message();
  }
}

TEST(Synthetic, SlicesEqualTheWholeForEveryOffset) {
  for (const DType dtype : {DType::kF32, DType::kBF16, DType::kF8E4M3}) {
    const ValueRecipe recipe{dtype, value_key(1, "x"), 0.5F, 100.0F, false};
    const int64_t item = dtype_bytes(dtype);
    std::vector<std::byte> whole(static_cast<size_t>(200 * item));
    fill_values(recipe, 0, 200, whole.data());
    for (int64_t first = 0; first < 40; ++first) {
      for (int64_t count = 0; count < 60; ++count) {
        std::vector<std::byte> part(static_cast<size_t>(count * item));
        fill_values(recipe, first, count, part.data());
        ASSERT_TRUE(std::equal(part.begin(), part.end(), whole.begin() + first * item));
      }
    }
  }
}

TEST(Synthetic, LongAndShortFillsAgree) {
  const ValueRecipe recipe{DType::kF8E4M3, 7, 0.0F, 448.0F, false};
  std::vector<uint8_t> many(size_t{1} << 20);
  std::vector<uint8_t> few(1000);
  fill_values(recipe, 0, static_cast<int64_t>(many.size()), many.data());
  fill_values(recipe, 500'000, 1000, few.data());
  EXPECT_EQ(std::memcmp(few.data(), many.data() + 500'000, few.size()), 0);
}

// Standard deviation of one FP8 matrix times sqrt(in).
double unit_deviation(const ArchConfig& config) {
  const SyntheticSource source(config, 3, false);
  const HostWeight w =
      source.read_weight("model.layers.1.self_attn.q_a_proj.weight", {0, 160}, {0, 192}).value();
  double squares = 0.0;
  double sum = 0.0;
  for (int64_t r = 0; r < 160; ++r) {
    for (int64_t c = 0; c < 192; ++c) {
      const uint8_t code = w.values.view.as<uint8_t>()[r * 192 + c];
      EXPECT_NE(code & 0x7f, 0x7f) << "NaN";
      const float scale = w.scales->view.as<float>()[r / 128 * w.scales->view.stride[0] + c / 128];
      const double value = static_cast<double>(e4m3_to_float(code)) * scale;
      squares += value * value;
      sum += value;
    }
  }
  const double n = 160 * 192;
  EXPECT_NEAR(sum / n, 0.0, 0.002);
  return std::sqrt(squares / n) * std::sqrt(192.0);
}

// y = W x keeps the size of x.
TEST(Synthetic, ValuesHaveTheSpreadThatTheyShould) {
  ArchConfig config = config_of(testing::kTinyV3Fp8Config);
  const double powers = unit_deviation(config);
  EXPECT_GT(powers, 0.6);
  EXPECT_LT(powers, 1.6);
  config.quantization.ue8m0 = false;
  EXPECT_NEAR(unit_deviation(config), 1.0, 0.2);
}

TEST(Synthetic, Ue8m0ScalesArePowersOfTwo) {
  const SyntheticSource source(config_of(testing::kTinyV3Fp8Config), 3, false);
  const HostTensor t = source.read("model.layers.0.mlp.gate_proj.weight_scale_inv").value();
  for (int64_t i = 0; i < t.view.elements(); ++i) {
    int exponent = 0;
    EXPECT_EQ(std::frexp(t.view.as<float>()[i], &exponent), 0.5F);
  }
}

TEST(Synthetic, SeedsAndNamesDecideTheValues) {
  const ArchConfig config = config_of(testing::kTinyV3Fp8Config);
  const SyntheticSource one(config, 1, false);
  const SyntheticSource again(config, 1, false);
  const SyntheticSource other(config, 2, false);
  const auto bytes = [](const SyntheticSource& s, const char* name) {
    const HostTensor t = s.read(name).value();
    return std::string(t.view.as<const char>(), static_cast<size_t>(t.view.bytes()));
  };
  const char* const embed = "model.embed_tokens.weight";
  EXPECT_EQ(bytes(one, embed), bytes(again, embed));
  EXPECT_NE(bytes(one, embed), bytes(other, embed));
  EXPECT_NE(bytes(one, embed), bytes(one, "lm_head.weight"));
  // A draft layer's copies are copies.
  EXPECT_EQ(bytes(one, embed), bytes(one, "model.layers.2.embed_tokens.weight"));
  EXPECT_EQ(bytes(one, "lm_head.weight"), bytes(one, "model.layers.2.shared_head.head.weight"));
}

TEST(Synthetic, ShapesAloneNeedNoMemory) {
  const SyntheticSource v3(config_of(testing::kV3Config), 0, true);
  const HostWeight w =
      v3.read_weight("model.layers.3.mlp.experts.255.down_proj.weight", {0, 7168}, {64, 2048})
          .value();
  EXPECT_EQ(w.values.view.data, nullptr);
  EXPECT_EQ(w.values.view.shape[1], 1984);
  EXPECT_EQ(w.first_column_in_block, 64);
  EXPECT_EQ(w.scales->view.shape[1], 16);
  EXPECT_EQ(v3.read("model.norm.weight")->view.data, nullptr);
  EXPECT_FALSE(v3.read("model.nope").is_ok());
}

std::string flat(const Tensor& t) {
  const HostTensor copy = copy_to_host(t);
  return {copy.view.as<const char>(), static_cast<size_t>(copy.view.bytes())};
}

// All bytes of a mapped weight, read `elements` at a time.
std::string in_pieces(const HostWeight& weight, int64_t elements) {
  EXPECT_EQ(weight.values.view.data, nullptr);
  std::string all(static_cast<size_t>(weight.values.view.bytes()), '\0');
  const auto piece = static_cast<size_t>(elements * dtype_bytes(weight.values.view.dtype));
  for (size_t at = 0; at < all.size(); at += piece) {
    const std::span<char> to(all.data() + at, std::min(piece, all.size() - at));
    const Status status = weight.bytes->read(static_cast<int64_t>(at), std::as_writable_bytes(to));
    EXPECT_TRUE(status.is_ok()) << status.to_string();
  }
  return all;
}

// What is written to disk is what the source generates, whole and in slices.
TEST(SynthCheckpoint, RoundTripsThroughDisk) {
  for (const char* json : {testing::kTinyV3Fp8Config, testing::kTinyQwenConfig}) {
    const TempDir dir;
    SynthOptions options;
    options.directory = dir / "model";
    options.config_json = json;
    options.seed = 5;
    options.shard_bytes_max = 200'000;
    options.threads = 3;
    int64_t done = 0;
    const auto summary = write_synthetic_checkpoint(
        options, [&](int64_t bytes, int64_t total) { done = bytes * 100 / total; });
    ASSERT_TRUE(summary.is_ok()) << summary.status().to_string();
    EXPECT_EQ(done, 100);
    EXPECT_GT(summary->shards, 1);
    const auto disk = Checkpoint::open(options.directory);
    ASSERT_TRUE(disk.is_ok()) << disk.status().to_string();
    EXPECT_TRUE((*disk)->warnings().empty());
    const auto made = SyntheticSource::open(options.directory, 5, false).value();
    ASSERT_EQ((*disk)->names().size(), made->tensors().size());
    for (const InventoryTensor& t : made->tensors()) {
      const auto a = (*disk)->read(t.spec.name);
      ASSERT_TRUE(a.is_ok());
      ASSERT_EQ(flat(a->view), flat(made->read(t.spec.name)->view)) << t.spec.name;
      if (t.spec.shape.size() != 2 || t.spec.shape[0] < 8 || t.role == TensorRole::kScale) continue;
      const Span rows{3, t.spec.shape[0] - 2};
      const Span columns{1, t.spec.shape[1] - 1};
      const HostWeight x = (*disk)->read_weight(t.spec.name, rows, columns).value();
      const HostWeight y = made->read_weight(t.spec.name, rows, columns).value();
      ASSERT_EQ(flat(x.values.view), flat(y.values.view)) << t.spec.name;
      for (const WeightSource* source : {static_cast<const WeightSource*>(disk->get()),
                                         static_cast<const WeightSource*>(made.get())}) {
        const HostWeight mapped = source->map_weight(t.spec.name, rows, columns).value();
        ASSERT_EQ(in_pieces(mapped, 7), flat(x.values.view)) << t.spec.name;
        ASSERT_EQ(in_pieces(mapped, 100'000), flat(x.values.view)) << t.spec.name;
        ASSERT_EQ(mapped.scales.has_value(), x.scales.has_value());
      }
      ASSERT_EQ(x.scales.has_value(), y.scales.has_value());
      if (x.scales) {
        ASSERT_EQ(flat(x.scales->view), flat(y.scales->view));
      }
      ASSERT_EQ(x.first_row_in_block, y.first_row_in_block);
      ASSERT_EQ(x.first_column_in_block, y.first_column_in_block);
    }
    EXPECT_EQ(write_synthetic_checkpoint(options, nullptr).status().code(), Code::kAlreadyExists);
  }
}

TEST(SynthCheckpoint, OneShardNeedsNoIndex) {
  const TempDir dir;
  SynthOptions options;
  options.directory = dir.path();
  options.config_json = testing::kTinyQwenConfig;
  ASSERT_TRUE(write_synthetic_checkpoint(options, nullptr).is_ok());
  EXPECT_TRUE(read_file(dir / "model.safetensors", size_t{1} << 30).is_ok());
  EXPECT_FALSE(read_file(dir / "model.safetensors.index.json", size_t{1} << 30).is_ok());
  EXPECT_TRUE(Checkpoint::open(dir.path()).is_ok());
}

}  // namespace
}  // namespace fathom
