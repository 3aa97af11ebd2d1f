#include "ops/op_loops.h"

#include <algorithm>

namespace fathom::testing {

std::vector<double> product(const HostMatrix& x, const HostMatrix& w) {
  std::vector<double> y(x.rows * w.rows);
  for (int64_t i = 0; i < x.rows; ++i) {
    for (int64_t o = 0; o < w.rows; ++o) {
      double sum = 0.0;
      for (int64_t k = 0; k < x.columns; ++k) sum += x.at(i, k) * w.at(o, k);
      y[i * w.rows + o] = sum;
    }
  }
  return y;
}

std::vector<double> rounded(std::vector<double> values, Numerics numerics) {
  if (numerics == Numerics::kReference) return values;
  for (double& x : values) x = round_to_bf16(static_cast<float>(x));
  return values;
}

std::vector<double> norm_by_definition(const HostMatrix& x, const std::vector<float>& weight) {
  std::vector<double> y(x.values.size());
  for (int64_t i = 0; i < x.rows; ++i) {
    double squares = 0.0;
    for (int64_t k = 0; k < x.columns; ++k) squares += x.at(i, k) * x.at(i, k);
    const double scale = 1.0 / std::sqrt(squares / static_cast<double>(x.columns) + 1e-6);
    for (int64_t k = 0; k < x.columns; ++k) {
      y[i * x.columns + k] = x.at(i, k) * scale * weight[k];
    }
  }
  return y;
}

std::vector<double> gated(const std::vector<double>& both, int64_t width) {
  const auto rows = static_cast<int64_t>(both.size()) / (2 * width);
  std::vector<double> y(rows * width);
  for (int64_t i = 0; i < rows; ++i) {
    for (int64_t k = 0; k < width; ++k) {
      const double gate = both[i * 2 * width + k];
      y[i * width + k] = gate / (1.0 + std::exp(-gate)) * both[i * 2 * width + width + k];
    }
  }
  return y;
}

QuantizedRows quantized_rows(const HostMatrix& x, int32_t first_column, bool ue8m0) {
  QuantizedRows q;
  q.groups = (first_column + x.columns + 127) / 128;
  q.codes.resize(x.values.size());
  q.scales.resize(x.rows * q.groups);
  q.matrix = x;
  for (int64_t i = 0; i < x.rows; ++i) {
    const float* row = x.values.data() + i * x.columns;
    for (int64_t group = 0, begin = 0; begin < x.columns; ++group) {
      const int64_t end = std::min(x.columns, (group + 1) * 128 - first_column);
      float largest = 1e-4F;
      for (int64_t k = begin; k < end; ++k) largest = std::max(largest, std::fabs(row[k]));
      float scale = largest / 448.0F;
      if (ue8m0) scale = static_cast<float>(std::exp2(std::ceil(std::log2(double{scale}))));
      q.scales[i * q.groups + group] = scale;
      for (int64_t k = begin; k < end; ++k) {
        const uint8_t code = float_to_e4m3(row[k] / scale);
        q.codes[i * x.columns + k] = code;
        q.matrix.values[i * x.columns + k] = e4m3_to_float(code) * scale;
      }
      begin = end;
    }
  }
  return q;
}

Act place_quantized(Ops& ops, const QuantizedRows& rows, const ActSpec& spec) {
  const auto& m = rows.matrix;
  Act act;
  act.spec = spec;
  act.data = ops.place(host_tensor(rows.codes, DType::kF8E4M3, {m.rows, m.columns}), DType::kF8E4M3)
                 .value();
  act.scales =
      ops.place(host_tensor(rows.scales, DType::kF32, {m.rows, rows.groups}), DType::kF32).value();
  return act;
}

}  // namespace fathom::testing
