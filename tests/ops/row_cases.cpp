// Rows moved about and added: embed, reduce_add, gather_rows, concat.
#include "ops/op_builders.h"
#include "ops/op_inputs.h"
#include "ops/op_loops.h"

namespace fathom::testing {
namespace {

// Ids below and above the shard's rows give zeroes.
OpCase embed_case(Numerics n, int64_t columns) {
  const HostMatrix table = rounded_to_bf16(random_matrix(10, columns, 20));
  const std::vector<int32_t> ids = {100, 109, 99, 110, 104, 0, 107};
  const auto prepare = [=](Ops& ops) {
    const HostTensor host = host_tensor(table.values, DType::kF32, {10, columns});
    const Tensor placed = ops.place(host, DType::kBF16).value();
    const Tensor at = place_ints(ops, ids);
    return PreparedOp{[=, &ops]() -> std::vector<OpOutput> {
      return {{"residual", {ops.embed(at, placed, 100, nullptr), {}, {}}, true}};
    }};
  };
  const auto expected = [=](const GoldenVectors&) -> ExpectedValues {
    std::vector<double> y;
    for (const int32_t id : ids) {
      const bool here = id >= 100 && id < 110;
      for (int64_t k = 0; k < columns; ++k) y.push_back(here ? table.at(id - 100, k) : 0.0);
    }
    return {y};
  };
  return {"embed", "of a shard, " + std::to_string(columns) + " columns",
          n,       Precision::kExact,
          prepare, expected};
}

OpCase reduce_add_case(Numerics n, bool defined) {
  const HostMatrix residual = as_stored(random_matrix(5, 200, 21), n);
  const HostMatrix partial = as_stored(random_matrix(5, 200, 22), n);
  const auto prepare = [=](Ops& ops) {
    const Tensor r = place(ops, residual);
    const Partial p = defined ? Partial{place(ops, partial)} : Partial{};
    return PreparedOp{[=, &ops]() -> std::vector<OpOutput> {
      ops.reduce_add(p, r, nullptr);
      return {{"residual", {r, {}, {}}, true}};
    }};
  };
  const auto expected = [=](const GoldenVectors&) -> ExpectedValues {
    HostMatrix sum = residual;
    for (size_t i = 0; defined && i < sum.values.size(); ++i) sum.values[i] += partial.values[i];
    sum = as_stored(sum, n);
    return {{sum.values.begin(), sum.values.end()}};
  };
  return {"reduce_add", defined ? "5x200" : "of nothing", n, Precision::kExact, prepare, expected};
}

// Rows of a slice of `columns` columns, some twice.
OpCase gather_case(Numerics n, int64_t first, int64_t columns) {
  const HostMatrix x = as_stored(random_matrix(9, first + columns + 16, 23), n);
  const std::vector<int32_t> index = {8, 0, 3, 3, 7};
  const auto prepare = [=](Ops& ops) {
    const Tensor slice = place(ops, x).columns(first, columns);
    const Tensor at = place_ints(ops, index);
    return PreparedOp{[=, &ops]() -> std::vector<OpOutput> {
      return {{"rows", {ops.gather_rows(slice, at), {}, {}}, true}};
    }};
  };
  const auto expected = [=](const GoldenVectors&) -> ExpectedValues {
    std::vector<double> y;
    for (const int32_t r : index) {
      for (int64_t k = first; k < first + columns; ++k) y.push_back(x.at(r, k));
    }
    return {y};
  };
  return {"gather_rows",
          "5 of 9, " + std::to_string(columns) + " columns of a slice",
          n,
          Precision::kExact,
          prepare,
          expected};
}

// No arithmetic before the quantization: the bytes must be the same everywhere.
OpCase concat_case(Numerics n, int64_t left_columns, int64_t right_columns, const ActSpec& spec) {
  const HostMatrix left = as_stored(random_matrix(4, left_columns, 24, 3.0F), n);
  const HostMatrix right = as_stored(random_matrix(4, right_columns, 25, 0.1F), n);
  const bool codes = spec.format == ActFormat::kFp8Block;
  const auto prepare = [=](Ops& ops) {
    const Act l = plain_act(ops, left);
    const Act r = plain_act(ops, right);
    return PreparedOp{[=, &ops]() -> std::vector<OpOutput> {
      return {{"both", ops.concat(l, r, codes ? spec : l.spec), true}};
    }};
  };
  const auto expected = [=](const GoldenVectors&) -> ExpectedValues {
    HostMatrix both{4, left_columns + right_columns, {}};
    for (int64_t i = 0; i < 4; ++i) {
      for (int64_t k = 0; k < left_columns; ++k)
        both.values.push_back(left.values[i * left_columns + k]);
      for (int64_t k = 0; k < right_columns; ++k)
        both.values.push_back(right.values[i * right_columns + k]);
    }
    if (codes) both = quantized_rows(both, spec.first_column_in_block, spec.ue8m0).matrix;
    return {{both.values.begin(), both.values.end()}};
  };
  std::string shape = "4x" + std::to_string(left_columns) + "+" + std::to_string(right_columns);
  if (codes) shape += spec.ue8m0 ? " to fp8 ue8m0" : " to fp8";
  if (spec.first_column_in_block != 0) shape += " from column 96";
  return {"concat", shape, n, codes ? Precision::kFloat32 : Precision::kExact, prepare, expected};
}

}  // namespace

std::vector<OpCase> row_cases() {
  std::vector<OpCase> cases;
  for (const Numerics n : {Numerics::kReference, Numerics::kNative}) {
    cases.push_back(embed_case(n, 40));
    cases.push_back(embed_case(n, 2048));
    cases.push_back(reduce_add_case(n, true));
    cases.push_back(reduce_add_case(n, false));
    cases.push_back(gather_case(n, 20, 70));
    cases.push_back(gather_case(n, 24, 1064));
    cases.push_back(concat_case(n, 24, 41, {}));
  }
  for (const bool ue8m0 : {false, true}) {
    const ActSpec whole{ActFormat::kFp8Block, ue8m0, 0};
    cases.push_back(concat_case(Numerics::kNative, 256, 256, whole));
    cases.push_back(concat_case(Numerics::kNative, 150, 57, {ActFormat::kFp8Block, ue8m0, 96}));
  }
  return cases;
}

}  // namespace fathom::testing
