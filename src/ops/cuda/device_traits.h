// What a GPU can run of the kernels that a build holds: pure host code, tested without a GPU.
#pragma once

#include <cstdint>
#include <string>
#include <string_view>

namespace fathom {

// What choosers know of the device. Hopper's kernels stand on wgmma, the copy engine, clusters and
// FP8 units together: one figure says whether they are there.
struct DeviceTraits {
  bool hopper = true;
};

// Compute capability, 9.0 for an H100.
struct Capability {
  int major = 0;
  int minor = 0;
};

// Architectures are written as FATHOM_CUDA_ARCHITECTURES, with commas: "80,86,90a". A binary runs
// on its own major version from its minor on; one with a letter on that version alone; a
// "80-virtual" (of tests) on all that came since.
bool holds_kernels_for(std::string_view architectures, const Capability& device);
// "8.0 (A100) and 9.0 (H100, H200)".
std::string capabilities_of(std::string_view architectures);

DeviceTraits traits_of(const Capability& device);

}  // namespace fathom
