// Flags, environment, file and their order; every error names the key, the value and the range.
#include "config/config.h"

#include <gtest/gtest.h>

#include <filesystem>
#include <fstream>

#include "config/settings.h"

namespace fathom {
namespace {

using Words = std::vector<std::string>;

Result<Launch> load(const Words& flags, const Words& environment = {}) {
  std::vector<const char*> argv = {"fathomd"};
  for (const std::string& word : flags) argv.push_back(word.c_str());
  std::vector<const char*> env;
  for (const std::string& word : environment) env.push_back(word.c_str());
  env.push_back(nullptr);
  return load_config(static_cast<int>(argv.size()), argv.data(), env.data());
}

std::string error_of(const Words& flags, const Words& environment = {}) {
  Result<Launch> launch = load(flags, environment);
  return launch.is_ok() ? "no error" : launch.status().message();
}

bool contains(const std::string& text, const std::string& part) {
  return text.find(part) != std::string::npos;
}

class ConfigFile : public testing::Test {
 protected:
  void TearDown() override { std::filesystem::remove(path_); }
  void write(const std::string& text) { std::ofstream(path_) << text; }
  std::string path_ = testing::TempDir() + "/fathom-config-" + std::to_string(getpid()) + ".yaml";
};

TEST(Config, DefaultsHoldTogether) {
  Config config = load({}).value().config;
  EXPECT_EQ(config.server.port, 8000);
  EXPECT_EQ(config.server.grpc_port, 50051);
  EXPECT_EQ(config.server.admin_port, 8002);
  EXPECT_EQ(config.server.metrics_port, 9464);
  EXPECT_EQ(config.server.host, "127.0.0.1");
  EXPECT_EQ(config.limits.max_body_bytes, 32 * 1024 * 1024);
  EXPECT_EQ(config.engine.numerics, Numerics::kNative);
  EXPECT_FALSE(config.model.max_model_len.has_value());
}

TEST(Config, NamesAreUniqueSoThatAFlagMeansOneSetting) {
  std::set<std::string> names;
  Config config;
  for_each_setting(config, [&](const SettingInfo& info, auto&) {
    EXPECT_TRUE(names.insert(std::string(info.name)).second) << info.name;
  });
  EXPECT_GT(names.size(), 60u);
}

TEST(Config, FlagsSetEveryType) {
  Config config =
      load({"--port", "0", "--host=127.0.0.2", "--numerics", "reference", "--drain-seconds", "1.5",
            "--max-model-len", "4096", "--deterministic", "--no-enable-prefix-caching",
            "--access-log=false", "--max-body-bytes", "2MiB", "--log-level", "warn"})
          .value()
          .config;
  EXPECT_EQ(config.server.port, 0);
  EXPECT_EQ(config.server.host, "127.0.0.2");
  EXPECT_EQ(config.engine.numerics, Numerics::kReference);
  EXPECT_EQ(config.server.drain_seconds, 1.5);
  EXPECT_EQ(config.model.max_model_len, 4096);
  EXPECT_TRUE(config.engine.deterministic);
  EXPECT_FALSE(config.kv.enable_prefix_caching);
  EXPECT_FALSE(config.logging.access_log);
  EXPECT_EQ(config.limits.max_body_bytes, 2 << 20);
  EXPECT_EQ(config.logging.log_level, LogLevel::kWarn);
}

TEST(Config, AutoTakesBackAnOptionalNumber) {
  Config config = load({"--max-model-len", "auto"}, {"FATHOM_MAX_MODEL_LEN=4096"}).value().config;
  EXPECT_FALSE(config.model.max_model_len.has_value());
}

TEST_F(ConfigFile, FlagBeatsEnvironmentBeatsFileBeatsDefault) {
  write("server:\n  port: 1\n  grpc_port: 2\n  admin_port: 3\nkv: {block_size: 128}\nlimits:\n");
  Config config = load({"--config", path_, "--port", "10"},
                       {"FATHOM_PORT=11", "FATHOM_GRPC_PORT=12", "OTHER=1"})
                      .value()
                      .config;
  EXPECT_EQ(config.server.port, 10);
  EXPECT_EQ(config.server.grpc_port, 12);
  EXPECT_EQ(config.server.admin_port, 3);
  EXPECT_EQ(config.server.metrics_port, 9464);
  EXPECT_EQ(config.kv.block_size, 128);
  EXPECT_EQ(load({}, {"FATHOM_CONFIG=" + path_}).value().config.server.port, 1);
}

TEST_F(ConfigFile, ErrorsNameFileLineKeyValueAndRange) {
  write("server:\n  port: 8000\n\n  grpc_port: 70000\n");
  std::string error = error_of({"--config", path_});
  EXPECT_TRUE(contains(error, path_ + ":4: server.grpc_port: \"70000\" must be 0 to 65535"))
      << error;
  write("server:\n  prot: 8000\n");
  EXPECT_TRUE(contains(error_of({"--config", path_}), ":2: server.prot is not a setting"));
  write("sever:\n  port: 8000\n");
  EXPECT_TRUE(contains(error_of({"--config", path_}), ":1: sever is not a group"));
  write("server:\n  max_num_seqs: 4\n");  // a setting, but of another group
  EXPECT_TRUE(contains(error_of({"--config", path_}), "server.max_num_seqs is not a setting"));
}

TEST_F(ConfigFile, DuplicateKeysAreErrors) {
  write("server:\n  port: 1\n  port: 2\n");
  EXPECT_TRUE(contains(error_of({"--config", path_}), ":3: port is given twice"));
  write("server:\n  port: 1\nserver:\n  host: a\n");
  EXPECT_TRUE(contains(error_of({"--config", path_}), ":3: server is given twice"));
}

TEST_F(ConfigFile, WhatIsNotGroupsOfScalarsIsAnError) {
  for (const char* text :
       {"[1, 2]", "port", "server: 5", "server: [1]", "server:\n  port: [1]", "server:\n  port: {}",
        "server:\n  port:\n", "server:\n  [1]: 2", "a: b: c", "---\nserver:\n---\nserver:\n",
        "server: *missing", "\"", "{{{{", ",a", "server:\n---\n", "server:\n...\nport",
        "{server: } x", "# nothing\n,", "server:\n  port: 1\x04\nx"}) {
    write(text);
    EXPECT_NE(error_of({"--config", path_}), "no error") << text;
  }
  for (const char* text :
       {"", "# comment\n", "---\n", "---\n# only\n\n", "---\nserver:\n  port: 1\r\n"}) {
    write(text);
    EXPECT_EQ(error_of({"--config", path_}), "no error") << text;
  }
  write(std::string((1 << 20) + 1, '#'));
  EXPECT_TRUE(contains(error_of({"--config", path_}), "at most 1048576"));
  EXPECT_TRUE(contains(error_of({"--config", "/nonexistent"}), "/nonexistent"));
}

TEST_F(ConfigFile, CheckConfigPrintsWhatReadsBackTheSame) {
  Words flags = {"--port=1234",    "--host",     "localhost", "--served-model-name",
                 "it's #1: \"a\"", "--numerics", "reference"};
  Words check = flags;
  check.emplace_back("--check-config");
  std::string printed = *load(check).value().print;
  write(printed);
  EXPECT_EQ(*load({"--config", path_, "--check-config"}).value().print, printed);
  EXPECT_TRUE(contains(printed, "\n  served_model_name: 'it''s #1: \"a\"'\n")) << printed;
}

TEST(Config, RangesHoldAtTheBoundAndOnePastIt) {
  EXPECT_TRUE(load({"--max-num-seqs", "4096"}).is_ok());
  EXPECT_TRUE(load({"--max-num-seqs", "1"}).is_ok());
  EXPECT_EQ(error_of({"--max-num-seqs", "4097"}),
            "--max-num-seqs: \"4097\" must be 1 to 4096 sequences");
  EXPECT_EQ(error_of({"--max-num-seqs=0"}), "--max-num-seqs: \"0\" must be 1 to 4096 sequences");
  EXPECT_TRUE(load({"--host", std::string(255, 'a'), "--allow-plaintext"}).is_ok());
  EXPECT_FALSE(load({"--host", std::string(256, 'a'), "--allow-plaintext"}).is_ok());
}

TEST(Config, BadValuesOfEveryTypeAreRefused) {
  for (const char* bad :
       {"", " 1", "1 ", "1.0", "1e3", "0x10", "+1", "12KB", "99999999999999999999"}) {
    EXPECT_FALSE(load({"--max-num-seqs", bad}).is_ok()) << bad;
  }
  for (const char* bad : {"9007199254740992GiB", "-1GiB", "KiB", "1 KiB", "1kib"}) {
    EXPECT_FALSE(load({"--max-body-bytes", bad}).is_ok()) << bad;
  }
  for (const char* bad : {"nan", "inf", "-1", "1,5", ""}) {
    EXPECT_FALSE(load({"--drain-seconds", bad}).is_ok()) << bad;
  }
  EXPECT_FALSE(load({"--model", "a\nb"}).is_ok());
  EXPECT_EQ(error_of({"--device", "gpu"}), "--device: \"gpu\" must be one of auto, cpu, cuda");
  EXPECT_FALSE(load({"--deterministic=maybe"}).is_ok());
  EXPECT_EQ(error_of({}, {"FATHOM_DETERMINISTIC=1"}),
            "FATHOM_DETERMINISTIC: \"1\" must be true or false");
}

TEST(Config, UnknownFlagsAndVariablesAreErrorsThatNameThem) {
  EXPECT_TRUE(contains(error_of({"--max-num-sequences", "4"}), "--max-num-sequences"));
  EXPECT_TRUE(contains(error_of({"model"}), "model"));
  EXPECT_TRUE(contains(error_of({"--port"}), "--port"));
  EXPECT_TRUE(contains(error_of({"--port", "1", "--port", "2"}), "--port"));
  EXPECT_TRUE(contains(error_of({}, {"FATHOM_PROT=1"}), "FATHOM_PROT"));
}

TEST(Config, ServiceLinksOfKubernetesAreNotSettings) {
  EXPECT_EQ(
      error_of({}, {"FATHOM_SERVICE_HOST=10.0.0.1", "FATHOM_PORT_8000_TCP=tcp://10.0.0.1:8000",
                    "FATHOM_SERVICE_PORT_HTTP=8000", "FATHOM_TOKENIZERS=/x"}),
      "no error");
  EXPECT_TRUE(contains(error_of({}, {"FATHOM_PORT=tcp://10.0.0.1:8000"}), "enableServiceLinks"));
}

TEST(Config, ContradictionsNameTheirSettings) {
  struct Case {
    Words flags;
    const char* subject;
  };
  const Case cases[] = {
      {{"--tls-cert", "a"}, "tls_key"},
      {{"--tls-key", "a"}, "tls_key"},
      {{"--tls-client-ca", "a"}, "tls_client_ca"},
      {{"--host", "0.0.0.0"}, "host"},
      {{"--admin-host", "::"}, "admin_host"},
      {{"--metrics-host", "10.0.0.1"}, "metrics_host"},
      {{"--port", "9464"}, "metrics_port"},
      {{"--grpc-port", "8000"}, "grpc_port"},
      {{"--dtype", "float32"}, "dtype"},
      {{"--kv-cache-dtype", "bfloat16", "--numerics", "reference"}, "kv_cache_dtype"},
      {{"--kv-cache-dtype", "fp8", "--numerics", "reference"}, "kv_cache_dtype"},
      {{"--pack-weights", "on", "--device", "cpu"}, "pack_weights"},
      {{"--pack-weights", "on", "--numerics", "reference"}, "pack_weights"},
      {{"--pack-weights", "on", "--deterministic"}, "pack_weights"},
      {{"--block-size", "96"}, "block_size"},
      {{"--max-num-batched-tokens", "255"}, "max_num_batched_tokens"},
      {{"--max-num-batched-tokens", "511", "--speculative-tokens", "1"}, "max_num_batched_tokens"},
      {{"--load-format", "synthetic"}, "load_format"},
      {{"--data-parallel-size", "2"}, "data_parallel_size"},
      {{"--enable-expert-parallel=false", "--tensor-parallel-size=2"}, "enable_expert_parallel"},
      {{"--prefill-chunk-tokens", "63"}, "prefill_chunk_tokens"},
      {{"--metrics-host", "0.0.0.0", "--tls-cert", "a", "--tls-key", "b"}, "metrics_host"},
      {{"--admin-host", "0.0.0.0", "--tls-cert", "a", "--tls-key", "b"}, "admin_host"},
  };
  for (const Case& c : cases) {
    Result<Launch> launch = load(c.flags);
    ASSERT_FALSE(launch.is_ok()) << c.flags[0];
    EXPECT_EQ(launch.status().subject(), c.subject) << launch.status().to_string();
  }
}

TEST(Config, WhatOnlyLooksLikeAContradictionIsFine) {
  EXPECT_EQ(error_of({"--host", "0.0.0.0", "--allow-plaintext"}), "no error");
  EXPECT_EQ(error_of({"--host", "0.0.0.0", "--tls-cert", "a", "--tls-key", "b"}), "no error");
  EXPECT_EQ(error_of({"--port", "0", "--grpc-port", "0", "--admin-port", "0"}), "no error");
  EXPECT_EQ(error_of({"--max-num-batched-tokens", "256"}), "no error");
  EXPECT_EQ(error_of({"--data-parallel-size", "1"}), "no error");
  EXPECT_EQ(error_of({"--enable-expert-parallel", "--tensor-parallel-size", "2"}), "no error");
  EXPECT_EQ(error_of({"--enable-expert-parallel=false"}), "no error") << "one rank holds them all";
  EXPECT_EQ(error_of({"--prefill-chunk-tokens", "64"}), "no error");
  EXPECT_EQ(error_of({"--pack-weights", "on"}), "no error");
  EXPECT_EQ(error_of({"--pack-weights", "auto", "--device", "cpu", "--deterministic"}), "no error");
  EXPECT_EQ(error_of({"--dtype", "float32", "--numerics", "reference"}), "no error");
}

TEST(Config, BatchedTokensFollowTheBackend) {
  EXPECT_EQ(Config{}.batched_tokens_max(false), 512);
  EXPECT_EQ(Config{}.batched_tokens_max(true), 8192);
  EXPECT_EQ(load({"--max-num-seqs", "1000"}).value().config.batched_tokens_max(false), 1000);
  EXPECT_EQ(load({"--max-num-batched-tokens", "300"}).value().config.batched_tokens_max(true), 300);
}

TEST(Config, HelpAndVersionComeFirst) {
  std::string help = *load({"--help", "--port", "bad"}).value().print;
  Config config;
  for_each_setting(config, [&](const SettingInfo& info, auto&) {
    EXPECT_TRUE(contains(help, "  " + info.flag())) << info.name;
  });
  EXPECT_TRUE(contains(*load({"--version"}).value().print, "fathom 0."));
}

}  // namespace
}  // namespace fathom
