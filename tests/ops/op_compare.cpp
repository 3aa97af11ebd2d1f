#include "ops/op_compare.h"

#include <algorithm>
#include <cmath>
#include <cstring>

#include "base/float_formats.h"

namespace fathom::testing {
namespace {

int64_t columns_of(const Tensor& t) { return t.rank == 0 ? 0 : t.shape[t.rank - 1]; }
int64_t rows_of(const Tensor& t) {
  return columns_of(t) == 0 ? 0 : t.rank == 1 ? 1 : t.elements() / columns_of(t);
}

float value_of(DType dtype, const uint8_t* bytes, int64_t i) {
  const auto get = [&]<typename T>(T x) {
    std::memcpy(&x, bytes + i * static_cast<int64_t>(sizeof x), sizeof x);
    return x;
  };
  switch (dtype) {
    case DType::kF32: return get(0.0F);
    case DType::kBF16: return bf16_to_float(get(uint16_t{0}));
    case DType::kF8E4M3: return e4m3_to_float(bytes[i]);
    case DType::kI32: return static_cast<float>(get(int32_t{0}));
    default: return bytes[i];
  }
}

std::vector<uint8_t> packed(const Tensor& t, const CopyToHost& copy) {
  std::vector<uint8_t> bytes(static_cast<size_t>(t.bytes()));
  if (!bytes.empty()) copy(t, bytes.data());
  return bytes;
}

// Drops rows of `row_bytes`; a tensor of rank 1 has rows of one element.
void drop_rows(std::vector<uint8_t>& bytes, int64_t row_bytes, std::vector<int64_t> rows) {
  std::sort(rows.rbegin(), rows.rend());
  for (const int64_t row : rows) {
    const auto at = bytes.begin() + row * row_bytes;
    bytes.erase(at, at + row_bytes);
  }
}

HostOutput host_output(const OpOutput& output, const CopyToHost& copy) {
  const Tensor& data = output.act.data;
  const Tensor& scales = output.act.scales;
  const int64_t columns = data.rank == 1 ? 1 : columns_of(data);
  const bool integers = data.dtype == DType::kI32 || data.dtype == DType::kU8;
  HostOutput host{output.name, {}, packed(data, copy), output.exact, integers};
  drop_rows(host.bytes, columns * dtype_bytes(data.dtype), output.rows_left_out);
  const auto count = static_cast<int64_t>(host.bytes.size()) / dtype_bytes(data.dtype);
  host.values.resize(static_cast<size_t>(count));
  for (int64_t i = 0; i < count; ++i) {
    host.values[i] = value_of(data.dtype, host.bytes.data(), i);
  }
  if (!scales.defined()) return host;
  std::vector<uint8_t> scale_bytes = packed(scales, copy);
  drop_rows(scale_bytes, scales.shape[1] * 4, output.rows_left_out);
  for (int64_t i = 0; i < count; ++i) {
    const int64_t group = (output.act.spec.first_column_in_block + i % columns) / 128;
    host.values[i] *=
        value_of(DType::kF32, scale_bytes.data(), i / columns * scales.shape[1] + group);
  }
  host.bytes.insert(host.bytes.end(), scale_bytes.begin(), scale_bytes.end());
  return host;
}

template <typename Values>
OutputError error_of(const HostOutput& made, const Values& expected, const Tolerance& bound) {
  OutputError error{made.name, 0.0, 0.0, ""};
  if (made.values.size() != expected.size()) {
    error.complaint = made.name + " has " + std::to_string(made.values.size()) + " values, not " +
                      std::to_string(expected.size());
    return error;
  }
  double peak = 0.0;
  double power = 0.0;
  double largest = 0.0;
  double squares = 0.0;
  size_t worst = 0;
  for (size_t i = 0; i < expected.size(); ++i) {
    const double x = expected[i];
    double d = std::abs(static_cast<double>(made.values[i]) - x);
    if (static_cast<double>(made.values[i]) == x) d = 0.0;  // infinities too
    if (std::isnan(d)) d = INFINITY;
    if (d > largest) worst = i;
    largest = std::max(largest, d);
    squares += d * d;
    if (!std::isfinite(x)) continue;
    peak = std::max(peak, std::abs(x));
    power += x * x;
  }
  const auto relative = [](double d, double of) {
    return d == 0.0 ? 0.0 : of > 0.0 ? d / of : INFINITY;
  };
  error.largest = relative(largest, peak);
  error.mean_square = std::sqrt(relative(squares, power));
  if (error.largest <= bound.largest && error.mean_square <= bound.mean_square) return error;
  error.complaint = made.name + ": error " + std::to_string(error.largest) + " of the largest (" +
                    std::to_string(bound.largest) + " allowed), mean square " +
                    std::to_string(error.mean_square) + " (" + std::to_string(bound.mean_square) +
                    "); element " + std::to_string(worst) + " is " +
                    std::to_string(made.values[worst]) + ", not " +
                    std::to_string(static_cast<double>(expected[worst]));
  return error;
}

}  // namespace

void copy_from_host(const Tensor& from, void* to) {
  const int64_t rows = rows_of(from);
  const int64_t row_bytes = columns_of(from) * dtype_bytes(from.dtype);
  const int64_t stride =
      from.rank < 2 ? row_bytes : from.stride[from.rank - 2] * dtype_bytes(from.dtype);
  for (int64_t r = 0; r < rows; ++r) {
    std::memcpy(static_cast<std::byte*>(to) + r * row_bytes, from.as<std::byte>() + r * stride,
                static_cast<size_t>(row_bytes));
  }
}

std::vector<HostOutput> run_case(const OpCase& one, Ops& ops, const CopyToHost& copy) {
  ArenaScope scope(ops.arena());
  const PreparedOp prepared = one.prepare(ops);
  const std::vector<OpOutput> outputs = prepared.launch();
  const Status done = ops.synchronize();
  FATHOM_CHECK(done.is_ok(), one.name() + ": " + done.to_string());
  std::vector<HostOutput> made;
  for (const OpOutput& output : outputs) made.push_back(host_output(output, copy));
  return made;
}

std::vector<OutputError> compare_expected(const OpCase& one, const std::vector<HostOutput>& made,
                                          const ExpectedValues& expected) {
  if (made.size() != expected.size()) {
    return {{"outputs", INFINITY, INFINITY, "another number of outputs is expected"}};
  }
  std::vector<OutputError> errors;
  for (size_t i = 0; i < made.size(); ++i) {
    const Tolerance bound = made[i].integers ? Tolerance{} : against_float64(one.precision);
    errors.push_back(error_of(made[i], expected[i], bound));
  }
  return errors;
}

std::vector<OutputError> compare_backends(const OpCase& one, const std::vector<HostOutput>& made,
                                          const std::vector<HostOutput>& oracle) {
  if (made.size() != oracle.size()) {
    return {{"outputs", INFINITY, INFINITY, "the backends give other numbers of outputs"}};
  }
  std::vector<OutputError> errors;
  for (size_t i = 0; i < made.size(); ++i) {
    const Tolerance bound = made[i].exact ? Tolerance{} : between_backends(one.precision);
    errors.push_back(error_of(made[i], oracle[i].values, bound));
    if (made[i].exact && made[i].bytes != oracle[i].bytes && errors.back().complaint.empty()) {
      errors.back().complaint = made[i].name + " must be the same bytes on every backend";
    }
  }
  return errors;
}

}  // namespace fathom::testing
