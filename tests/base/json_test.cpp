#include "base/json.h"

#include <gtest/gtest.h>

#include <string>

namespace fathom {
namespace {

std::string error_of(std::string_view text, JsonLimits limits = {}) {
  auto parsed = parse_json(text, limits);
  return parsed.is_ok() ? "" : parsed.status().message();
}

// Errors are shown to clients: they say what is wrong and repeat none of the bytes.
TEST(Json, ErrorsRepeatNoInput) {
  EXPECT_EQ(error_of("{\"a\":\"\xff\"}"),
            "not JSON at byte 7: invalid string: ill-formed UTF-8 byte");
  EXPECT_EQ(error_of("[tru]"), "not JSON at byte 5: invalid literal");
}

TEST(Json, KeepsOrderAndValues) {
  auto parsed = parse_json(R"({"b":[1,2.5,null,true,"x\u00e9"],"a":{"c":-3}})");
  ASSERT_TRUE(parsed.is_ok());
  EXPECT_EQ(parsed->dump(), R"({"b":[1,2.5,null,true,"xé"],"a":{"c":-3}})");
}

TEST(Json, RefusesDuplicateKeysInOneObjectOnly) {
  EXPECT_NE(error_of(R"({"a":1,"b":{"a":2},"a":3})").find("\"a\" stands twice"), std::string::npos);
  EXPECT_EQ(error_of(R"({"a":{"x":1},"b":{"x":1}})"), "");
}

TEST(Json, BoundsDepthAtTheLimit) {
  auto nested = [](int n) { return std::string(n, '[') + std::string(n, ']'); };
  EXPECT_EQ(error_of(nested(32)), "");
  EXPECT_NE(error_of(nested(33)).find("deeper than 32"), std::string::npos);
  EXPECT_NE(error_of(std::string(1'000'000, '[')).find("deeper"), std::string::npos);
}

TEST(Json, RefusesWhatIsNotOneDocument) {
  for (const char* text :
       {"", "{", "{}x", "[1,]", "{\"a\" 1}", "nul", "\"\xff\"", "'a'", "01", "NaN"}) {
    EXPECT_NE(error_of(text), "") << text;
  }
  EXPECT_NE(error_of("[1,]").find("byte 4"), std::string::npos) << error_of("[1,]");
}

TEST(Json, RefusesNulBytes) {
  for (const std::string& text : {std::string("{}\0x", 4), std::string("\0{}", 3)}) {
    EXPECT_NE(error_of(text).find("NUL"), std::string::npos);
  }
}

TEST(Json, BoundsBytes) {
  EXPECT_EQ(error_of("[1]", {.depth_max = 4, .bytes_max = 3}), "");
  EXPECT_NE(error_of("[12]", {.depth_max = 4, .bytes_max = 3}), "");
}

}  // namespace
}  // namespace fathom
