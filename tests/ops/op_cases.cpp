#include "ops/op_cases.h"

#include <algorithm>

#include "ops/op_inputs.h"

namespace fathom::testing {
namespace {

constexpr double kFloat32 = 2e-6;    // sums of a few hundred float32 products
constexpr double kBfloat16 = 0.006;  // one rounding of the output: half of 2^-7, and a little

// Decodes what quantizing `row` per 1x128 group gives back, and the definition of models.md 2.14.
void quantize_by_definition(std::vector<double>& row, int32_t first_column, bool ue8m0) {
  const auto n = static_cast<int64_t>(row.size());
  for (int64_t begin = 0, group = 0; begin < n; ++group) {
    const int64_t end = std::min(n, (group + 1) * 128 - first_column);
    float largest = 1e-4F;
    for (int64_t i = begin; i < end; ++i) {
      largest = std::max(largest, std::fabs(static_cast<float>(row[i])));
    }
    float scale = largest / 448.0F;
    if (ue8m0) scale = static_cast<float>(std::exp2(std::ceil(std::log2(double{scale}))));
    for (int64_t i = begin; i < end; ++i) {
      row[i] = double{e4m3_to_float(float_to_e4m3(static_cast<float>(row[i]) / scale))} * scale;
    }
    begin = end;
  }
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

OpCase linear_bf16(int64_t rows, int64_t out, int64_t in) {
  const HostMatrix x = random_matrix(rows, in, 1);
  const HostMatrix w = rounded_to_bf16(random_matrix(out, in, 2));
  const auto run = [=](Ops& ops, const TensorReader& read) {
    std::vector<uint16_t> bits(w.values.size());
    std::transform(w.values.begin(), w.values.end(), bits.begin(), float_to_bf16);
    HostWeight stored;
    stored.values = host_tensor(bits, DType::kBF16, {out, in});
    const Weight weight = ops.prepare_linear({stored}).value();
    return read(ops.linear(plain_act(ops, x), weight));
  };
  return {
      "linear bf16 " + std::to_string(rows) + "x" + std::to_string(out) + "x" + std::to_string(in),
      Numerics::kReference, kFloat32, run, [=] { return product(x, w); }};
}

// Two parts joined, with an input slice that starts inside a scale block.
OpCase linear_fp8(int64_t rows, int64_t in, int32_t first_column) {
  const HostMatrix x = random_matrix(rows, in, 3);
  const Fp8Weight a = random_fp8(136, in, first_column, 4);
  const Fp8Weight b = random_fp8(65, in, first_column, 6);
  const auto run = [=](Ops& ops, const TensorReader& read) {
    const Weight weight = ops.prepare_linear({a.stored, b.stored}).value();
    return read(ops.linear(plain_act(ops, x), weight));
  };
  const auto expected = [=] {
    HostMatrix w = a.matrix;
    w.rows += b.matrix.rows;
    w.values.insert(w.values.end(), b.matrix.values.begin(), b.matrix.values.end());
    return product(x, w);
  };
  return {"linear fp8 " + std::to_string(rows) + " rows, columns " + std::to_string(first_column) +
              "+" + std::to_string(in),
          Numerics::kReference, kFloat32, run, expected};
}

OpCase norm_case(Numerics numerics) {
  HostMatrix x = random_matrix(5, 320, 8, 3.0F);
  if (numerics == Numerics::kNative) x = rounded_to_bf16(x);
  const std::vector<float> weight = random_matrix(1, 320, 9).values;
  const auto run = [=](Ops& ops, const TensorReader& read) {
    const ActSpec spec = plain_act(ops, x).spec;
    return read(ops.norm(place(ops, x), place_floats(ops, weight), 1e-6F, spec).data);
  };
  const bool reference = numerics == Numerics::kReference;
  return {std::string("norm 5x320 ") + (reference ? "reference" : "native"), numerics,
          reference ? kFloat32 : kBfloat16, run, [=] { return norm_by_definition(x, weight); }};
}

// Norm, then 1x128 quantization from a column inside a group: codes times scales.
OpCase norm_quantized(bool ue8m0) {
  HostMatrix x = rounded_to_bf16(random_matrix(4, 200, 10));
  std::fill_n(x.values.begin(), 200, 0.0F);  // a row of zeroes has the smallest scale
  const std::vector<float> weight = random_matrix(1, 200, 11).values;
  const ActSpec spec{ActFormat::kFp8Block, ue8m0, 96};
  const auto run = [=](Ops& ops, const TensorReader& read) {
    const Act act = ops.norm(place(ops, x), place_floats(ops, weight), 1e-6F, spec);
    std::vector<float> values = read(act.data);
    const std::vector<float> scales = read(act.scales);
    for (int64_t i = 0; i < 800; ++i) {
      values[i] *= scales[i / 200 * act.scales.shape[1] + (96 + i % 200) / 128];
    }
    return values;
  };
  const auto expected = [=] {
    const std::vector<double> y = norm_by_definition(x, weight);
    std::vector<double> all;
    for (int64_t r = 0; r < 4; ++r) {
      std::vector<double> row(y.begin() + r * 200, y.begin() + (r + 1) * 200);
      for (double& v : row) v = round_to_bf16(static_cast<float>(v));
      quantize_by_definition(row, 96, ue8m0);
      all.insert(all.end(), row.begin(), row.end());
    }
    return all;
  };
  return {ue8m0 ? "norm and quantize ue8m0" : "norm and quantize", Numerics::kNative, 0.01, run,
          expected};
}

OpCase gated_case() {
  const HostMatrix x = random_matrix(7, 96, 12);
  const Fp8Weight gate = random_fp8(48, 96, 0, 13);
  const Fp8Weight up = random_fp8(48, 96, 0, 15);
  const auto run = [=](Ops& ops, const TensorReader& read) {
    const Weight weight = ops.prepare_linear({gate.stored, up.stored}).value();
    const Act act = plain_act(ops, x);
    return read(ops.gated_linear(act, weight, act.spec).data);
  };
  const auto expected = [=] {
    std::vector<double> g = product(x, gate.matrix);
    const std::vector<double> u = product(x, up.matrix);
    for (size_t i = 0; i < g.size(); ++i) g[i] = g[i] / (1.0 + std::exp(-g[i])) * u[i];
    return g;
  };
  return {"gated_linear 7x48x96", Numerics::kReference, kFloat32, run, expected};
}

OpCase reduce_add_norm_case() {
  const HostMatrix residual = random_matrix(3, 64, 17);
  const HostMatrix partial = random_matrix(3, 64, 18);
  const std::vector<float> weight = random_matrix(1, 64, 19).values;
  const auto run = [=](Ops& ops, const TensorReader& read) {
    const Tensor r = place(ops, residual);
    const Partial p{place(ops, partial)};
    const ActSpec spec = plain_act(ops, residual).spec;
    const Act act = ops.reduce_add_norm(p, r, place_floats(ops, weight), 1e-6F, spec, nullptr);
    std::vector<float> both = read(act.data);
    const std::vector<float> stream = read(r);
    both.insert(both.end(), stream.begin(), stream.end());
    return both;
  };
  const auto expected = [=] {
    HostMatrix sum = residual;
    for (size_t i = 0; i < sum.values.size(); ++i) sum.values[i] += partial.values[i];
    std::vector<double> both = norm_by_definition(sum, weight);
    both.insert(both.end(), sum.values.begin(), sum.values.end());
    return both;
  };
  return {"reduce_add_norm 3x64", Numerics::kReference, kFloat32, run, expected};
}

OpCase embed_case() {
  const HostMatrix table = random_matrix(10, 40, 20);
  const auto run = [=](Ops& ops, const TensorReader& read) {
    const Tensor ids = place_ints(ops, {100, 109, 99, 110, 104});
    return read(ops.embed(ids, place(ops, table), 100, nullptr));
  };
  const auto expected = [=] {
    std::vector<double> y(5 * 40, 0.0);
    const int64_t rows[] = {0, 9, -1, -1, 4};  // ids of other ranks give zeroes
    for (int64_t t = 0; t < 5; ++t) {
      for (int64_t k = 0; rows[t] >= 0 && k < 40; ++k) y[t * 40 + k] = table.at(rows[t], k);
    }
    return y;
  };
  return {"embed 5 of a shard", Numerics::kReference, 0.0, run, expected};
}

OpCase concat_case() {
  const HostMatrix left = random_matrix(4, 24, 21);
  const HostMatrix right = random_matrix(4, 40, 22);
  const auto run = [=](Ops& ops, const TensorReader& read) {
    const Act act = plain_act(ops, left);
    const Act both = ops.concat(act, plain_act(ops, right), act.spec);
    return read(ops.gather_rows(both.data, place_ints(ops, {3, 0, 3})));
  };
  const auto expected = [=] {
    std::vector<double> y;
    for (const int64_t r : {3, 0, 3}) {
      for (int64_t k = 0; k < 24; ++k) y.push_back(left.at(r, k));
      for (int64_t k = 0; k < 40; ++k) y.push_back(right.at(r, k));
    }
    return y;
  };
  return {"concat and gather_rows", Numerics::kReference, 0.0, run, expected};
}

}  // namespace

std::vector<float> read_host_tensor(const Tensor& t) {
  std::vector<float> values;
  const int64_t columns = t.shape[t.rank - 1];
  for (int64_t i = 0; i < t.elements(); ++i) {
    const int64_t at = t.rank == 1 ? i : i / columns * t.stride[0] + i % columns;
    switch (t.dtype) {
      case DType::kBF16: values.push_back(bf16_to_float(t.as<uint16_t>()[at])); break;
      case DType::kF8E4M3: values.push_back(e4m3_to_float(t.as<uint8_t>()[at])); break;
      default: values.push_back(t.as<float>()[at]);
    }
  }
  return values;
}

std::vector<OpCase> op_cases() {
  std::vector<OpCase> cases;
  for (const int64_t rows : {1, 2, 3, 4, 5, 11}) cases.push_back(linear_bf16(rows, 37, 261));
  cases.push_back(linear_bf16(4, 9, 5));
  for (const int32_t first : {0, 32, 120}) cases.push_back(linear_fp8(6, 200, first));
  cases.push_back(linear_fp8(1, 160, 96));
  cases.push_back(norm_case(Numerics::kReference));
  cases.push_back(norm_case(Numerics::kNative));
  cases.push_back(norm_quantized(false));
  cases.push_back(norm_quantized(true));
  cases.push_back(gated_case());
  cases.push_back(reduce_add_norm_case());
  cases.push_back(embed_case());
  cases.push_back(concat_case());
  return cases;
}

}  // namespace fathom::testing
