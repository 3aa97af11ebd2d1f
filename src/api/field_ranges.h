// Ranges of request fields, inclusive: the one list that JSON, protobuf and the OpenAPI document
// read.
#pragma once

namespace fathom::api {

struct FieldRange {
  double low;
  double high;
};

inline constexpr FieldRange kTemperatureRange{0, 2};
inline constexpr FieldRange kProbabilityRange{0, 1};
inline constexpr FieldRange kPenaltyRange{-2, 2};
inline constexpr FieldRange kRepetitionRange{0.01, 10};
inline constexpr FieldRange kBiasRange{-100, 100};

}  // namespace fathom::api
