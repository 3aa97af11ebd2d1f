#include "base/float_formats.h"

#include <gtest/gtest.h>

#include <cmath>
#include <cstdint>
#include <limits>
#include <random>

namespace fathom {
namespace {

// The definition of e4m3fn, in double: sign, exponent biased by 7, three bits of mantissa.
double e4m3_by_definition(uint8_t code) {
  const int exponent = (code >> 3) & 15;
  const int mantissa = code & 7;
  const double magnitude =
      exponent == 0 ? std::ldexp(mantissa, -9) : std::ldexp(8 + mantissa, exponent - 10);
  return (code & 0x80) != 0 ? -magnitude : magnitude;
}

// Nearest finite code by search; of two equally near ones the even.
uint8_t nearest_e4m3(float x) {
  uint8_t best = 0;
  double best_distance = std::numeric_limits<double>::infinity();
  for (int code = 0; code < 0x7F; ++code) {
    const double distance = std::fabs(std::fabs(double{x}) - e4m3_by_definition(uint8_t(code)));
    if (distance < best_distance || (distance == best_distance && code % 2 == 0)) {
      best = static_cast<uint8_t>(code);
      best_distance = distance;
    }
  }
  return std::signbit(x) ? best | 0x80 : best;
}

TEST(E4m3, EveryCodeHasItsValueAndComesBack) {
  for (int code = 0; code < 256; ++code) {
    const float value = e4m3_to_float(static_cast<uint8_t>(code));
    if ((code & 0x7F) == 0x7F) {
      EXPECT_TRUE(std::isnan(value)) << code;
      continue;
    }
    EXPECT_EQ(value, e4m3_by_definition(static_cast<uint8_t>(code))) << code;
    EXPECT_EQ(float_to_e4m3(value), code);
  }
}

TEST(E4m3, RoundsToTheNearestAndTiesToEven) {
  std::mt19937 random(7);
  for (int i = 0; i < 200000; ++i) {
    const float mantissa = std::uniform_real_distribution<float>(-1.0F, 1.0F)(random);
    const float x = std::ldexp(mantissa, int(random() % 24) - 13);
    ASSERT_EQ(float_to_e4m3(x), nearest_e4m3(x)) << x;
  }
  for (int code = 0; code < 0x7E; ++code) {  // halfway points and their neighbours
    const double half =
        (e4m3_by_definition(uint8_t(code)) + e4m3_by_definition(uint8_t(code + 1))) / 2;
    const float x = static_cast<float>(half);
    ASSERT_EQ(float_to_e4m3(x), nearest_e4m3(x)) << x;
    ASSERT_EQ(float_to_e4m3(std::nextafter(x, 0.0F)), code);
    ASSERT_EQ(float_to_e4m3(std::nextafter(x, 1e9F)), code + 1);
  }
}

TEST(E4m3, SaturatesAndKeepsNaN) {
  EXPECT_EQ(float_to_e4m3(1e30F), 0x7E);
  EXPECT_EQ(float_to_e4m3(-std::numeric_limits<float>::infinity()), 0xFE);
  EXPECT_EQ(float_to_e4m3(464.0F), 0x7E);
  EXPECT_EQ(float_to_e4m3(std::nanf("")) & 0x7F, 0x7F);
}

TEST(Bf16, EveryCodeComesBackAndRoundingIsToNearestEven) {
  for (uint32_t code = 0; code < 65536; ++code) {
    const float value = bf16_to_float(static_cast<uint16_t>(code));
    if (std::isnan(value)) {
      EXPECT_TRUE(std::isnan(round_to_bf16(value)));
    } else {
      ASSERT_EQ(float_to_bf16(value), code);
    }
  }
  for (uint32_t code = 0x0080; code < 0x7F7F; ++code) {
    const double low = bf16_to_float(static_cast<uint16_t>(code));
    const double high = bf16_to_float(static_cast<uint16_t>(code + 1));
    const float half = static_cast<float>((low + high) / 2);
    ASSERT_EQ(float_to_bf16(half), code + code % 2);
    ASSERT_EQ(float_to_bf16(std::nextafter(half, 0.0F)), code);
    ASSERT_EQ(float_to_bf16(std::nextafter(half, std::numeric_limits<float>::infinity())),
              code + 1);
  }
}

TEST(F16, EveryCodeHasItsValue) {
  for (uint32_t code = 0; code < 65536; ++code) {
    const int exponent = (code >> 10) & 31;
    const int mantissa = code & 1023;
    const float value = f16_to_float(static_cast<uint16_t>(code));
    if (exponent == 31) {
      EXPECT_TRUE(mantissa != 0 ? std::isnan(value) : std::isinf(value));
      continue;
    }
    const double magnitude =
        exponent == 0 ? std::ldexp(mantissa, -24) : std::ldexp(1024 + mantissa, exponent - 25);
    ASSERT_EQ(value, (code & 0x8000) != 0 ? -magnitude : magnitude);
  }
}

TEST(PowerOfTwoScale, IsTheSmallestThatCovers) {
  EXPECT_EQ(power_of_two_at_least(1.0F), 1.0F);
  EXPECT_EQ(power_of_two_at_least(1.0000001F), 2.0F);
  EXPECT_EQ(power_of_two_at_least(0.3F), 0.5F);
  EXPECT_EQ(power_of_two_at_least(1e-4F / 448.0F), 0x1p-22F);
}

TEST(Bf16Scale, IsTheSmallestThatCovers) {
  EXPECT_EQ(bf16_at_least(1.0F), 1.0F);
  EXPECT_EQ(bf16_at_least(1.0000001F), 1.0F + 0x1p-7F);
  EXPECT_EQ(bf16_at_least(1.0F + 0x1p-7F), 1.0F + 0x1p-7F);
  EXPECT_EQ(bf16_at_least(2.0F - 0x1p-23F), 2.0F);
  for (float x = 1e-7F; x < 1e4F; x *= 1.37F) {
    const float up = bf16_at_least(x);
    EXPECT_EQ(up, round_to_bf16(up));
    EXPECT_GE(up, x);
    EXPECT_LT(bf16_to_float(float_to_bf16(up) - 1), x);
  }
}

}  // namespace
}  // namespace fathom
