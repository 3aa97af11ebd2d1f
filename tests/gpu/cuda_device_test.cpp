// Which errors end a process, and what a host that cannot serve is told. Needs no GPU.
#include <gtest/gtest.h>

#include "ops/cuda/device.h"

namespace fathom {
namespace {

TEST(CudaErrors, TheContextIsLostOrNot) {
  for (const cudaError_t error :
       {cudaErrorIllegalAddress, cudaErrorLaunchFailure, cudaErrorLaunchTimeout, cudaErrorAssert,
        cudaErrorHardwareStackError, cudaErrorIllegalInstruction, cudaErrorMisalignedAddress,
        cudaErrorInvalidAddressSpace, cudaErrorInvalidPc, cudaErrorECCUncorrectable,
        cudaErrorNvlinkUncorrectable, cudaErrorContained, cudaErrorMpsClientTerminated}) {
    const Status status = cuda_status(error, "a step");
    EXPECT_TRUE(is_sticky(error)) << cudaGetErrorName(error);
    EXPECT_TRUE(is_lost(status)) << status.to_string();
    EXPECT_EQ(status.code(), Code::kUnavailable) << "a restart helps";
    EXPECT_NE(status.message().find("a step"), std::string::npos);
  }
  for (const cudaError_t error :
       {cudaErrorInvalidValue, cudaErrorInvalidConfiguration, cudaErrorLaunchOutOfResources,
        cudaErrorNotReady, cudaErrorStreamCaptureUnsupported, cudaErrorUnknown}) {
    EXPECT_FALSE(is_sticky(error)) << cudaGetErrorName(error);
    EXPECT_EQ(cuda_status(error, "a step").code(), Code::kInternal);
  }
  EXPECT_EQ(cuda_status(cudaErrorMemoryAllocation, "cache").code(), Code::kResourceExhausted);
  EXPECT_FALSE(is_lost(cuda_status(cudaErrorMemoryAllocation, "cache")));
  EXPECT_TRUE(cuda_status(cudaSuccess, "a step").is_ok());
}

DeviceFacts h100() {
  return {.driver_cuda = 13000, .devices = 1, .name = "NVIDIA H100", .capability = {9, 0},
          .architectures = "90a"};
}

TEST(CudaDevice, RefusalsSayWhatIsThereAndWhatIsNeeded) {
  EXPECT_TRUE(check_device(h100()).is_ok());
  const auto refused = [](auto change) {
    DeviceFacts facts = h100();
    change(facts);
    const Status status = check_device(facts);
    EXPECT_EQ(status.code(), Code::kUnavailable);
    EXPECT_EQ(status.subject(), "device");
    return status.message();
  };
  EXPECT_NE(refused([](DeviceFacts& f) { f.driver_cuda = 0; }).find("driver"), std::string::npos);
  const std::string old = refused([](DeviceFacts& f) { f.driver_cuda = 12040; });
  EXPECT_NE(old.find("12.4"), std::string::npos) << old;
  EXPECT_NE(old.find("13.0"), std::string::npos) << old;
  EXPECT_NE(refused([](DeviceFacts& f) { f.devices = 0; }).find("no GPU"), std::string::npos);
  const std::string ada = refused([](DeviceFacts& f) {
    f.name = "NVIDIA L40S";
    f.capability = {8, 9};
  });
  EXPECT_NE(ada.find("L40S"), std::string::npos) << ada;
  EXPECT_NE(ada.find("8.9"), std::string::npos) << ada;
  EXPECT_NE(ada.find("9.0 (H100, H200)"), std::string::npos) << ada;
  const std::string hopper = refused([](DeviceFacts& f) { f.architectures = "80,86,89"; });
  EXPECT_NE(hopper.find("8.0 (A100), 8.6 (A10, A40) and 8.9 (L4, L40S)"), std::string::npos)
      << hopper;
}

}  // namespace
}  // namespace fathom
