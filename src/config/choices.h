// The words that settings of a choice take, and the enums they stand for.
#pragma once

#include <array>
#include <cstdint>
#include <string_view>

#include "base/log.h"
#include "fathom/weight.h"

namespace fathom {

enum class DeviceChoice : uint8_t { kAuto, kCpu, kCuda };
enum class LoadFormatChoice : uint8_t { kAuto, kSafetensors, kSynthetic };
enum class DtypeChoice : uint8_t { kAuto, kBfloat16, kFloat32 };
enum class KvDtypeChoice : uint8_t { kAuto, kBfloat16, kFloat32, kFp8 };
enum class QuantizationChoice : uint8_t { kAuto, kNone, kFp8 };
enum class MetricsCompat : uint8_t { kNone, kVllm };

template <typename E>
struct Choice {
  E value;
  std::string_view word;
};

// kChoices<E>: every value of E and its word, in the order of the documentation.
template <typename E>
inline constexpr std::array<Choice<E>, 0> kChoices{};

template <>
inline constexpr std::array kChoices<DeviceChoice> = {
    Choice<DeviceChoice>{DeviceChoice::kAuto, "auto"},
    Choice<DeviceChoice>{DeviceChoice::kCpu, "cpu"},
    Choice<DeviceChoice>{DeviceChoice::kCuda, "cuda"},
};
template <>
inline constexpr std::array kChoices<Numerics> = {
    Choice<Numerics>{Numerics::kNative, "native"},
    Choice<Numerics>{Numerics::kReference, "reference"},
};
template <>
inline constexpr std::array kChoices<PackWeights> = {
    Choice<PackWeights>{PackWeights::kOff, "off"},
    Choice<PackWeights>{PackWeights::kOn, "on"},
    Choice<PackWeights>{PackWeights::kAuto, "auto"},
};
template <>
inline constexpr std::array kChoices<LoadFormatChoice> = {
    Choice<LoadFormatChoice>{LoadFormatChoice::kAuto, "auto"},
    Choice<LoadFormatChoice>{LoadFormatChoice::kSafetensors, "safetensors"},
    Choice<LoadFormatChoice>{LoadFormatChoice::kSynthetic, "synthetic"},
};
template <>
inline constexpr std::array kChoices<DtypeChoice> = {
    Choice<DtypeChoice>{DtypeChoice::kAuto, "auto"},
    Choice<DtypeChoice>{DtypeChoice::kBfloat16, "bfloat16"},
    Choice<DtypeChoice>{DtypeChoice::kFloat32, "float32"},
};
template <>
inline constexpr std::array kChoices<KvDtypeChoice> = {
    Choice<KvDtypeChoice>{KvDtypeChoice::kAuto, "auto"},
    Choice<KvDtypeChoice>{KvDtypeChoice::kBfloat16, "bfloat16"},
    Choice<KvDtypeChoice>{KvDtypeChoice::kFloat32, "float32"},
    Choice<KvDtypeChoice>{KvDtypeChoice::kFp8, "fp8"},
    Choice<KvDtypeChoice>{KvDtypeChoice::kFp8, "fp8_e4m3"},
};
template <>
inline constexpr std::array kChoices<QuantizationChoice> = {
    Choice<QuantizationChoice>{QuantizationChoice::kAuto, "auto"},
    Choice<QuantizationChoice>{QuantizationChoice::kNone, "none"},
    Choice<QuantizationChoice>{QuantizationChoice::kFp8, "fp8"},
};
template <>
inline constexpr std::array kChoices<MetricsCompat> = {
    Choice<MetricsCompat>{MetricsCompat::kNone, "none"},
    Choice<MetricsCompat>{MetricsCompat::kVllm, "vllm"},
};
template <>
inline constexpr std::array kChoices<LogFormat> = {
    Choice<LogFormat>{LogFormat::kText, "text"},
    Choice<LogFormat>{LogFormat::kJson, "json"},
};
template <>
inline constexpr std::array kChoices<LogLevel> = {
    Choice<LogLevel>{LogLevel::kTrace, "trace"}, Choice<LogLevel>{LogLevel::kDebug, "debug"},
    Choice<LogLevel>{LogLevel::kInfo, "info"},   Choice<LogLevel>{LogLevel::kWarn, "warn"},
    Choice<LogLevel>{LogLevel::kError, "error"}, Choice<LogLevel>{LogLevel::kOff, "off"},
};

}  // namespace fathom
