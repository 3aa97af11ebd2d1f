// Device choice, error texts, and views for kernels.
#include "ops/cuda/device.h"

namespace fathom {
namespace {

// The oldest driver that the runtime in this program can use, as CUDA writes versions: 13000.
constexpr int kDriverCudaMin = CUDART_VERSION / 1000 * 1000;

std::string cuda_version(int version) {
  return std::to_string(version / 1000) + "." + std::to_string(version % 1000 / 10);
}

}  // namespace

const char* built_architectures() { return FATHOM_CUDA_ARCHITECTURES; }

bool is_sticky(cudaError_t error) {
  switch (error) {
    case cudaErrorIllegalAddress:
    case cudaErrorLaunchFailure:
    case cudaErrorLaunchTimeout:
    case cudaErrorAssert:
    case cudaErrorHardwareStackError:
    case cudaErrorIllegalInstruction:
    case cudaErrorMisalignedAddress:
    case cudaErrorInvalidAddressSpace:
    case cudaErrorInvalidPc:
    case cudaErrorTensorMemoryLeak:
    case cudaErrorECCUncorrectable:
    case cudaErrorNvlinkUncorrectable:
    case cudaErrorContained:
    case cudaErrorExternalDevice:
    case cudaErrorContextIsDestroyed:
    case cudaErrorMpsClientTerminated:
    case cudaErrorDevicesUnavailable: return true;
    default: return false;
  }
}

bool is_lost(const Status& status) { return status.reason() == kCudaErrorReason; }

Status check_device(const DeviceFacts& facts) {
  if (facts.driver_cuda == 0)
    return unavailable("no NVIDIA driver is loaded on this host").about("device");
  if (facts.driver_cuda < kDriverCudaMin) {
    return unavailable("the NVIDIA driver is for CUDA " + cuda_version(facts.driver_cuda) +
                       "; this build needs one for CUDA " + cuda_version(kDriverCudaMin) +
                       " (release 580) or later")
        .about("device");
  }
  if (facts.devices == 0) return unavailable("no GPU is visible to this process").about("device");
  if (holds_kernels_for(facts.architectures, facts.capability)) return Status::ok();
  return unavailable(facts.name + " has compute capability " +
                     std::to_string(facts.capability.major) + "." +
                     std::to_string(facts.capability.minor) + "; this build's kernels are for " +
                     capabilities_of(facts.architectures))
      .about("device");
}

Status cuda_status(cudaError_t error, const char* what) {
  if (error == cudaSuccess) return Status::ok();
  const std::string text = std::string(what) + ": " + cudaGetErrorString(error);
  if (is_sticky(error))
    return unavailable("the GPU context is lost: " + text).because(kCudaErrorReason);
  if (error == cudaErrorMemoryAllocation) return resource_exhausted(text);
  return internal_error(text);
}

Result<std::string> open_device() {
  DeviceFacts facts;
  // Without a driver, or with one that is too old, the other calls fail with less to say.
  if (cudaDriverGetVersion(&facts.driver_cuda) != cudaSuccess) facts.driver_cuda = 0;
  const cudaError_t counted = cudaGetDeviceCount(&facts.devices);
  if (facts.driver_cuda >= kDriverCudaMin && counted != cudaErrorNoDevice) {
    FATHOM_RETURN_IF_ERROR(cuda_status(counted, "cudaGetDeviceCount"));
    FATHOM_RETURN_IF_ERROR(cuda_status(cudaSetDevice(0), "cudaSetDevice"));
    cudaDeviceProp properties{};
    FATHOM_RETURN_IF_ERROR(
        cuda_status(cudaGetDeviceProperties(&properties, 0), "cudaGetDeviceProperties"));
    facts.name = properties.name;
    facts.capability = {properties.major, properties.minor};
  }
  FATHOM_RETURN_IF_ERROR(check_device(facts));
  return facts.name;
}

Result<std::string> device_pci_id() {
  char id[32] = {};
  FATHOM_RETURN_IF_ERROR(cuda_status(cudaDeviceGetPCIBusId(id, sizeof id, 0), "PCI bus id"));
  return std::string(id);
}

Result<DeviceTraits> device_traits() {
  Capability c;
  FATHOM_RETURN_IF_ERROR(cuda_status(
      cudaDeviceGetAttribute(&c.major, cudaDevAttrComputeCapabilityMajor, 0), "device"));
  FATHOM_RETURN_IF_ERROR(cuda_status(
      cudaDeviceGetAttribute(&c.minor, cudaDevAttrComputeCapabilityMinor, 0), "device"));
  return traits_of(c);
}

Result<int32_t> device_multiprocessors() {
  int sms = 0;
  FATHOM_RETURN_IF_ERROR(
      cuda_status(cudaDeviceGetAttribute(&sms, cudaDevAttrMultiProcessorCount, 0), "device"));
  return sms;
}

Result<DeviceMemory> device_memory() {
  size_t free = 0;
  size_t total = 0;
  FATHOM_RETURN_IF_ERROR(cuda_status(cudaMemGetInfo(&free, &total), "cudaMemGetInfo"));
  return DeviceMemory{static_cast<int64_t>(total), static_cast<int64_t>(free)};
}

kernels::Format format_of(DType dtype) {
  switch (dtype) {
    case DType::kF32: return kernels::Format::kF32;
    case DType::kBF16: return kernels::Format::kBF16;
    case DType::kF8E4M3: return kernels::Format::kFp8;
    default: break;
  }
  FATHOM_CHECK(false, "kernels read f32, bf16 and e4m3");
}

kernels::Rows rows_of(const Tensor& tensor) {
  return {tensor.data, format_of(tensor.dtype), tensor.stride[0], nullptr, 0};
}

kernels::Rows rows_of(const Act& act) {
  kernels::Rows rows = rows_of(act.data);
  if (act.spec.format == ActFormat::kFp8Block) {
    rows.scales = act.scales.as<float>();
    rows.scale_stride = act.scales.stride[0];
  }
  return rows;
}

kernels::Epilogue epilogue_of(const Act& act) {
  kernels::Epilogue e;
  e.data = act.data.data;
  e.format = format_of(act.data.dtype);
  e.stride = act.data.stride[0];
  if (act.spec.format == ActFormat::kFp8Block) {
    e.scales = act.scales.as<float>();
    e.scale_stride = act.scales.stride[0];
  }
  e.ue8m0 = act.spec.ue8m0;
  e.first_column_in_block = act.spec.first_column_in_block;
  return e;
}

kernels::Matrix matrix_of(const Weight& weight) {
  kernels::Matrix m;
  m.data = weight.values.data;
  m.format = format_of(weight.values.dtype);
  m.out = weight.out();
  m.in = weight.in();
  m.stride = weight.values.stride[0];
  if (weight.format == WeightFormat::kFp8Block) {
    m.scales = weight.scales.as<float>();
    m.scale_rows = weight.scale_rows.as<int32_t>();
    m.scale_stride = weight.scales.stride[0];
    m.first_column_in_block = weight.first_column_in_block;
  }
  return m;
}

}  // namespace fathom
