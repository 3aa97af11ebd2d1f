// The command line itself: usage errors, help, exit codes, and the console's helpers.
#include <gtest/gtest.h>

#include "base/json.h"
#include "ctl/console.h"
#include "ctl/presets.h"
#include "ctl/prometheus_text.h"
#include "run_command.h"
#include "weights/arch_config.h"
#include "weights/inventory.h"

namespace fathom::ctl {
namespace {

using testing::run_command;

TEST(CommandLine, UsageErrorsExitWith2AndName) {
  const std::pair<std::vector<std::string>, const char*> cases[] = {
      {{}, "subcommand"},
      {{"frobnicate"}, "frobnicate"},
      {{"inspect"}, "model"},
      {{"inspect", "m", "--tensor-parallel-size", "0"}, "--tensor-parallel-size"},
      {{"inspect", "m", "--tensor-parallel-size", "many"}, "--tensor-parallel-size"},
      {{"synth"}, "output"},
      {{"synth", "d", "--preset", "gpt"}, "--preset"},
      {{"synth", "d", "--preset", "v3-tiny", "--config", "c"}, "excludes"},
      {{"synth", "d", "--preset", "v3-tiny", "--dtype", "int3"}, "--dtype"},
      {{"synth", "d"}, "--config or --preset"},
      {{"chat", "--temperature", "3"}, "--temperature"},
      {{"chat", "--temperature", "warm"}, "--temperature"},
      {{"chat", "--thinking", "maybe"}, "--thinking"},
      {{"chat", "--no-such-flag"}, "--no-such-flag"},
      {{"bench"}, "subcommand"},
      {{"bench", "serve", "--clients", "0"}, "--clients"},
      {{"bench", "serve", "--clients", "4097"}, "--clients"},
      {{"bench", "serve", "--clients", "2", "--rate", "1"}, "excludes"},
      {{"status", "--interval", "0"}, "--interval"},
      {{"keys"}, "subcommand"},
      {{"keys", "create"}, "name"},
  };
  for (const auto& [arguments, expected] : cases) {
    const auto ran = run_command(arguments);
    EXPECT_EQ(ran.code, 2) << ran.err;
    EXPECT_NE(ran.err.find(expected), std::string::npos) << expected << ": " << ran.err;
    EXPECT_EQ(ran.out, "");
  }
}

TEST(CommandLine, HelpAndVersionGoToStandardOutput) {
  for (const std::vector<std::string>& arguments :
       {std::vector<std::string>{"--help"}, {"bench", "serve", "--help"}, {"--version"}}) {
    const auto ran = run_command(arguments);
    EXPECT_EQ(ran.code, 0);
    EXPECT_NE(ran.out, "");
    EXPECT_EQ(ran.err, "");
  }
  const std::string help = run_command({"--help"}).out;
  for (const char* command :
       {"inspect", "synth", "tokenize", "chat", "complete", "status", "bench", "keys"}) {
    EXPECT_NE(help.find(command), std::string::npos) << command;
  }
}

TEST(CommandLine, ABadUrlIsNamed) {
  for (const char* command : {"chat", "complete", "status"}) {
    const auto ran = run_command({command, "--url", "gopher://x"}, {.input = "hi"});
    EXPECT_EQ(ran.code, 1);
    EXPECT_NE(ran.err.find("gopher://x"), std::string::npos) << ran.err;
  }
}

TEST(CommandLine, NoServerIs69AlsoAsJson) {
  for (const std::vector<std::string>& arguments : {std::vector<std::string>{"chat", "hi"},
                                                    {"complete", "hi"},
                                                    {"status"},
                                                    {"bench", "serve"},
                                                    {"tokenize", "hi"}}) {
    std::vector<std::string> all = arguments;
    for (const char* more : {"--url", "http://127.0.0.1:1", "--json"}) all.emplace_back(more);
    const auto ran = run_command(all);
    EXPECT_EQ(ran.code, 69) << ran.err;
    const auto error = parse_json(ran.err);
    ASSERT_TRUE(error.is_ok()) << ran.err;
    EXPECT_EQ((*error)["error"]["code"], "UNAVAILABLE");
  }
}

TEST(CommandLine, AKeyFileThatCannotBeReadIs78) {
  const auto ran = run_command({"chat", "hi", "--api-key-file", "/nonexistent/key"});
  EXPECT_EQ(ran.code, 78);
  EXPECT_NE(ran.err.find("/nonexistent/key"), std::string::npos);
  EXPECT_EQ(run_command({"chat", "hi"}, {.api_key = "a\nb"}).code, 78);
}

TEST(Console, PrintableDropsWhatSteersATerminal) {
  EXPECT_EQ(printable("a\x1b[31mb\tc\nd\r\x07"), "a[31mb\tc\nd");
  EXPECT_EQ(printable("caf\xc3\xa9 \xe4\xb8\xad"), "caf\xc3\xa9 \xe4\xb8\xad");
  EXPECT_EQ(printable("x\xc2\x9b"
                      "31m"),
            "x31m");
  EXPECT_EQ(printable("\xc2\xa0"), "\xc2\xa0");
  EXPECT_EQ(printable("\x7f"), "");
}

TEST(Console, FormatsNumbers) {
  EXPECT_EQ(format_bytes(0), "0 B");
  EXPECT_EQ(format_bytes(1536), "1.50 KiB");
  EXPECT_EQ(format_bytes(int64_t{5} << 40), "5.00 TiB");
  EXPECT_EQ(format_count(671'026'419'200), "671.03 B");
  EXPECT_EQ(with_commas(0), "0");
  EXPECT_EQ(with_commas(1234567), "1,234,567");
  EXPECT_EQ(with_commas(-999), "-999");
}

TEST(Presets, AreAllConfigsThatCanBeListed) {
  for (const std::string& name : preset_list()) {
    const auto config = parse_arch_config(*preset_config(name), name);
    EXPECT_TRUE(config.is_ok()) << name << ": " << config.status().to_string();
  }
  EXPECT_FALSE(preset_config("nope").has_value());
}

TEST(Presets, OfQwen2HaveTheBiasesThatTheModelAsksFor) {
  const auto config = parse_arch_config(*preset_config("qwen-7b"), "qwen-7b");
  ASSERT_TRUE(config.is_ok());
  int biases = 0;
  for (const InventoryTensor& tensor : tensor_inventory(config.value())) {
    biases += tensor.role == TensorRole::kBias ? 1 : 0;
  }
  EXPECT_EQ(biases, 3 * 28) << "of queries, keys and values";
}

constexpr const char* kMetrics =
    "# HELP x y\n# TYPE x counter\n"
    "x{model=\"a b}\"} 3\nx{model=\"c\"} 4\n"
    "gauge 2.5\n"
    "h_bucket{le=\"0.1\"} 0\nh_bucket{le=\"0.2\"} 5\nh_bucket{le=\"0.4\"} 10\n"
    "h_bucket{le=\"+Inf\"} 10\nh_sum 2\nh_count 10\n"
    "broken\nalso{broken=\"\n";

TEST(PrometheusText, SumsAndInterpolates) {
  const PrometheusText m = PrometheusText::parse(kMetrics);
  EXPECT_EQ(m.value("x"), 7.0);
  EXPECT_EQ(m.value("gauge"), 2.5);
  EXPECT_FALSE(m.value("none").has_value());
  EXPECT_NEAR(*m.quantile("h", 0.5), 0.2, 1e-9);
  EXPECT_NEAR(*m.quantile("h", 0.25), 0.15, 1e-9);
  EXPECT_NEAR(*m.quantile("h", 0.75), 0.3, 1e-9);
  EXPECT_FALSE(m.quantile("h", 0.5, &m).has_value());
  EXPECT_FALSE(m.quantile("none", 0.5).has_value());
  const PrometheusText open =
      PrometheusText::parse("h_bucket{le=\"1\"} 0\nh_bucket{le=\"+Inf\"} 4\n");
  EXPECT_EQ(open.quantile("h", 0.9), 1.0);
  EXPECT_FALSE(PrometheusText::parse("").value("x").has_value());
}

}  // namespace
}  // namespace fathom::ctl
