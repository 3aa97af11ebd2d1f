// The demo model's steps on CudaOps against CpuOps, its oracle, op by op where they part. Needs a
// GPU.
#include <gtest/gtest.h>

#include <cmath>
#include <cstdio>
#include <cstring>

#include "base/float_formats.h"
#include "ops/cpu/cpu_ops.h"
#include "ops/cuda/cuda_ops.h"
#include "support/forward_ops.h"
#include "support/source_folder.h"
#include "support/step_driver.h"
#include "weights/checkpoint.h"

namespace fathom::testing {
namespace {

// What an op wrote, reduced to three numbers.
struct Digest {
  std::string name;
  double sum = 0.0;
  double largest = 0.0;
  int64_t broken = 0;  // NaN or infinite
};

float value_at(const Tensor& t, int64_t i) {
  switch (t.dtype) {
    case DType::kF32: return t.as<float>()[i];
    case DType::kBF16: return bf16_to_float(t.as<uint16_t>()[i]);
    case DType::kF8E4M3: return e4m3_to_float(t.as<uint8_t>()[i]);
    case DType::kI32: return static_cast<float>(t.as<int32_t>()[i]);
    default: return t.as<uint8_t>()[i];
  }
}

// Passes every call on, waits, and notes a digest of what was written.
class DigestOps final : public ForwardOps {
 public:
  using ForwardOps::ForwardOps;

  void edit_slots(const SlotTable& s, const StepPlan& p) override {
    inner_.edit_slots(s, p);
    note("edit_slots", s.length);
  }
  void advance(const SlotTable& s, const StepPlan& p, BatchView& b) override {
    inner_.advance(s, p, b);
    note("advance", b.token_ids);
    note("positions", b.positions);
  }
  Tensor embed(const Tensor& i, const Tensor& t, int32_t f, Comm* g) override {
    return noted("embed", inner_.embed(i, t, f, g));
  }
  Act norm(const Tensor& x, const Tensor& w, float e, ActSpec o) override {
    return noted("norm", inner_.norm(x, w, e, o));
  }
  Act reduce_add_norm(const Partial& p, const Tensor& r, const Tensor& w, float e, ActSpec o,
                      Comm* g) override {
    return noted("reduce_add_norm", inner_.reduce_add_norm(p, r, w, e, o, g));
  }
  Tensor linear(const Act& x, const Weight& w) override {
    return noted("linear", inner_.linear(x, w));
  }
  Partial linear_partial(const Act& x, const Weight& w, const Tensor& o) override {
    const Partial p = inner_.linear_partial(x, w, o);
    note("linear_partial", p.data);
    return p;
  }
  Act gated_linear(const Act& x, const Weight& w, ActSpec o) override {
    return noted("gated_linear", inner_.gated_linear(x, w, o));
  }
  Act mla_attention(const BatchView& b, const KvView& c, const Tensor& q, const Tensor& k,
                    const MlaParams& p, MlaForm f) override {
    return noted("mla_attention", inner_.mla_attention(b, c, q, k, p, f));
  }
  Act gqa_attention(const BatchView& b, const KvView& c, const Tensor& q,
                    const GqaParams& p) override {
    return noted("gqa_attention", inner_.gqa_attention(b, c, q, p));
  }
  Partial moe(const BatchView& b, const Act& x, const MoeParams& p, const Tensor& o) override {
    const Partial r = inner_.moe(b, x, p, o);
    note("moe", r.data);
    return r;
  }
  Tensor gather_rows(const Tensor& x, const Tensor& i) override {
    return noted("gather_rows", inner_.gather_rows(x, i));
  }
  Act concat(const Act& l, const Act& r, ActSpec o) override {
    return noted("concat", inner_.concat(l, r, o));
  }
  Tensor logits(const Act& x, const Weight& h, Comm* g) override {
    return noted("logits", inner_.logits(x, h, g));
  }
  void sample(const SlotTable& s, const BatchView& b, const Tensor& l,
              const std::vector<TokenId>& e, SampleOutput& o) override {
    inner_.sample(s, b, l, e, o);
    note("sample", o.new_tokens);
  }
  Tensor next_tokens(const SlotTable& s, const BatchView& b) override {
    return noted("next_tokens", inner_.next_tokens(s, b));
  }
  Tensor last_accepted(const BatchView& b, const SampleOutput& o) override {
    return noted("last_accepted", inner_.last_accepted(b, o));
  }
  void propose(const SlotTable& s, const BatchView& b, const Tensor& l, int32_t i,
               SampleOutput& o) override {
    inner_.propose(s, b, l, i, o);
    note("propose", o.drafts);
  }

  std::vector<Digest> digests;

 private:
  void note(const char* name, const Tensor& t) {
    EXPECT_TRUE(inner_.synchronize().is_ok()) << inner_.health().to_string();
    Digest d{name, 0.0, 0.0, 0};
    const int64_t columns = t.shape[t.rank - 1];
    for (int64_t r = 0; r < t.elements() / std::max<int64_t>(columns, 1); ++r) {
      for (int64_t c = 0; c < columns; ++c) {
        const float x = value_at(t, r * (t.rank > 1 ? t.stride[t.rank - 2] : columns) + c);
        d.broken += std::isfinite(x) ? 0 : 1;
        d.sum += x;
        d.largest = std::max(d.largest, std::fabs(static_cast<double>(x)));
      }
    }
    digests.push_back(d);
  }
  Tensor noted(const char* name, const Tensor& t) {
    note(name, t);
    return t;
  }
  Act noted(const char* name, const Act& a) {
    note(name, a.data);
    if (a.spec.format == ActFormat::kFp8Block) note("scales", a.scales);
    return a;
  }
};

struct Trace {
  std::vector<Digest> digests;
  StepDriver::Generated answer;
};

Trace run_on(Ops& ops, const std::string& directory) {
  auto checkpoint = Checkpoint::open(directory);
  EXPECT_TRUE(checkpoint.is_ok()) << checkpoint.status().to_string();
  DigestOps noted(ops);
  ModelOptions options;
  options.tokens_max = 256;
  auto model = load_model(directory, **checkpoint, noted, {}, options);
  EXPECT_TRUE(model.is_ok()) << model.status().to_string();
  StepDriver driver(noted, **model, {.slots = 8, .tokens_max = 256, .blocks = 40});
  SamplingParams sampling;
  sampling.temperature = 0.0F;
  sampling.max_tokens = 8;
  Trace run;
  run.answer = driver.generate({0, 3568, 383, 1282, 285, 264, 965, 33, 3569, 3564}, sampling);
  run.digests = noted.digests;
  return run;
}

void print_where_they_part(const Trace& cpu, const Trace& gpu) {
  int printed = 0;
  for (size_t i = 0; i < std::min(cpu.digests.size(), gpu.digests.size()) && printed < 40; ++i) {
    const Digest& a = cpu.digests[i];
    const Digest& b = gpu.digests[i];
    const bool near = b.broken == 0 && std::fabs(a.largest - b.largest) <= 0.05 * a.largest + 1e-6;
    if (near && i > 12) continue;
    std::printf("%4zu %-16s cpu sum %.6g max %.6g | %-16s gpu sum %.6g max %.6g broken %ld\n", i,
                a.name.c_str(), a.sum, a.largest, b.name.c_str(), b.sum, b.largest,
                static_cast<long>(b.broken));
    ++printed;
  }
}

class CudaStep : public ::testing::TestWithParam<Numerics> {};

TEST_P(CudaStep, AnswersAsTheOracle) {
  const std::string directory = source_folder(FATHOM_SOURCE_DIR) + "/deploy/demo-model";
  auto cpu_ops = make_cpu_ops({.numerics = GetParam(), .threads = 4, .arena_bytes = 64 << 20});
  const Trace cpu = run_on(*cpu_ops, directory);
  auto made = CudaOps::make({GetParam(), 256 << 20, true});
  ASSERT_TRUE(made.is_ok()) << made.status().to_string();
  const Trace gpu = run_on(**made, directory);
  EXPECT_EQ(cpu.answer.tokens, gpu.answer.tokens);
  if (cpu.answer.tokens != gpu.answer.tokens) print_where_they_part(cpu, gpu);
}

INSTANTIATE_TEST_SUITE_P(Numerics, CudaStep,
                         ::testing::Values(Numerics::kReference, Numerics::kNative));

}  // namespace
}  // namespace fathom::testing
