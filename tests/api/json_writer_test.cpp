#include "api/json_writer.h"

#include <gtest/gtest.h>

#include <cmath>

#include "base/json.h"

namespace fathom::api {
namespace {

std::string json_string(std::string_view text) {
  std::string out;
  append_json_string(out, text);
  return out;
}

TEST(JsonWriter, EscapesAndReadsBack) {
  std::string all;
  for (int c = 0; c < 128; ++c) all += static_cast<char>(c);
  all += "é毕😀\u2028\u2029\u0085";
  const std::string written = json_string(all);
  EXPECT_EQ(parse_json(written).value().get<std::string>(), all);
  EXPECT_EQ(written.find("\u2028"), std::string::npos);
  EXPECT_EQ(written.find("\u0085"), std::string::npos);
  EXPECT_NE(written.find("\\u2028"), std::string::npos);
  for (char c : written) EXPECT_GE(static_cast<unsigned char>(c), 0x20);
}

TEST(JsonWriter, FloatsReadBackExactly) {
  for (float value : {0.0F, -0.5F, 1e-20F, -12.345678F, 3e8F, -1e-7F}) {
    std::string out;
    append_json_float(out, value);
    EXPECT_EQ(parse_json(out).value().get<float>(), value) << out;
  }
  std::string out;
  append_json_float(out, -INFINITY);
  EXPECT_EQ(out, "-9999.0");
}

}  // namespace
}  // namespace fathom::api
