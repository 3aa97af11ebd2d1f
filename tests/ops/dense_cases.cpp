// Linear layers and norms.
#include <algorithm>

#include "ops/op_builders.h"
#include "ops/op_inputs.h"
#include "ops/op_loops.h"

namespace fathom::testing {
namespace {

std::string describe(const LinearShape& s) {
  std::string text = s.format == WeightFormat::kFp8Block ? "fp8 " : "bf16 ";
  text += std::to_string(s.rows) + "x" + std::to_string(s.out) + "x" + std::to_string(s.in);
  if (s.first_column != 0) text += " from column " + std::to_string(s.first_column);
  if (s.packed_odd_every > 0) text += " packed, odd every " + std::to_string(s.packed_odd_every);
  return s.ue8m0 ? text + " ue8m0" : text;
}

// Numbers over more powers of two than the packed form has codes for, and zeros: every record has
// some that are kept beside it.
StoredWeight wide_bf16(int64_t rows, int64_t columns, uint32_t seed, float spread, int32_t every) {
  StoredWeight w = random_bf16(rows, columns, seed, spread);
  const HashNumbers exponents(seed + 1);
  std::vector<uint16_t> bits(w.matrix.values.size());
  for (size_t i = 0; i < bits.size(); ++i) {
    const float sign = w.matrix.values[i] < 0.0F ? -1.0F : 1.0F;
    const float part = 0.5F + 0.5F * exponents[i];
    const float odd = i % static_cast<size_t>(every) == 3 ? 8.0F : std::exp2(-13.0F * part);
    bits[i] = float_to_bf16(i % 997 == 0 ? 0.0F : sign * spread * odd * (1.0F + 0.4F * part));
    w.matrix.values[i] = bf16_to_float(bits[i]);
  }
  w.stored.values = host_tensor(std::move(bits), DType::kBF16, {rows, columns});
  return w;
}

// The weight in the backend's memory, its packed copy with it.
Weight prepared(Ops& ops, const LinearShape& s, const StoredWeight& stored, bool gated) {
  const Weight weight = ops.prepare_linear({stored.stored}).value();
  if (s.packed_odd_every > 0) {
    FATHOM_CHECK(ops.pack_linear(weight, gated).is_ok(), "a weight was not packed");
  }
  return weight;
}

struct LinearInputs {
  HostMatrix x;
  StoredWeight weight;
};

Lazy<LinearInputs> linear_inputs(const LinearShape& s, int64_t out) {
  return Lazy<LinearInputs>([=] {
    const float spread = 2.0F / std::sqrt(static_cast<float>(s.in));
    LinearInputs inputs;
    inputs.x = as_stored(random_matrix(s.rows, s.in, 1), s.numerics);
    inputs.weight = s.format == WeightFormat::kFp8Block
                        ? random_fp8(out, s.in, s.first_column, 2, spread)
                    : s.packed_odd_every > 0 ? wide_bf16(out, s.in, 2, spread, s.packed_odd_every)
                                             : random_bf16(out, s.in, 2, spread);
    inputs.weight.stored.ue8m0_activations = s.ue8m0;
    return inputs;
  });
}

// The activation as the weight wants it, uploaded; and the values that its codes stand for.
HostMatrix quantized_input(const LinearShape& s, const HostMatrix& x) {
  const bool codes = s.numerics == Numerics::kNative && s.format == WeightFormat::kFp8Block;
  return codes ? quantized_rows(x, s.first_column, s.ue8m0).matrix : x;
}

Act place_input(Ops& ops, const HostMatrix& x, const ActSpec& spec) {
  if (spec.format != ActFormat::kFp8Block) return plain_act(ops, x);
  return place_quantized(ops, quantized_rows(x, spec.first_column_in_block, spec.ue8m0), spec);
}

Precision precision_of(const LinearShape& s) {
  if (s.numerics == Numerics::kReference) return Precision::kFloat32;
  return s.format == WeightFormat::kFp8Block ? Precision::kFp8ProductBF16 : Precision::kBF16;
}

// Two weights with different scales below each other, joined by prepare_linear.
OpCase joined_linear_case(const LinearShape& s, int64_t first_part) {
  const Numerics numerics = s.numerics;
  const auto part = [=](int64_t rows, uint32_t seed) {
    return Lazy<StoredWeight>([=] { return random_fp8(rows, s.in, s.first_column, seed); });
  };
  const auto a = part(first_part, 4);
  const auto b = part(s.out - first_part, 6);
  const HostMatrix x = as_stored(random_matrix(s.rows, s.in, 3), numerics);
  const auto prepare = [=](Ops& ops) {
    const Weight weight = ops.prepare_linear({a.get().stored, b.get().stored}).value();
    const Act act = place_input(ops, x, ops.act_spec(weight));
    const Tensor out = ops.reserve(ops.act_dtype(), {s.rows, s.out}).value();
    return PreparedOp{[=, &ops]() -> std::vector<OpOutput> {
      return {{"y", {ops.linear_partial(act, weight, out).data, {}, {}}}};
    }};
  };
  const auto expected = [=](const GoldenVectors&) -> ExpectedValues {
    HostMatrix w = a.get().matrix;
    w.rows += b.get().matrix.rows;
    w.values.insert(w.values.end(), b.get().matrix.values.begin(), b.get().matrix.values.end());
    return {rounded(product(quantized_input(s, x), w), numerics)};
  };
  return {"linear_partial", describe(s) + " of two parts", numerics, precision_of(s), prepare,
          expected};
}

ActSpec spec_of(const NormShape& s) {
  if (s.numerics == Numerics::kReference) return {};
  return {s.out, s.ue8m0, s.first_column};
}

std::string describe(const NormShape& s) {
  std::string text = std::to_string(s.rows) + "x" + std::to_string(s.columns);
  if (s.numerics == Numerics::kReference || s.out != ActFormat::kFp8Block) return text;
  text += " to fp8";
  if (s.first_column != 0) text += " from column " + std::to_string(s.first_column);
  return s.ue8m0 ? text + " ue8m0" : text;
}

// What an op's epilogue makes of float64 rows.
std::vector<double> stored_rows(const NormShape& s, std::vector<double> rows) {
  if (s.numerics == Numerics::kReference || s.out != ActFormat::kFp8Block) {
    return rounded(std::move(rows), s.numerics);
  }
  HostMatrix m{s.rows, s.columns, std::vector<float>(rows.begin(), rows.end())};
  const HostMatrix back = quantized_rows(rounded_to_bf16(m), s.first_column, s.ue8m0).matrix;
  return {back.values.begin(), back.values.end()};
}

Precision norm_precision(const NormShape& s) {
  if (s.numerics == Numerics::kReference) return Precision::kFloat32;
  return s.out == ActFormat::kFp8Block ? Precision::kFp8Output : Precision::kBF16;
}

// x is a slice of wider rows. `whole` numbers are multiples of 1/8 below 4: their squares sum
// without rounding, in any order, so that every backend must write the same bytes.
OpCase norm_case(const NormShape& s, bool whole) {
  constexpr int64_t kBefore = 64;
  const auto wide = Lazy<HostMatrix>([=] {
    HostMatrix m =
        as_stored(random_matrix(s.rows, s.columns + kBefore, 8, whole ? 4.0F : 3.0F), s.numerics);
    for (float& x : m.values) x = whole ? std::trunc(x * 8.0F) / 8.0F : x;
    if (s.rows > 2) {  // a row of zeroes has the smallest scale
      std::fill_n(m.values.begin() + 2 * m.columns, m.columns, 0.0F);
    }
    return m;
  });
  const std::vector<float> weight = random_matrix(1, s.columns, 9, 2.0F).values;
  const auto prepare = [=](Ops& ops) {
    const Tensor x = place(ops, wide.get()).columns(kBefore, s.columns);
    const Tensor w = place_floats(ops, weight);
    return PreparedOp{[=, &ops]() -> std::vector<OpOutput> {
      return {{"y", ops.norm(x, w, 1e-6F, spec_of(s)), whole}};
    }};
  };
  const auto expected = [=](const GoldenVectors&) -> ExpectedValues {
    const HostMatrix& all = wide.get();
    HostMatrix x{s.rows, s.columns, {}};
    for (int64_t i = 0; i < s.rows; ++i) {
      const auto from = all.values.begin() + i * all.columns + kBefore;
      x.values.insert(x.values.end(), from, from + s.columns);
    }
    return {stored_rows(s, norm_by_definition(x, weight))};
  };
  return {"norm",     describe(s) + (whole ? " of eighths" : ""),
          s.numerics, norm_precision(s),
          prepare,    expected};
}

}  // namespace

OpCase linear_case(const LinearShape& s) {
  const Lazy<LinearInputs> inputs = linear_inputs(s, s.out);
  const auto prepare = [=](Ops& ops) {
    const Weight weight = prepared(ops, s, inputs.get().weight, false);
    const Act act = place_input(ops, inputs.get().x, ops.act_spec(weight));
    return PreparedOp{[=, &ops]() -> std::vector<OpOutput> {
      return {{"y", {ops.linear(act, weight), {}, {}}}};
    }};
  };
  const auto expected = [=](const GoldenVectors&) -> ExpectedValues {
    return {rounded(product(quantized_input(s, inputs.get().x), inputs.get().weight.matrix),
                    s.numerics)};
  };
  return {"linear", describe(s), s.numerics, precision_of(s), prepare, expected};
}

OpCase gated_linear_case(const LinearShape& s, bool quantized) {
  const Lazy<LinearInputs> inputs = linear_inputs(s, 2 * s.out);
  const bool native = s.numerics == Numerics::kNative;
  const NormShape stored{
      s.rows, s.out, s.numerics, quantized ? ActFormat::kFp8Block : ActFormat::kBF16, s.ue8m0, 0};
  const auto prepare = [=](Ops& ops) {
    const Weight weight = prepared(ops, s, inputs.get().weight, true);
    const Act act = place_input(ops, inputs.get().x, ops.act_spec(weight));
    return PreparedOp{[=, &ops]() -> std::vector<OpOutput> {
      return {{"y", ops.gated_linear(act, weight, spec_of(stored))}};
    }};
  };
  const auto expected = [=](const GoldenVectors&) -> ExpectedValues {
    const std::vector<double> both = rounded(
        product(quantized_input(s, inputs.get().x), inputs.get().weight.matrix), s.numerics);
    return {stored_rows(stored, gated(both, s.out))};
  };
  const Precision precision = !native     ? Precision::kFloat32
                              : quantized ? Precision::kFp8Output
                                          : Precision::kBF16Chain;
  return {"gated_linear", describe(s) + (native && quantized ? " to fp8" : ""),
          s.numerics,     precision,
          prepare,        expected};
}

// float32 in both numerics: no rounding of the output.
OpCase logits_case(const LinearShape& s) {
  const Lazy<LinearInputs> inputs = linear_inputs(s, s.out);
  const auto prepare = [=](Ops& ops) {
    const Weight weight = prepared(ops, s, inputs.get().weight, false);
    const Act act = place_input(ops, inputs.get().x, ops.act_spec(weight));
    return PreparedOp{[=, &ops]() -> std::vector<OpOutput> {
      return {{"logits", {ops.logits(act, weight, nullptr), {}, {}}}};
    }};
  };
  const auto expected = [=](const GoldenVectors&) -> ExpectedValues {
    return {product(quantized_input(s, inputs.get().x), inputs.get().weight.matrix)};
  };
  const bool codes = s.numerics == Numerics::kNative && s.format == WeightFormat::kFp8Block;
  return {"logits", describe(s), s.numerics, codes ? Precision::kFp8Product : Precision::kFloat32,
          prepare,  expected};
}

OpCase reduce_add_norm_case(const NormShape& s) {
  const auto residual = Lazy<HostMatrix>(
      [=] { return as_stored(random_matrix(s.rows, s.columns, 17, 2.0F), s.numerics); });
  const auto partial =
      Lazy<HostMatrix>([=] { return as_stored(random_matrix(s.rows, s.columns, 18), s.numerics); });
  const std::vector<float> weight = random_matrix(1, s.columns, 19).values;
  const auto prepare = [=](Ops& ops) {
    const Tensor r = place(ops, residual.get());
    const Partial p{place(ops, partial.get())};
    const Tensor w = place_floats(ops, weight);
    return PreparedOp{[=, &ops]() -> std::vector<OpOutput> {
      const Act act = ops.reduce_add_norm(p, r, w, 1e-6F, spec_of(s), nullptr);
      return {{"residual", {r, {}, {}}, true}, {"y", act}};
    }};
  };
  const auto expected = [=](const GoldenVectors&) -> ExpectedValues {
    HostMatrix sum = residual.get();
    for (size_t i = 0; i < sum.values.size(); ++i) sum.values[i] += partial.get().values[i];
    sum = as_stored(sum, s.numerics);
    return {{sum.values.begin(), sum.values.end()},
            stored_rows(s, norm_by_definition(sum, weight))};
  };
  return {"reduce_add_norm", describe(s), s.numerics, norm_precision(s), prepare, expected};
}

namespace {

// gated_linear of `width` columns, and the product behind it, which may read the scales that the
// first wrote by group.
OpCase mlp_case(const LinearShape& s, int64_t width) {
  LinearShape inner = s;
  inner.in = width;
  const Lazy<LinearInputs> gate_up = linear_inputs(s, 2 * width);
  const Lazy<LinearInputs> down = linear_inputs(inner, s.out);
  const auto prepare = [=](Ops& ops) {
    const Weight first = prepared(ops, s, gate_up.get().weight, true);
    const Weight second = prepared(ops, inner, down.get().weight, false);
    const Act x = place_input(ops, gate_up.get().x, ops.act_spec(first));
    return PreparedOp{[=, &ops]() -> std::vector<OpOutput> {
      const Act act = ops.gated_linear(x, first, ops.act_spec(second));
      return {{"y", {ops.linear(act, second), {}, {}}}};
    }};
  };
  const auto expected = [=](const GoldenVectors&) -> ExpectedValues {
    const std::vector<double> both = rounded(
        product(quantized_input(s, gate_up.get().x), gate_up.get().weight.matrix), s.numerics);
    const std::vector<double> act = stored_rows(
        {s.rows, width, s.numerics, ActFormat::kFp8Block, s.ue8m0, 0}, gated(both, width));
    const HostMatrix x{s.rows, width, {act.begin(), act.end()}};
    return {rounded(product(x, down.get().weight.matrix), s.numerics)};
  };
  return {"linear",   describe(s) + " behind a gate of " + std::to_string(width),
          s.numerics, Precision::kFp8Chain,
          prepare,    expected};
}

// More rows than one pass over the weights takes.
void add_many_rows(std::vector<OpCase>& cases, Numerics n) {
  const auto before = static_cast<int64_t>(cases.size());
  constexpr WeightFormat kFp8 = WeightFormat::kFp8Block;
  for (const WeightFormat f : {WeightFormat::kBF16, kFp8}) {
    cases.push_back(linear_case({65, 384, 512, f, n}));
    cases.push_back(linear_case({128, 256, 640, f, n}));
    cases.push_back(linear_case({128, 37, 512, f, n}));
    cases.push_back(linear_case({200, 320, 384, f, n}));
    cases.push_back(linear_case({303, 264, 512, f, n}));
    cases.push_back(linear_case({100, 208, 2048, f, n}));  // K is shared, in both
    cases.push_back(linear_case({192, 264, 4096, f, n}));
    cases.push_back(linear_case({512, 192, 512, f, n}));
    cases.push_back(gated_linear_case({128, 192, 256, f, n}, true));
    cases.push_back(gated_linear_case({132, 136, 256, f, n}, false));
    cases.push_back(gated_linear_case({70, 50, 128, f, n}, true));
    cases.push_back(gated_linear_case({70, 232, 512, f, n}, false));
    cases.push_back(logits_case({128, 1000, 256, f, n}));
    cases.push_back(logits_case({150, 77, 256, f, n}));
  }
  if (n == Numerics::kNative) {  // whole scale blocks: K in halves, tiles in twos, half empty ones
    cases.push_back(linear_case({300, 256, 4096, kFp8, n}));
    cases.push_back(linear_case({272, 384, 640, kFp8, n}));
    cases.push_back(linear_case({500, 2176, 384, kFp8, n}));
    cases.push_back(gated_linear_case({300, 256, 384, kFp8, n}, true));
    cases.push_back(gated_linear_case({512, 2304, 256, kFp8, n}, true));
    cases.push_back(gated_linear_case({512, 384, 640, kFp8, n, 0, true}, true));
    // Prompts' tiles in one round, and a vocabulary's.
    cases.push_back(gated_linear_case({576, 2816, 512, kFp8, n}, true));
    cases.push_back(logits_case({256, 32768, 512, WeightFormat::kBF16, n}));
    cases.push_back(mlp_case({576, 256, 512, kFp8, n}, 2816));
    cases.push_back(mlp_case({578, 256, 512, kFp8, n}, 2816));  // two rows are not the library's
  }
  // Tiles of 128 rows, and of 256 columns, with and without a rest.
  cases.push_back(gated_linear_case({513, 256, 512, kFp8, n}, true));
  cases.push_back(gated_linear_case({700, 128, 1024, kFp8, n}, false));
  cases.push_back(gated_linear_case({1030, 384, 512, kFp8, n, 0, true}, true));
  cases.push_back(linear_case({1030, 384, 512, kFp8, n}));
  cases.push_back(linear_case({600, 512, 1024, kFp8, n}));
  cases.push_back(linear_case({128, 136, 256, kFp8, n, 32}));
  cases.push_back(joined_linear_case({128, 336, 384, kFp8, n}, 136));
  // In reference numerics all rows are one kernel's.
  const bool repeat = n == Numerics::kReference;
  std::for_each(cases.begin() + before, cases.end(), [&](OpCase& c) { c.repeats = repeat; });
}

// Each number of rows that the packed kernel has a form for, K shared and not, tiles that end in
// the middle; and a matrix with too many odd numbers to be packed.
void add_packed(std::vector<OpCase>& cases) {
  const auto shape = [](int64_t rows, int64_t out, int64_t in, int32_t every) {
    LinearShape s{rows, out, in};
    s.packed_odd_every = every;
    return s;
  };
  for (const int64_t rows : {1, 8, 9, 16, 17, 32, 33, 64, 65, 100, 128, 129}) {
    cases.push_back(linear_case(shape(rows, 328, 1024, 700)));
    cases.push_back(gated_linear_case(shape(rows, 296, 512, 700), false));
  }
  for (const int64_t rows : {1, 20, 128}) {
    cases.push_back(linear_case(shape(rows, 256, 4096, 700)));
    cases.push_back(logits_case(shape(rows, 1000, 256, 700)));
    cases.push_back(linear_case(shape(rows, 328, 1024, 20)));
  }
  for (const int64_t rows : {65, 128}) {  // of many rows large matrices alone are read packed
    cases.push_back(linear_case(shape(rows, 25608, 128, 700)));
    cases.push_back(gated_linear_case(shape(rows, 12840, 192, 700), false));
  }
  cases.push_back(linear_case(shape(70, 3904, 8192, 700)));  // and those of a long way
  cases.push_back(linear_case(shape(5, 4096, 512, 1000)));
  cases.push_back(linear_case(shape(3, 37, 512, 700)));
  cases.push_back(gated_linear_case(shape(4, 128, 72, 700), false));
}

}  // namespace

std::vector<OpCase> dense_cases() {
  std::vector<OpCase> cases;
  constexpr WeightFormat kFp8 = WeightFormat::kFp8Block;
  for (const Numerics n : {Numerics::kReference, Numerics::kNative}) {
    for (const WeightFormat f : {WeightFormat::kBF16, kFp8}) {
      for (const int64_t rows : {1, 2, 3, 4, 5, 11})
        cases.push_back(linear_case({rows, 37, 261, f, n}));
      for (const int64_t rows : {1, 8, 16, 17, 64, 65}) {
        cases.push_back(linear_case({rows, 256, 512, f, n}));
      }
      cases.push_back(linear_case({4, 9, 5, f, n}));
      cases.push_back(linear_case({1, 2112, 1536, f, n}));
      cases.push_back(linear_case({130, 192, 2048, f, n}));
      cases.push_back(gated_linear_case({7, 48, 96, f, n}, false));
      cases.push_back(gated_linear_case({33, 256, 384, f, n}, true));
      cases.push_back(logits_case({5, 1000, 256, f, n}));
    }
    for (const int32_t first : {32, 96, 120}) {
      cases.push_back(linear_case({6, 200, 200, kFp8, n, first}));
    }
    cases.push_back(joined_linear_case({6, 201, 200, kFp8, n, 32}, 136));
    add_many_rows(cases, n);
    for (const int64_t rows : {1, 3, 70}) {
      cases.push_back(norm_case({rows, 320, n}, false));
      cases.push_back(reduce_add_norm_case({rows, 512, n}));
    }
    // Blocks that stay, and rows that they end on.
    cases.push_back(norm_case({1100, 512, n}, false));
    cases.push_back(reduce_add_norm_case({410, 512, n}));
    cases.push_back(reduce_add_norm_case({1024, 512, n}));
    cases.push_back(reduce_add_norm_case({1201, 1536, n, ActFormat::kFp8Block, false, 0}));
    cases.push_back(norm_case({4, 2048, n, ActFormat::kFp8Block, false, 0}, false));
    // A part of a group of quantization ends the rows.
    cases.push_back(gated_linear_case({5, 1096, 128, WeightFormat::kBF16, n}, true));
    cases.push_back(norm_case({4, 7168, n}, true));
    cases.push_back(norm_case({3, 8328, n}, true));  // more than a block has vectors for
    cases.push_back(reduce_add_norm_case({2, 8328, n, ActFormat::kFp8Block, false, 0}));
    cases.push_back(reduce_add_norm_case({9, 2048, n, ActFormat::kFp8Block, false, 0}));
  }
  cases.push_back(linear_case({3, 256, 384, kFp8, Numerics::kNative, 0, true}));
  add_packed(cases);
  for (const bool ue8m0 : {false, true}) {
    cases.push_back(norm_case({4, 200, Numerics::kNative, ActFormat::kFp8Block, ue8m0, 96}, false));
    cases.push_back(norm_case({5, 1536, Numerics::kNative, ActFormat::kFp8Block, ue8m0, 0}, true));
  }
  return cases;
}

}  // namespace fathom::testing
