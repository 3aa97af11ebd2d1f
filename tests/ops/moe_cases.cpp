// Mixture of experts, route to combine. Expected values come from PyTorch, which also checks that
// no routing choice is a near tie: a token on another expert would miss every tolerance.
#include "ops/op_builders.h"
#include "ops/op_inputs.h"

namespace fathom::testing {
namespace {

struct Inputs {
  HostMatrix x;
  HostMatrix router;
  HostMatrix bias;
  std::vector<StoredWeight> gate_up, down;  // of distinct experts
  StoredWeight shared_gate_up, shared_down;
};

StoredWeight matrix(const MoeShape& s, int64_t out, int64_t in, uint32_t seed) {
  StoredWeight w = random_weight(out, in, s.format, seed, 2.0F / std::sqrt(static_cast<float>(in)));
  w.stored.ue8m0_activations = s.ue8m0;
  return w;
}

Inputs make_inputs(const MoeShape& s) {
  const uint32_t seed = 10000 + 1000 * s.seed;
  Inputs in;
  in.x = random_matrix(s.tokens, s.hidden, seed, 2.0F);
  // What attention leaves in a row without tokens may be anything.
  for (const int64_t t : s.padding)
    std::fill_n(in.x.values.begin() + t * s.hidden, s.hidden, std::nanf(""));
  in.router =
      random_matrix(s.experts, s.hidden, seed + 1, 2.0F / std::sqrt(static_cast<float>(s.hidden)));
  in.bias = random_matrix(1, s.experts, seed + 2, s.bias_width);
  in.shared_gate_up = matrix(s, 2 * s.shared_intermediate, s.hidden, seed + 4);
  in.shared_down = matrix(s, s.hidden, s.shared_intermediate, seed + 6);
  const int32_t distinct = s.distinct_experts == 0 ? s.experts : s.distinct_experts;
  for (int32_t e = 0; e < distinct; ++e) {
    in.gate_up.push_back(matrix(s, 2 * s.intermediate, s.hidden, seed + 10 + 4 * e));
    in.down.push_back(matrix(s, s.hidden, s.intermediate, seed + 12 + 4 * e));
  }
  return in;
}

struct Call {
  BatchView batch;
  Act x;
  MoeParams params;
  Tensor out;
};

MoeParams prepare_params(Ops& ops, const MoeShape& s, const Inputs& in) {
  MoeParams p;
  p.experts = s.experts;
  p.experts_per_token = s.experts_per_token;
  p.groups = s.groups;
  p.groups_per_token = s.groups_per_token;
  p.score = s.score;
  p.group_score = s.group_score;
  p.normalize = s.normalize;
  p.scale = s.scale;
  p.first_expert = s.first_expert;
  const HostTensor router = host_tensor(in.router.values, DType::kF32, {s.experts, s.hidden});
  p.router = ops.place(router, DType::kF32).value();
  if (s.bias) p.bias = place_floats(ops, in.bias.values);
  const int32_t here = s.experts_here == 0 ? s.experts : s.experts_here;
  for (int32_t e = s.first_expert; e < s.first_expert + here; ++e) {
    const size_t at = static_cast<size_t>(e) % in.gate_up.size();
    p.gate_up.push_back(ops.prepare_linear({in.gate_up[at].stored}).value());
    p.down.push_back(ops.prepare_linear({in.down[at].stored}).value());
  }
  if (s.shared_intermediate > 0) {
    p.shared_gate_up = ops.prepare_linear({in.shared_gate_up.stored}).value();
    p.shared_down = ops.prepare_linear({in.shared_down.stored}).value();
  }
  return p;
}

Call prepare_call(Ops& ops, const MoeShape& s, const Inputs& in) {
  Call call;
  std::vector<uint8_t> valid(s.tokens, 1);
  for (const int64_t t : s.padding) valid[t] = 0;
  call.batch.shape.rows = call.batch.shape.decode_rows = call.batch.shape.tokens =
      static_cast<int32_t>(s.tokens);
  call.batch.shape.query_tokens_max = 1;
  call.batch.token_valid = place_bytes(ops, valid);
  call.x = plain_act(ops, in.x);
  call.params = prepare_params(ops, s, in);
  call.out = ops.reserve(ops.act_dtype(), {s.tokens, s.hidden}).value();
  return call;
}

// The experts that random routing is expected to hit, the shared one, the router, input and output.
int64_t least_bytes(const MoeShape& s, Numerics numerics) {
  const double missed = std::pow(1.0 - static_cast<double>(s.experts_per_token) / s.experts,
                                 static_cast<double>(s.tokens - s.padding.size()));
  const double here = s.experts_here == 0 ? s.experts : s.experts_here;
  const double width = here * (1.0 - missed) * static_cast<double>(s.intermediate) +
                       static_cast<double>(s.shared_intermediate);
  const int64_t number = numerics == Numerics::kReference ? 4 : 2;
  const int64_t rest = 4 * s.experts * s.hidden + 2 * number * s.tokens * s.hidden;
  return static_cast<int64_t>(width * 3.0 * static_cast<double>(s.hidden) *
                              (s.format == WeightFormat::kFp8Block ? 1.0 : 2.0)) +
         rest;
}

// Steps of many tokens, which native numerics alone run another way.
std::vector<MoeShape> many_token_shapes() {
  std::vector<MoeShape> all;
  for (const WeightFormat f : {WeightFormat::kBF16, WeightFormat::kFp8Block}) {
    MoeShape uneven{.name = "uneven", .tokens = 300, .padding = {5, 77, 299}};
    uneven.experts_per_token = 2;
    uneven.bias_width = 1.0F;  // some experts have most of the tokens, some none
    uneven.shared_intermediate = 128;
    uneven.format = f;
    uneven.seed = 6;
    MoeShape rank{.name = "rank 1 of 4 many", .tokens = 90, .padding = {0}};
    rank.intermediate = 256;
    rank.experts = 32;
    rank.experts_per_token = 8;
    rank.groups = 8;
    rank.groups_per_token = 4;
    rank.first_expert = 8;
    rank.experts_here = 8;
    rank.format = f;
    rank.seed = 7;
    MoeShape lite{.name = "v2 lite many", .tokens = 100, .padding = {}};
    lite.shared_intermediate = 256;
    lite.experts = 64;
    lite.experts_per_token = 6;
    lite.score = ScoreFunction::kSoftmax;
    lite.bias = lite.normalize = false;
    lite.scale = 1.0F;
    lite.format = f;
    lite.seed = 11;
    all.insert(all.end(), {uneven, rank, lite});
  }
  all.push_back(all[3]);  // uneven in FP8
  all.back().name = "uneven ue8m0";
  all.back().ue8m0 = true;
  return all;
}

std::vector<MoeShape> shapes() {
  std::vector<MoeShape> all;
  for (const WeightFormat f : {WeightFormat::kBF16, WeightFormat::kFp8Block}) {
    MoeShape v3{.name = "v3", .tokens = 9, .padding = {3, 8}};
    v3.shared_intermediate = 128;
    v3.experts = 32;
    v3.experts_per_token = 8;
    v3.groups = 8;
    v3.groups_per_token = 4;
    v3.format = f;
    v3.seed = 1;
    MoeShape one = v3;  // most experts have no row
    one.name = "one token";
    one.tokens = 1;
    one.padding = {};
    one.seed = 2;
    MoeShape lite{.name = "v2 lite", .tokens = 5, .padding = {}};
    lite.shared_intermediate = 256;
    lite.experts = 64;
    lite.experts_per_token = 6;
    lite.score = ScoreFunction::kSoftmax;
    lite.bias = lite.normalize = false;
    lite.scale = 1.0F;
    lite.format = f;
    lite.seed = 3;
    MoeShape v2 = lite;
    v2.name = "v2";
    v2.tokens = 40;
    v2.experts = 16;
    v2.experts_per_token = 3;
    v2.groups = 4;
    v2.groups_per_token = 2;
    v2.group_score = GroupScore::kMax;
    v2.scale = 16.0F;
    v2.shared_intermediate = 0;
    v2.seed = 4;
    MoeShape rank = v3;  // a quarter of the experts, and the shared expert on another rank
    rank.name = "rank 1 of 4";
    rank.tokens = 12;
    rank.padding = {0};
    rank.first_expert = 8;
    rank.experts_here = 8;
    rank.shared_intermediate = 0;
    rank.seed = 5;
    all.insert(all.end(), {v3, one, lite, v2, rank});
  }
  MoeShape powers = all[5];  // v3 in FP8
  powers.name = "v3 ue8m0";
  powers.ue8m0 = true;
  all.push_back(powers);
  return all;
}

// The golden's one token as the norm of rows that are it times powers of two, each the sum of two
// halves; the norm's weight is the token's root mean square.
struct NormedRows {
  HostMatrix halves;
  float root = 0.0F;
};

NormedRows normed_rows(const MoeShape& s, const Inputs& in, Numerics numerics) {
  std::vector<float> row(in.x.values.begin(), in.x.values.begin() + s.hidden);
  double squares = 0.0;
  for (float& x : row) {
    if (numerics == Numerics::kNative) x = bf16_to_float(float_to_bf16(x));
    squares += static_cast<double>(x) * x;
  }
  NormedRows made{{s.tokens, s.hidden, std::vector<float>(s.tokens * s.hidden)}};
  for (int64_t i = 0; i < s.tokens * s.hidden; ++i)
    made.halves.values[i] = std::ldexp(row[i % s.hidden], static_cast<int>(i / s.hidden % 3) - 2);
  for (const int64_t t : s.padding)
    std::fill_n(made.halves.values.begin() + t * s.hidden, s.hidden, std::nanf(""));
  made.root = static_cast<float>(std::sqrt(squares / static_cast<double>(s.hidden)));
  return made;
}

struct NormedCall {
  Call call;
  NormInput x;
  Tensor zeros;  // a residual that shows a sum as it is
};

std::shared_ptr<NormedCall> prepare_normed(Ops& ops, const MoeShape& s, const Inputs& in) {
  const NormedRows rows = normed_rows(s, in, ops.numerics());
  auto made = std::make_shared<NormedCall>();
  made->call = prepare_call(ops, s, in);
  made->call.out = place(ops, rows.halves);  // a layer's sums share their memory
  made->zeros = place(ops, {s.tokens, s.hidden, std::vector<float>(s.tokens * s.hidden)});
  made->x = {Partial{made->call.out}, place(ops, rows.halves),
             place_floats(ops, std::vector<float>(s.hidden, rows.root)), 1e-12F, nullptr};
  return made;
}

// As activations hold them.
std::vector<double> stored(std::vector<double> values, Numerics numerics) {
  if (numerics == Numerics::kReference) return values;
  for (double& x : values) x = bf16_to_float(float_to_bf16(static_cast<float>(x)));
  return values;
}

std::vector<double> added(std::vector<double> a, const std::vector<double>& b) {
  for (size_t i = 0; i < a.size(); ++i) a[i] += b[i];
  return a;
}

// Rows of `columns` over their root mean squares, times `weight`.
std::vector<double> rms_normed(std::vector<double> rows, int64_t columns, double weight) {
  for (size_t first = 0; first < rows.size(); first += columns) {
    double squares = 0.0;
    for (int64_t i = 0; i < columns; ++i) squares += rows[first + i] * rows[first + i];
    const double scale = weight / std::sqrt(squares / static_cast<double>(columns));
    for (int64_t i = 0; i < columns; ++i) rows[first + i] *= scale;
  }
  return rows;
}

// Twice the rows of valid tokens.
std::vector<double> doubled(const HostMatrix& halves) {
  std::vector<double> all;
  for (const float x : halves.values)
    if (!std::isnan(x)) all.push_back(2.0 * x);
  return all;
}

}  // namespace

OpCase moe_case(const MoeShape& s, Numerics numerics) {
  const auto inputs = Lazy<Inputs>([=] { return make_inputs(s); });
  const auto prepare = [=](Ops& ops) {
    const auto call = std::make_shared<Call>(prepare_call(ops, s, inputs.get()));
    return PreparedOp{[=, &ops]() -> std::vector<OpOutput> {
      const Partial sum = ops.moe(call->batch, call->x, call->params, call->out);
      return {{"sum", {sum.data, {}, {}}, false, s.padding}};
    }};
  };
  const bool fp8 = s.format == WeightFormat::kFp8Block;
  const bool reference = numerics == Numerics::kReference;
  const std::string name = std::string(s.name) + (fp8 ? " fp8" : " bf16");
  const auto expected = [=](const GoldenVectors& vectors) -> ExpectedValues {
    const auto all = golden_vector(vectors, "moe " + name + (reference ? " reference" : " native"));
    std::vector<double> valid;
    for (int64_t t = 0, skip = 0; t < s.tokens; ++t) {
      const bool padding = skip < static_cast<int64_t>(s.padding.size()) && s.padding[skip] == t;
      skip += padding ? 1 : 0;
      if (padding) continue;
      valid.insert(valid.end(), all.begin() + t * s.hidden, all.begin() + (t + 1) * s.hidden);
    }
    return {valid};
  };
  return {"moe",
          name + ", " + std::to_string(s.tokens) + " tokens",
          numerics,
          reference ? Precision::kFloat32
          : fp8     ? Precision::kFp8Chain
                    : Precision::kBF16Chain,
          prepare,
          expected,
          [=] { return least_bytes(s, numerics); }};
}

OpCase norm_moe_case(const MoeShape& s, Numerics numerics, SumGoesTo to) {
  OpCase one = moe_case(s, numerics);
  const auto inputs = Lazy<Inputs>([=] { return make_inputs(s); });
  one.op = "norm_moe";
  if (to != SumGoesTo::kResidual) one.shape += ", to a norm";
  one.prepare = [=](Ops& ops) {
    const auto made = prepare_normed(ops, s, inputs.get());
    return PreparedOp{[=, &ops]() -> std::vector<OpOutput> {
      const Call& call = made->call;
      const Partial sum = ops.norm_moe(call.batch, made->x, call.params, call.out);
      const OpOutput residual{"residual", {made->x.residual, {}, {}}, false, s.padding};
      if (to == SumGoesTo::kResidual) {
        ops.reduce_add(sum, made->zeros, nullptr);
        return {{"sum", {made->zeros, {}, {}}, false, s.padding}, residual};
      }
      NormInput behind = made->x;
      behind.partial = sum;
      const ActSpec spec =
          to == SumGoesTo::kNorm ? call.x.spec : ops.act_spec(call.params.gate_up.front());
      return {{"norm", ops.normed(behind, spec), false, s.padding}, residual};
    }};
  };
  one.expected = [=](const GoldenVectors& vectors) -> ExpectedValues {
    const bool fp8 = s.format == WeightFormat::kFp8Block;
    const bool reference = numerics == Numerics::kReference;
    const auto row =
        golden_vector(vectors, std::string("moe ") + s.name + (fp8 ? " fp8" : " bf16") +
                                   (reference ? " reference" : " native"));
    std::vector<double> rows;
    for (size_t t = s.padding.size(); t < static_cast<size_t>(s.tokens); ++t)
      rows.insert(rows.end(), row.begin(), row.end());
    const NormedRows made = normed_rows(s, inputs.get(), numerics);
    const std::vector<double> ahead = doubled(made.halves);
    if (to == SumGoesTo::kResidual) return {rows, ahead};
    const std::vector<double> behind = stored(added(ahead, stored(rows, numerics)), numerics);
    return {stored(rms_normed(behind, s.hidden, made.root), numerics), behind};
  };
  return one;
}

namespace {

std::vector<OpCase> norm_moe_cases() {
  std::vector<OpCase> cases;
  for (MoeShape s : shapes()) {
    if (std::string(s.name) != "one token") continue;
    for (const int64_t tokens : {1, 4, 9}) {
      s.tokens = tokens;
      s.padding = tokens > 1 ? std::vector<int64_t>{3} : std::vector<int64_t>{};
      for (const SumGoesTo to : {SumGoesTo::kResidual, SumGoesTo::kNorm}) {
        cases.push_back(norm_moe_case(s, Numerics::kReference, to));
        cases.push_back(norm_moe_case(s, Numerics::kNative, to));
      }
    }
  }
  return cases;
}

}  // namespace

std::vector<OpCase> moe_cases() {
  std::vector<OpCase> cases = norm_moe_cases();
  for (const MoeShape& s : shapes()) {
    cases.push_back(moe_case(s, Numerics::kReference));
    cases.push_back(moe_case(s, Numerics::kNative));
  }
  for (const MoeShape& s : many_token_shapes()) cases.push_back(moe_case(s, Numerics::kNative));
  return cases;
}

}  // namespace fathom::testing
