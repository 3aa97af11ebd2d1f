// Every tiny checkpoint in native numerics, with caches of both kinds, op by op beside the CPU:
// each op of a prompt and of the decode steps after it runs on both from what CUDA computed so
// far, so that no difference grows from one op to the next, and must agree within
// tests/ops/tolerances.h.
// Products of quantized numbers and latent attention differ by about 2e-3; quantized again they
// differ as kFp8Weights says, the root of that and of a step of e4m3. The last op's logits make the
// greedy choices. Needs a GPU.
#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <cstdio>
#include <cstring>
#include <map>

#include "base/float_formats.h"
#include "model/family_golden.h"
#include "ops/cpu/cpu_ops.h"
#include "ops/cuda/cuda_ops.h"
#include "ops/tolerances.h"
#include "support/forward_ops.h"
#include "support/step_driver.h"
#include "weights/synthetic.h"

namespace fathom::testing {
namespace {

constexpr int64_t kArenaBytes = int64_t{256} << 20;
constexpr int32_t kTokensMax = 128;
constexpr double kCountedShare = 0.6;

float value_at(const Tensor& t, int64_t at) {
  switch (t.dtype) {
    case DType::kF32: return t.as<float>()[at];
    case DType::kBF16: return bf16_to_float(t.as<uint16_t>()[at]);
    default: return e4m3_to_float(t.as<uint8_t>()[at]);
  }
}

// Codes times scales where they are quantized.
std::vector<float> host_values(const Act& act) {
  std::vector<float> values;
  const int64_t columns = act.data.shape[1];
  for (int64_t r = 0; r < act.data.shape[0]; ++r) {
    for (int64_t c = 0; c < columns; ++c) {
      float scale = 1.0F;
      if (act.spec.format == ActFormat::kFp8Block) {
        const int64_t group = (act.spec.first_column_in_block + c) / 128;
        scale = act.scales.as<float>()[r * act.scales.stride[0] + group];
      }
      values.push_back(value_at(act.data, r * act.data.stride[0] + c) * scale);
    }
  }
  return values;
}

Act plain(const Tensor& t) {
  return {t, {}, {t.dtype == DType::kF32 ? ActFormat::kF32 : ActFormat::kBF16, false, 0}};
}

bool quantized(const ActSpec& spec) { return spec.format == ActFormat::kFp8Block; }

// Of attention: as the table of op cases has it where the cache is quantized.
Precision attention_precision(const KvView& cache, const ActSpec& out, Precision otherwise) {
  const bool codes = cache.cache.dtype == DType::kF8E4M3;
  if (quantized(out)) return codes ? Precision::kFp8CacheOutput : Precision::kFp8Weights;
  return codes ? Precision::kFp8Chain : otherwise;
}

// Of all calls of an op: one call of a single row has a few hundred numbers, too few for their mean
// square to be more than chance.
struct OpErrors {
  Tolerance bound;
  double largest = 0.0;  // over its call's largest number
  double squares = 0.0;
  double power = 0.0;

  void add(const std::vector<float>& made, const std::vector<float>& expected,
           const Tolerance& of) {
    bound = {std::max(bound.largest, of.largest), std::max(bound.mean_square, of.mean_square)};
    double most = 0.0;
    double peak = 0.0;
    for (size_t i = 0; i < expected.size(); ++i) {
      const double d = std::fabs(double{made.at(i)} - double{expected[i]});
      most = d > most || d != d ? d : most;
      peak = std::max(peak, std::fabs(double{expected[i]}));
      squares += d * d;
      power += double{expected[i]} * double{expected[i]};
    }
    const double relative = most / std::max(peak, 1e-30);
    largest = relative > largest || relative != relative ? relative : largest;
  }
  double mean_square() const { return std::sqrt(squares / std::max(power, 1e-30)); }
};

// What the choices of the sampled positions were.
struct Choice {
  double margin = 0.0;
  bool equal = false;
};

// CUDA's ops in memory that the host reads, with the CPU's beside them.
class LockstepOps final : public ForwardOps {
 public:
  LockstepOps(Ops& cuda, Ops& cpu) : ForwardOps(cuda), cpu_(cpu) {}

  Result<Weight> prepare_linear(const std::vector<HostWeight>& parts) override {
    FATHOM_ASSIGN(const Weight weight, inner_.prepare_linear(parts));
    FATHOM_ASSIGN(weights_[weight.values.data], cpu_.prepare_linear(parts));
    return weight;
  }
  Result<MlaUpProjection> prepare_kv_b(const HostWeight& kv_b, int32_t heads, int32_t nope_dims,
                                       int32_t value_dims) override {
    FATHOM_ASSIGN(const MlaUpProjection up,
                  inner_.prepare_kv_b(kv_b, heads, nope_dims, value_dims));
    FATHOM_ASSIGN(ups_[up.key.data], cpu_.prepare_kv_b(kv_b, heads, nope_dims, value_dims));
    return up;
  }
  Act norm(const Tensor& x, const Tensor& w, float e, ActSpec o) override {
    return compared("norm", quantized(o) ? Precision::kFp8Output : Precision::kBF16,
                    [&](Ops& ops) { return ops.norm(x, w, e, o); });
  }
  Act reduce_add_norm(const Partial& p, const Tensor& r, const Tensor& w, float e, ActSpec o,
                      Comm* g) override {
    return compared("reduce_add_norm", quantized(o) ? Precision::kFp8Output : Precision::kBF16,
                    [&](Ops& ops) {
                      if (&ops != &cpu_) return ops.reduce_add_norm(p, r, w, e, o, g);
                      const Tensor copy = cpu_.arena().take(r.dtype, {r.shape[0], r.shape[1]});
                      std::memcpy(copy.data, r.data, static_cast<size_t>(copy.bytes()));
                      return ops.reduce_add_norm(p, copy, w, e, o, g);
                    });
  }
  Tensor linear(const Act& x, const Weight& w) override {
    return compared("linear", product(x),
                    [&](Ops& ops) { return plain(ops.linear(x, of(ops, w))); })
        .data;
  }
  Partial linear_partial(const Act& x, const Weight& w, const Tensor& o) override {
    const Act act = compared("linear_partial", product(x), [&](Ops& ops) {
      const Tensor out = &ops == &cpu_ ? cpu_.arena().take(o.dtype, {o.shape[0], o.shape[1]}) : o;
      return plain(ops.linear_partial(x, of(ops, w), out).data);
    });
    return Partial{act.data};
  }
  Act gated_linear(const Act& x, const Weight& w, ActSpec o) override {
    const Precision precision = quantized(o)        ? Precision::kFp8Weights
                                : quantized(x.spec) ? Precision::kFp8Chain
                                                    : Precision::kBF16Chain;
    return compared("gated_linear", precision,
                    [&](Ops& ops) { return ops.gated_linear(x, of(ops, w), o); });
  }
  Act mla_attention(const BatchView& b, const KvView& c, const Tensor& q, const Tensor& k,
                    const MlaParams& p, MlaForm) override {
    const bool naive = b.shape.decode_rows < b.shape.rows;
    return compared(
        "mla_attention", attention_precision(c, p.out, Precision::kBF16Chain), [&](Ops& ops) {
          MlaParams mine = p;
          if (&ops == &cpu_) mine.up = ups_.at(p.up.key.data);
          return ops.mla_attention(b, c, q, k, mine, naive ? MlaForm::kNaive : MlaForm::kAbsorbed);
        });
  }
  Act gqa_attention(const BatchView& b, const KvView& c, const Tensor& q,
                    const GqaParams& p) override {
    const bool prompts = b.shape.decode_rows < b.shape.rows;
    const Precision plain = prompts ? Precision::kBF16Weights : Precision::kBF16Chain;
    return compared("gqa_attention", attention_precision(c, p.out, plain),
                    [&](Ops& ops) { return ops.gqa_attention(b, c, q, p); });
  }
  Partial moe(const BatchView& b, const Act& x, const MoeParams& p, const Tensor& o) override {
    const bool fp8 = p.gate_up.front().format == WeightFormat::kFp8Block;
    const Act act =
        compared("moe", fp8 ? Precision::kFp8Chain : Precision::kBF16Chain, [&](Ops& ops) {
          if (&ops != &cpu_) return plain(ops.moe(b, x, p, o).data);
          MoeParams mine = p;
          for (Weight& w : mine.gate_up) w = of(ops, w);
          for (Weight& w : mine.down) w = of(ops, w);
          if (p.shared_gate_up.values.defined()) {
            mine.shared_gate_up = of(ops, p.shared_gate_up);
            mine.shared_down = of(ops, p.shared_down);
          }
          const Tensor out = cpu_.arena().take(o.dtype, {o.shape[0], o.shape[1]});
          return plain(ops.moe(b, x, mine, out).data);
        });
    return Partial{act.data};
  }
  Tensor logits(const Act& x, const Weight& h, Comm* g) override {
    const Precision precision = quantized(x.spec) ? Precision::kFp8Product : Precision::kFloat32;
    return compared("logits", precision,
                    [&](Ops& ops) { return plain(ops.logits(x, of(ops, h), g)); })
        .data;
  }
  void sample(const SlotTable& s, const BatchView& b, const Tensor& l,
              const std::vector<TokenId>& e, SampleOutput& o) override {
    inner_.sample(s, b, l, e, o);
    wait();
  }

  int64_t compared_ops() const { return compared_; }
  double largest_logit_error() const { return logit_error_; }
  const std::vector<Choice>& choices() const { return choices_; }
  const std::map<std::string, OpErrors>& errors() const { return errors_; }

 private:
  void wait() { FATHOM_CHECK(inner_.synchronize().is_ok(), "a step failed"); }
  const Weight& of(Ops& ops, const Weight& w) const {
    return &ops == &cpu_ ? weights_.at(w.values.data) : w;
  }
  static Precision product(const Act& x) {
    return quantized(x.spec) ? Precision::kFp8ProductBF16 : Precision::kBF16;
  }

  // The CPU first: attention writes its entries into the cache that both read, CUDA's come last.
  template <typename Run>
  Act compared(const char* name, Precision precision, const Run& run) {
    wait();
    std::vector<float> expected;
    {
      ArenaScope scope(cpu_.arena());
      expected = host_values(run(cpu_));
    }
    const Act act = run(inner_);
    wait();
    const std::vector<float> made = host_values(act);
    if (made.empty()) return act;
    errors_[name].add(made, expected, between_backends(precision));
    if (std::strcmp(name, "logits") == 0) note_choices(made, expected, act.data.shape[1]);
    ++compared_;
    return act;
  }

  void note_choices(const std::vector<float>& made, const std::vector<float>& expected,
                    int64_t columns) {
    for (size_t row = 0; row < made.size(); row += static_cast<size_t>(columns)) {
      const float* a = expected.data() + row;
      const float* b = made.data() + row;
      const int64_t best = std::max_element(a, a + columns) - a;
      float second = -INFINITY;
      for (int64_t c = 0; c < columns; ++c) {
        logit_error_ = std::max(logit_error_, std::fabs(double{a[c]} - double{b[c]}));
        if (c != best) second = std::max(second, a[c]);
      }
      choices_.push_back({a[best] - second, std::max_element(b, b + columns) - b == best});
    }
  }

  Ops& cpu_;
  std::map<const void*, Weight> weights_;
  std::map<const void*, MlaUpProjection> ups_;
  int64_t compared_ = 0;
  double logit_error_ = 0.0;
  std::vector<Choice> choices_;
  std::map<std::string, OpErrors> errors_;
};

struct Case {
  std::string name;
  bool fp8_cache = false;
  bool packed = false;

  std::string title() const {
    return name + (fp8_cache ? "_fp8_cache" : "") + (packed ? "_packed" : "");
  }
};

class CudaLockstep : public ::testing::TestWithParam<Case> {};

TEST_P(CudaLockstep, EveryOpEqualsTheCpu) {
  const std::string directory = families_directory() + "/" + GetParam().name;
  const FamilyGolden golden = read_family_golden(GetParam().name);
  const auto cpu = make_cpu_ops({Numerics::kNative, 4, kArenaBytes});
  auto cuda = CudaOps::make({Numerics::kNative, kArenaBytes, true});
  ASSERT_TRUE(cuda.is_ok()) << cuda.status().to_string();
  LockstepOps ops(**cuda, *cpu);
  const auto weights = SyntheticSource::open(directory, golden.seed, false).value();
  ModelOptions options;
  options.tokens_max = kTokensMax;
  options.fp8_cache = GetParam().fp8_cache;
  options.pack_weights = GetParam().packed;
  ASSERT_TRUE((*cuda)->begin_load().is_ok());  // weights arrive later, as a server's
  const auto model = load_model(directory, *weights, ops, {}, options).value();
  ASSERT_TRUE((*cuda)->finish_load().is_ok());
  EXPECT_EQ((*cuda)->packed_count() > 0, GetParam().packed);
  StepDriver driver(ops, *model, {.slots = 4, .tokens_max = kTokensMax, .blocks = 12});
  SamplingParams sampling;
  sampling.temperature = 0.0F;
  sampling.max_tokens = 32;
  sampling.prompt_logprobs = true;
  sampling.ignore_eos = true;
  driver.generate(golden.prompt, sampling);
  driver.generate(golden.prompt, sampling, 7);
  int64_t counted = 0;
  int64_t equal = 0;
  for (const Choice& choice : ops.choices()) {
    if (choice.margin <= 4 * ops.largest_logit_error()) continue;
    ++counted;
    equal += choice.equal ? 1 : 0;
  }
  std::printf("%-24s %ld ops, largest logit error %.2g; %zu choices, %ld counted, %ld equal;",
              GetParam().title().c_str(), static_cast<long>(ops.compared_ops()),
              ops.largest_logit_error(), ops.choices().size(), static_cast<long>(counted),
              static_cast<long>(equal));
  for (const auto& [name, error] : ops.errors()) {
    std::printf(" %s %.2g", name.c_str(), error.mean_square());
    EXPECT_LE(error.mean_square(), error.bound.mean_square) << name;
    EXPECT_LE(error.largest, error.bound.largest) << name;
  }
  std::printf("\n");
  EXPECT_EQ(equal, counted);
  EXPECT_GE(static_cast<double>(counted),
            kCountedShare * static_cast<double>(ops.choices().size()));
}

std::vector<Case> cases() {
  std::vector<Case> all;
  for (const std::string& name : family_names()) {
    all.push_back({name, false});
    all.push_back({name, true});
    if (!name.ends_with("_fp8")) all.push_back({name, false, true});
  }
  return all;
}

INSTANTIATE_TEST_SUITE_P(Families, CudaLockstep, ::testing::ValuesIn(cases()),
                         [](const auto& info) { return info.param.title(); });

}  // namespace
}  // namespace fathom::testing
