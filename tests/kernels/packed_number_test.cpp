// Packed weights' numbers: nothing of a bf16 number is lost, whatever it is.
#include "kernels/packed_number.h"

#include <gtest/gtest.h>

#include <array>
#include <cmath>

#include "base/float_formats.h"
#include "kernels/packed_plan.h"

namespace fathom::kernels {
namespace {

constexpr int32_t kBases[] = {kPackedBaseMin, 20, 100, kPackedExponent, 121, kPackedBaseMax};

// As the product sees a number of this code.
uint16_t decoded(uint16_t bits, int32_t base) {
  return with_exponent(bits, kPackedExponent + exponent_of(bits) - base, mantissa_of(bits));
}

TEST(PackedNumber, ACodeAndEightBitsHoldTheNumberTimesAPowerOfTwo) {
  for (const int32_t base : kBases) {
    const float power = std::ldexp(1.0F, base - kPackedExponent);
    int32_t held = 0;
    for (uint32_t i = 0; i < 65536; ++i) {
      const auto bits = static_cast<uint16_t>(i);
      if (!has_packed_code(bits, base)) continue;
      ++held;
      const uint16_t seen = decoded(bits, base);
      ASSERT_EQ(bf16_to_float(seen) * power, bf16_to_float(bits)) << i << " of base " << base;
      ASSERT_EQ(scaled_for_packing(bits, base), seen);
      ASSERT_EQ(unscaled(seen, base), bits);
    }
    EXPECT_EQ(held, kPackedCodes * 256);
  }
}

// In float64: of the products no power of two is out of its reach.
TEST(PackedNumber, AnExceptionIsTheNumberTimesTheSamePowerOrIsSeenNotToBe) {
  for (const int32_t base : kBases) {
    for (uint32_t i = 0; i < 65536; ++i) {
      const auto bits = static_cast<uint16_t>(i);
      const uint16_t kept = scaled_for_packing(bits, base);
      const double number = bf16_to_float(bits);
      const double wanted = std::ldexp(number, kPackedExponent - base);
      if (std::isfinite(number)) {
        ASSERT_EQ(unscaled(kept, base) == bits, bf16_to_float(kept) == wanted)
            << i << " of base " << base;
      } else {
        ASSERT_EQ(kept, bits);
      }
    }
  }
}

TEST(PackedNumber, ZerosKeepTheirSign) {
  for (const int32_t base : kBases) {
    EXPECT_FALSE(has_packed_code(0, base));
    EXPECT_EQ(scaled_for_packing(0x0000, base), 0x0000);
    EXPECT_EQ(scaled_for_packing(0x8000, base), 0x8000);
    EXPECT_EQ(unscaled(0x8000, base), 0x8000);
  }
}

TEST(PackedNumber, TheBaseHoldsTheMostNumbers) {
  std::array<uint32_t, 256> counts{};
  EXPECT_EQ(packed_base(counts.data()), kPackedBaseMin);
  for (int32_t e = 100; e < 130; ++e) counts[e] = 1000 - 10 * std::abs(e - 118);
  const int32_t base = packed_base(counts.data());
  EXPECT_GE(base, 110);
  EXPECT_LE(base, 111);
  counts[128] = 1U << 31;  // more than an int holds, with another
  counts[129] = 1U << 31;
  EXPECT_EQ(packed_base(counts.data()), 114);
  counts.fill(0);
  counts[0] = 7;  // zeros and what is below the normal numbers have no code
  counts[255] = 9;
  counts[254] = 1;
  EXPECT_EQ(packed_base(counts.data()), kPackedBaseMax);
}

TEST(PackedPlan, RecordsTakeThreeQuartersAndRoomForExceptions) {
  EXPECT_EQ(kPackedRecordBytes, 6144 + 128);
  EXPECT_EQ(packed_bytes(4096, 4096), 64 * 64 * 6272);
  EXPECT_EQ(packed_bytes(328, 1024), 6 * 16 * 6272) << "the last rows are a record, too";
  EXPECT_EQ(packed_bytes(264, 1024), 6 * 16 * 6272) << "units lie in pairs";
  EXPECT_TRUE(packable(328, 1024, false));
  EXPECT_FALSE(packable(328, 1000, false));
  EXPECT_FALSE(packable(37, 1024, false));
  EXPECT_TRUE(packable(336, 64, true));
  EXPECT_FALSE(packable(328, 64, true)) << "halves that are no vectors";
}

}  // namespace
}  // namespace fathom::kernels
