// Commands that need no server: synth, inspect, keys, tokenize with a local directory.
#include <gtest/gtest.h>
#include <unistd.h>

#include <filesystem>

#include "auth/api_keys.h"
#include "base/file.h"
#include "base/json.h"
#include "ctl/presets.h"
#include "run_command.h"
#include "weights/checkpoint.h"

namespace fathom::ctl {
namespace {

using testing::run_command;

class Local : public ::testing::Test {
 protected:
  void SetUp() override {
    std::string pattern = ::testing::TempDir() + "fathom-ctl-XXXXXX";
    directory_ = ::mkdtemp(pattern.data());
  }
  void TearDown() override {
    std::error_code ignored;
    std::filesystem::remove_all(directory_, ignored);
  }
  std::string path(const std::string& name) const { return directory_ + "/" + name; }
  Json json_of(const std::vector<std::string>& arguments, int code = 0) const {
    std::vector<std::string> all = arguments;
    all.emplace_back("--json");
    const auto ran = run_command(all);
    EXPECT_EQ(ran.code, code) << ran.err;
    auto parsed = parse_json(ran.out);
    EXPECT_TRUE(parsed.is_ok()) << ran.out;
    return parsed.is_ok() ? *parsed : Json();
  }
  std::string directory_;
};

TEST_F(Local, SynthWritesWhatInspectSees) {
  const Json made = json_of({"synth", path("m"), "--preset", "v3-tiny", "--shard-size", "2MB"});
  EXPECT_GT(made["shards"].get<int>(), 1);
  const Json seen = json_of({"inspect", path("m")});
  EXPECT_EQ(seen["architecture"], "DeepseekV3ForCausalLM");
  EXPECT_EQ(seen["quantization"], "fp8_block");
  EXPECT_EQ(seen["files"], made["shards"]);
  EXPECT_EQ(seen["has_weights"], true);
  EXPECT_GT(seen["bytes_by_format"]["F8_E4M3"].get<int64_t>(), 0);
  EXPECT_TRUE(seen["missing"].empty());
  EXPECT_TRUE(seen["unexpected"].empty());
  EXPECT_EQ(seen["kv_bytes_per_token"], 576 * 2 * 2);
  EXPECT_EQ(json_of({"inspect", path("m"), "--kv-cache-dtype", "float32"})["kv_bytes_per_token"],
            576 * 2 * 4);
  const auto text = run_command({"inspect", path("m")});
  EXPECT_EQ(text.code, 0);
  EXPECT_NE(text.out.find("F8_E4M3"), std::string::npos) << text.out;
}

TEST_F(Local, SynthTakesEveryDtype) {
  for (const auto& [dtype, format] : std::vector<std::pair<std::string, std::string>>{
           {"bf16", "BF16"}, {"f32", "F32"}, {"fp8", "F8_E4M3"}}) {
    json_of({"synth", path(dtype), "--preset", "v3-tiny", "--dtype", dtype, "--threads", "2"});
    const Json seen = json_of({"inspect", path(dtype)});
    EXPECT_EQ(seen["bytes_by_format"].contains("F8_E4M3"), dtype == "fp8");
    EXPECT_TRUE(seen["bytes_by_format"].contains(format));
    EXPECT_TRUE(Checkpoint::open(path(dtype)).is_ok());
  }
}

TEST_F(Local, SynthCanLeaveTheWeightsToTheServer) {
  json_of({"synth", path("c"), "--preset", "v3-tiny", "--config-only"});
  const Json seen = json_of({"inspect", path("c")});
  EXPECT_EQ(seen["architecture"], "DeepseekV3ForCausalLM");
  EXPECT_EQ(seen["has_weights"], false);
}

TEST_F(Local, SynthIsDeterministicAndNeverOverwrites) {
  for (const char* name : {"a", "b"}) {
    json_of({"synth", path(name), "--preset", "v3-tiny", "--seed", "7"});
  }
  EXPECT_EQ(*read_file(path("a/model.safetensors"), size_t{1} << 30),
            *read_file(path("b/model.safetensors"), size_t{1} << 30));
  const auto again = run_command({"synth", path("a"), "--preset", "v3-tiny"});
  EXPECT_EQ(again.code, 1);
  EXPECT_NE(again.err.find("already"), std::string::npos);
}

TEST_F(Local, SynthTakesAConfigAndATokenizer) {
  std::filesystem::create_directory(path("t"));
  ASSERT_TRUE(write_file(path("t/tokenizer.json"), "{}").is_ok());
  ASSERT_TRUE(write_file(path("config.json"),
                         R"({"architectures":["LlamaForCausalLM"],"num_hidden_layers":1,
                             "hidden_size":64,"intermediate_size":96,"vocab_size":100,
                             "max_position_embeddings":128,"num_attention_heads":4,"own":1})")
                  .is_ok());
  json_of({"synth", path("m"), "--config", path("config.json"), "--tokenizer", path("t")});
  EXPECT_TRUE(read_file(path("m/tokenizer.json"), 100).is_ok());
  EXPECT_NE(read_file(path("m/config.json"), 10000)->find("\"own\": 1"), std::string::npos);
  EXPECT_EQ(run_command({"synth", path("n"), "--config", path("absent.json")}).code, 78);
  ASSERT_TRUE(write_file(path("bad.json"), "{").is_ok());
  EXPECT_EQ(run_command({"synth", path("n"), "--config", path("bad.json")}).code, 78);
}

TEST_F(Local, InspectPlansMemoryForNamedRanks) {
  ASSERT_EQ(run_command({"synth", path("m"), "--preset", "v3-tiny"}).code, 0);
  const Json one = json_of({"inspect", path("m"), "--memory-per-rank", "8GB"})["plan"];
  ASSERT_EQ(one["fits"], true) << one.dump();
  ASSERT_EQ(one["stages"].size(), 1U);
  const auto weights = one["stages"][0]["weight_bytes"].get<int64_t>();
  EXPECT_GT(weights, 4'000'000);
  const Json two = json_of({"inspect", path("m"), "--memory-per-rank", "8GB",
                            "--tensor-parallel-size", "2", "--max-model-len", "1024"})["plan"];
  EXPECT_LT(two["stages"][0]["weight_bytes"].get<int64_t>(), weights);
  EXPECT_EQ(two["max_model_len"], 1024);
  // The config alone gives the same plan as the checkpoint that was made of it.
  std::filesystem::create_directory(path("bare"));
  std::filesystem::copy_file(path("m/config.json"), path("bare/config.json"));
  EXPECT_EQ(json_of({"inspect", path("bare"), "--memory-per-rank", "8GB"})["plan"], one);
  const Json small = json_of({"inspect", path("m"), "--memory-per-rank", "1MB"})["plan"];
  EXPECT_EQ(small["fits"], false);
  EXPECT_NE(small["why"].get<std::string>().find("does not fit"), std::string::npos);
  const auto text = run_command({"inspect", path("m"), "--memory-per-rank", "8GB"});
  EXPECT_NE(text.out.find("step workspace"), std::string::npos) << text.out;
}

// As its engine would: 1,152 bytes a token and layer of V2-Lite, or 656 where the cache is FP8.
TEST_F(Local, InspectPlansForAGpuAndAnFp8Cache) {
  std::filesystem::create_directory(path("lite"));
  ASSERT_TRUE(write_file(path("lite/config.json"), *preset_config("v2-lite")).is_ok());
  const auto inspect = [&](const char* device, const char* dtype) {
    return json_of({"inspect", path("lite"), "--memory-per-rank", "80GB", "--device", device,
                    "--kv-cache-dtype", dtype, "--max-num-seqs", "1024", "--max-model-len", "4096",
                    "--max-num-batched-tokens", "8192"});
  };
  const Json bf16 = inspect("cuda", "bfloat16");
  const Json fp8 = inspect("cuda", "fp8");
  EXPECT_EQ(bf16["kv_bytes_per_token"], 27 * 1152);
  EXPECT_EQ(fp8["kv_bytes_per_token"], 27 * 656);
  const auto blocks = [](const Json& seen) { return seen["plan"]["kv_blocks"].get<double>(); };
  EXPECT_NEAR(blocks(fp8) / blocks(bf16), 1152.0 / 656.0, 0.01);
  const auto workspace = [](const Json& seen) {
    return seen["plan"]["stages"][0]["workspace_bytes"].get<int64_t>();
  };
  EXPECT_GT(workspace(bf16), int64_t{400} << 20);
  EXPECT_LT(workspace(bf16), int64_t{2} << 30);
  EXPECT_NE(workspace(bf16), workspace(inspect("cpu", "bfloat16")));
}

TEST_F(Local, InspectPlansForPackedWeights) {
  std::filesystem::create_directory(path("llama"));
  ASSERT_TRUE(write_file(path("llama/config.json"), *preset_config("llama-8b")).is_ok());
  const auto plan = [&](const char* device, const char* pack) {
    return json_of({"inspect", path("llama"), "--memory-per-rank", "80GB", "--device", device,
                    "--pack-weights", pack, "--max-model-len", "4096"})["plan"];
  };
  EXPECT_EQ(plan("cuda", "off")["stages"][0]["packed_bytes"], 0);
  const int64_t packed = plan("cuda", "on")["stages"][0]["packed_bytes"];
  EXPECT_GT(packed, int64_t{11} * 1000 * 1000 * 1000);
  EXPECT_EQ(plan("cuda", "auto")["stages"][0]["packed_bytes"], packed);
  EXPECT_EQ(plan("cpu", "on")["fits"], false);
}

TEST_F(Local, AMissingShardIsNamed) {
  ASSERT_EQ(run_command({"synth", path("m"), "--preset", "v3-tiny", "--shard-size", "2MB"}).code,
            0);
  for (const auto& entry : std::filesystem::directory_iterator(path("m"))) {
    if (entry.path().filename().string().starts_with("model-00001-of-")) {
      std::filesystem::remove(entry.path());
      break;
    }
  }
  const auto ran = run_command({"inspect", path("m")});
  EXPECT_EQ(ran.code, 78);
  EXPECT_NE(ran.err.find("model-00001-of-"), std::string::npos) << ran.err;
}

TEST_F(Local, InspectReadsAConfigAlone) {
  ASSERT_EQ(run_command({"synth", path("m"), "--preset", "v3-tiny"}).code, 0);
  const Json seen = json_of({"inspect", path("m/config.json")});
  EXPECT_EQ(seen["has_weights"], false);
  EXPECT_GT(seen["weight_bytes"].get<int64_t>(), 0);
  EXPECT_EQ(seen["parameters"]["total"], json_of({"inspect", path("m")})["parameters"]["total"]);
}

TEST_F(Local, InspectNamesWhatIsMissing) {
  ASSERT_EQ(run_command({"synth", path("m"), "--preset", "v3-tiny"}).code, 0);
  std::string config = *read_file(path("m/config.json"), 100000);
  const size_t at = config.find("\"num_hidden_layers\": 2");
  ASSERT_NE(at, std::string::npos);
  config.replace(at, 22, "\"num_hidden_layers\": 3");
  ASSERT_TRUE(write_file(path("m/config.json"), config).is_ok());
  const Json seen = json_of({"inspect", path("m")}, 1);
  EXPECT_FALSE(seen["missing"].empty());
  const auto text = run_command({"inspect", path("m")});
  EXPECT_NE(text.out.find("missing"), std::string::npos);
  EXPECT_EQ(run_command({"inspect", path("absent")}).code, 78);
}

TEST_F(Local, KeysAreTakenByTheServersStore) {
  const Json made = json_of({"keys", "create", "alice"});
  const auto store = auth::ApiKeyStore::parse(made["line"].get<std::string>() + "\n", "test");
  ASSERT_TRUE(store.is_ok());
  EXPECT_EQ(store->find(made["key"].get<std::string>()), "alice");
  const Json second = json_of({"keys", "create", "bob", "--append-to", path("keys")});
  json_of({"keys", "create", "carol", "--append-to", path("keys")});
  const auto file = auth::ApiKeyStore::load(path("keys"));
  ASSERT_TRUE(file.is_ok()) << file.status().to_string();
  EXPECT_EQ(file->size(), 2U);
  EXPECT_EQ(file->find(second["key"].get<std::string>()), "bob");
  EXPECT_EQ(run_command({"keys", "create", "bad name"}).code, 1);
  EXPECT_EQ(run_command({"keys", "create", "x", "--append-to", "/nonexistent/keys"}).code, 78);
}

TEST_F(Local, TokenizeNeedsATokenizer) {
  const auto ran = run_command({"tokenize", "hello", "--model-dir", path("absent")});
  EXPECT_EQ(ran.code, 78);
}

}  // namespace
}  // namespace fathom::ctl
