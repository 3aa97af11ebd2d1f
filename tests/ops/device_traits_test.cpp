// Which GPUs a build's kernels run on.
#include "ops/cuda/device_traits.h"

#include <gtest/gtest.h>

namespace fathom {
namespace {

TEST(DeviceTraits, ABinaryRunsOnItsMajorVersionFromItsMinorOn) {
  EXPECT_TRUE(holds_kernels_for("80,86,89", {8, 0}));
  EXPECT_TRUE(holds_kernels_for("80", {8, 9}));
  EXPECT_FALSE(holds_kernels_for("86,89", {8, 0}));
  EXPECT_FALSE(holds_kernels_for("80,86,89", {9, 0}));
  EXPECT_FALSE(holds_kernels_for("80,86,89", {7, 5}));
}

TEST(DeviceTraits, HoppersOwnRunsOnHopperAlone) {
  EXPECT_TRUE(holds_kernels_for("90a", {9, 0}));
  EXPECT_FALSE(holds_kernels_for("90a", {10, 0}));
  EXPECT_FALSE(holds_kernels_for("90a", {8, 9}));
  EXPECT_TRUE(holds_kernels_for("80,90a", {8, 6}));
}

TEST(DeviceTraits, WhatTheDriverCompilesRunsOnAllThatCameSince) {
  EXPECT_TRUE(holds_kernels_for("80-virtual", {9, 0}));
  EXPECT_FALSE(holds_kernels_for("80-virtual", {7, 5}));
}

TEST(DeviceTraits, AListIsSaidForPeople) {
  EXPECT_EQ(capabilities_of("90a"), "9.0 (H100, H200)");
  EXPECT_EQ(capabilities_of("80,86,89"), "8.0 (A100), 8.6 (A10, A40) and 8.9 (L4, L40S)");
  EXPECT_EQ(capabilities_of("80-virtual"), "8.0 (A100) and later");
  EXPECT_EQ(capabilities_of("87"), "8.7");
}

TEST(DeviceTraits, HopperIsWhereItsKernelsRun) {
  EXPECT_TRUE(traits_of({9, 0}).hopper);
  EXPECT_FALSE(traits_of({8, 0}).hopper);
  EXPECT_FALSE(traits_of({10, 0}).hopper) << "wgmma is gone there";
}

}  // namespace
}  // namespace fathom
