// Choices that settings offer and engines obey.
#pragma once

#include <cstdint>

namespace fathom {

enum class Device : uint8_t { kAuto, kCpu, kCuda };
// kAuto: safetensors.
enum class LoadFormat : uint8_t { kAuto, kSafetensors, kSynthetic };

}  // namespace fathom
