// quantization_config: what is read, and what is refused by name.
#include "weights/quantization.h"

#include <gtest/gtest.h>

namespace fathom {
namespace {

Result<QuantizationConfig> parse(const std::string& quantization) {
  return parse_quantization_config(R"({"quantization_config":)" + quantization + "}",
                                   "config.json");
}

TEST(QuantizationConfig, NoneIsUnquantized) {
  const auto none = parse_quantization_config("{}", "config.json");
  ASSERT_TRUE(none.is_ok());
  EXPECT_FALSE(none->fp8_block);
  EXPECT_TRUE(parse("null").is_ok());
}

TEST(QuantizationConfig, ReadsDeepSeekV3) {
  const auto q = parse(
      R"({"activation_scheme":"dynamic","fmt":"e4m3","quant_method":"fp8",)"
      R"("weight_block_size":[128,128]})");
  ASSERT_TRUE(q.is_ok()) << q.status().to_string();
  EXPECT_TRUE(q->fp8_block);
  EXPECT_EQ(q->block_rows, 128);
  EXPECT_EQ(q->block_columns, 128);
  EXPECT_FALSE(q->ue8m0);
}

TEST(QuantizationConfig, ReadsScaleFormatAndUnevenBlocks) {
  const auto q = parse(R"({"quant_method":"fp8","weight_block_size":[32,64],"scale_fmt":"ue8m0"})");
  ASSERT_TRUE(q.is_ok());
  EXPECT_TRUE(q->ue8m0);
  EXPECT_EQ(q->block_rows, 32);
  EXPECT_EQ(q->block_columns, 64);
}

TEST(QuantizationConfig, RefusesOtherMethodsByName) {
  for (const char* method :
       {"gptq", "awq", "compressed-tensors", "bitsandbytes", "mxfp4", "modelopt"}) {
    const auto q = parse(std::string(R"({"quant_method":")") + method + R"(","bits":4})");
    ASSERT_FALSE(q.is_ok()) << method;
    EXPECT_EQ(q.status().code(), Code::kUnimplemented);
    EXPECT_NE(q.status().message().find(method), std::string::npos) << q.status().message();
  }
}

TEST(QuantizationConfig, RefusesWhatItCannotReadExactly) {
  const std::pair<const char*, const char*> cases[] = {
      {R"({"quant_method":"fp8"})", "weight_block_size"},
      {R"({"quant_method":"fp8","weight_block_size":null})", "weight_block_size"},
      {R"({"quant_method":"fp8","weight_block_size":[128]})", "two integers"},
      {R"({"quant_method":"fp8","weight_block_size":[0,128]})", "rows"},
      {R"({"quant_method":"fp8","weight_block_size":[128,1.5]})", "columns"},
      {R"({"quant_method":"fp8","weight_block_size":[128,128],"fmt":"e5m2"})", "e5m2"},
      {R"({"quant_method":"fp8","weight_block_size":[128,128],"scale_fmt":"int"})", "scale_fmt"},
      {R"({"quant_method":"fp8","weight_block_size":[128,128],"activation_scheme":"static"})",
       "static"},
      {R"({"bits":8})", "no quant_method"},
      {R"({"quant_method":8})", "a string"},
      {"[]", "must be an object"},
  };
  for (const auto& [text, expected] : cases) {
    const auto q = parse(text);
    ASSERT_FALSE(q.is_ok()) << text;
    EXPECT_NE(q.status().message().find(expected), std::string::npos) << q.status().message();
  }
  EXPECT_FALSE(parse_quantization_config("nonsense", "config.json").is_ok());
  EXPECT_FALSE(parse_quantization_config(R"({"a":1,"a":2})", "config.json").is_ok());
}

}  // namespace
}  // namespace fathom
