// Where a tiny checkpoint's numbers on CUDA and on the CPU part: each op's output of one prompt, op
// by op, and the experts that each chose. A diagnostic, not a test; without a GPU it shows what
// the CPU's two forms of latent attention and single bf16 steps do to each model.
//
//   cuda_family_diff [--no-gpu] [NAME...]
#include <algorithm>
#include <cmath>
#include <cstdio>
#include <cstring>

#include "base/float_formats.h"
#include "model/family_golden.h"
#include "ops/cpu/cpu_ops.h"
#include "ops/cpu/router.h"
#include "ops/cuda/cuda_ops.h"
#include "support/forward_ops.h"
#include "support/step_driver.h"
#include "weights/synthetic.h"

namespace fathom::testing {
namespace {

constexpr int64_t kArenaBytes = int64_t{256} << 20;

// What an op wrote, or the experts that a layer's tokens chose.
struct Written {
  std::string name;
  int64_t columns = 0;
  std::vector<float> values;
};

float value_at(const Tensor& t, int64_t at) {
  switch (t.dtype) {
    case DType::kF32: return t.as<float>()[at];
    case DType::kBF16: return bf16_to_float(t.as<uint16_t>()[at]);
    case DType::kF8E4M3: return e4m3_to_float(t.as<uint8_t>()[at]);
    default: return 0.0F;
  }
}

class TraceOps final : public ForwardOps {
 public:
  // steps_of: one bf16 number of so many that linear layers write is moved by a step; 0: none.
  TraceOps(Ops& inner, uint32_t steps_of) : ForwardOps(inner), steps_of_(steps_of) {}

  Act norm(const Tensor& x, const Tensor& w, float e, ActSpec o) override {
    return noted("norm", inner_.norm(x, w, e, o));
  }
  Act reduce_add_norm(const Partial& p, const Tensor& r, const Tensor& w, float e, ActSpec o,
                      Comm* g) override {
    const Act act = inner_.reduce_add_norm(p, r, w, e, o, g);
    note("residual", r, {});
    return noted("reduce_add_norm", act);
  }
  Tensor linear(const Act& x, const Weight& w) override {
    return moved("linear", inner_.linear(x, w));
  }
  Partial linear_partial(const Act& x, const Weight& w, const Tensor& o) override {
    const Partial p = inner_.linear_partial(x, w, o);
    moved("linear_partial", p.data);
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
    note("moe", r.data, {});
    note_choices(x.data, p);
    return r;
  }
  Tensor logits(const Act& x, const Weight& h, Comm* g) override {
    const Tensor out = inner_.logits(x, h, g);
    note("logits", out, {});
    return out;
  }

  void sample(const SlotTable& s, const BatchView& b, const Tensor& l,
              const std::vector<TokenId>& e, SampleOutput& o) override {
    inner_.sample(s, b, l, e, o);
    FATHOM_CHECK(inner_.synchronize().is_ok(), "a step failed");
  }

  std::vector<Written> written;

 private:
  void note(const char* name, const Tensor& t, const Tensor& scales) {
    FATHOM_CHECK(inner_.synchronize().is_ok(), "a step failed");
    Written w{name, t.shape[1], {}};
    for (int64_t r = 0; r < t.shape[0]; ++r) {
      for (int64_t c = 0; c < w.columns; ++c) {
        const float scale =
            scales.defined() ? scales.as<float>()[r * scales.stride[0] + c / 128] : 1.0F;
        w.values.push_back(value_at(t, r * t.stride[0] + c) * scale);
      }
    }
    written.push_back(std::move(w));
  }
  Act noted(const char* name, const Act& a) {
    note(name, a.data, a.spec.format == ActFormat::kFp8Block ? a.scales : Tensor{});
    return a;
  }
  Tensor moved(const char* name, const Tensor& t) {
    if (steps_of_ > 0 && t.dtype == DType::kBF16) {
      for (int64_t i = 0; i < t.elements(); ++i) {
        state_ = state_ * 1664525U + 1013904223U;
        if ((state_ >> 8) % steps_of_ == 0) t.as<uint16_t>()[i] += 1;
      }
    }
    note(name, t, {});
    return t;
  }
  // As sets: one row of zeros and ones a token.
  void note_choices(const Tensor& x, const MoeParams& p) {
    Written w{"experts", p.experts, {}};
    std::vector<float> scores(p.experts);
    std::vector<float> scratch(route_scratch_floats(p));
    std::vector<int32_t> ids(p.experts_per_token);
    std::vector<float> weights(p.experts_per_token);
    for (int64_t t = 0; t < x.shape[0]; ++t) {
      for (int32_t e = 0; e < p.experts; ++e) {
        float sum = 0.0F;
        for (int64_t c = 0; c < x.shape[1]; ++c) {
          sum += value_at(x, t * x.stride[0] + c) * p.router.as<float>()[e * x.shape[1] + c];
        }
        scores[e] = sum;
      }
      route(p, scores.data(), scratch.data(), ids.data(), weights.data());
      std::vector<float> chosen(p.experts, 0.0F);
      for (const int32_t id : ids) chosen[id] = 1.0F;
      w.values.insert(w.values.end(), chosen.begin(), chosen.end());
    }
    written.push_back(std::move(w));
  }

  const uint32_t steps_of_;
  uint32_t state_ = 1;
};

std::vector<Written> trace(Ops& ops, const std::string& name, MlaForm form, uint32_t steps_of) {
  const std::string directory = families_directory() + "/" + name;
  const FamilyGolden golden = read_family_golden(name);
  const auto weights = SyntheticSource::open(directory, golden.seed, false).value();
  TraceOps traced(ops, steps_of);
  ModelOptions options;
  options.tokens_max = 128;
  options.mla_form = form;
  const auto model = load_model(directory, *weights, traced, {}, options).value();
  StepDriver driver(traced, *model, {.slots = 4, .tokens_max = 128, .blocks = 12});
  SamplingParams sampling;
  sampling.temperature = 0.0F;
  sampling.max_tokens = 1;
  sampling.prompt_logprobs = true;
  sampling.ignore_eos = true;
  std::vector<TokenId> tokens = golden.prompt;
  tokens.insert(tokens.end(), golden.greedy.begin(), golden.greedy.end());
  driver.generate(tokens, sampling);
  return traced.written;
}

struct Difference {
  double all = 0.0;    // root of the mean square, over that of the values
  double usual = 0.0;  // the same of the row that three of four stay below
  int64_t first = -1;  // row that differs at all
};

Difference difference(const Written& a, const Written& b) {
  Difference found;
  double difference = 0.0;
  double size = 0.0;
  std::vector<double> rows;
  const auto count = static_cast<int64_t>(a.values.size()) / std::max<int64_t>(a.columns, 1);
  for (int64_t r = 0; r < count; ++r) {
    double d = 0.0;
    double s = 0.0;
    for (int64_t i = r * a.columns; i < (r + 1) * a.columns; ++i) {
      const double delta = a.values[i] - b.values[i];
      d += delta * delta;
      s += double{a.values[i]} * a.values[i];
    }
    if (d > 0 && found.first < 0) found.first = r;
    rows.push_back(std::sqrt(d / std::max(s, 1e-30)));
    difference += d;
    size += s;
  }
  std::sort(rows.begin(), rows.end());
  found.all = std::sqrt(difference / std::max(size, 1e-30));
  found.usual = rows.empty() ? 0.0 : rows[rows.size() * 3 / 4];
  return found;
}

void print(const char* what, const std::vector<Written>& a, const std::vector<Written>& b) {
  std::printf("  %s\n", what);
  for (size_t i = 0; i < std::min(a.size(), b.size()) && !a[i].values.empty(); ++i) {
    if (a[i].values.size() != b[i].values.size()) {
      std::printf("   %3zu %s against %s: other sizes\n", i, a[i].name.c_str(), b[i].name.c_str());
      return;
    }
    const Difference d = difference(a[i], b[i]);
    if (a[i].name == "experts") {
      int otherwise = 0;
      for (size_t k = 0; k < a[i].values.size(); ++k) otherwise += a[i].values[k] > b[i].values[k];
      std::printf("   %3zu experts: %d of %zu rows' choices otherwise\n", i, otherwise,
                  a[i].values.size() / static_cast<size_t>(a[i].columns));
      continue;
    }
    std::printf("   %3zu %-16s %5ld columns: rms %.2e, usual %.2e, first row %ld\n", i,
                a[i].name.c_str(), static_cast<long>(a[i].columns), d.all, d.usual,
                static_cast<long>(d.first));
  }
}

void compare(const std::string& name, bool gpu) {
  std::printf("%s\n", name.c_str());
  const auto on_cpu = [&](MlaForm form, uint32_t steps_of) {
    const auto ops = make_cpu_ops({Numerics::kNative, 2, kArenaBytes});
    return trace(*ops, name, form, steps_of);
  };
  const std::vector<Written> chosen = on_cpu(MlaForm::kChosen, 0);
  const std::vector<Written> naive = on_cpu(MlaForm::kNaive, 0);
  if (!gpu) {
    print("CPU: naive against absorbed", chosen, naive);
    print("CPU: one bf16 number of 30 moved by a step", naive, on_cpu(MlaForm::kNaive, 30));
    print("CPU: one bf16 number of 3,000 moved by a step", naive, on_cpu(MlaForm::kNaive, 3000));
    return;
  }
  const auto ops = CudaOps::make({Numerics::kNative, kArenaBytes, true}).value();
  const std::vector<Written> cuda = trace(*ops, name, MlaForm::kChosen, 0);
  print("CUDA against CPU, the GPU's form", naive, cuda);
  print("CUDA against CPU, absorbed", chosen, cuda);
}

}  // namespace
}  // namespace fathom::testing

int main(int argc, char** argv) {
  bool gpu = true;
  std::vector<std::string> names;
  for (int i = 1; i < argc; ++i) {
    if (std::strcmp(argv[i], "--no-gpu") == 0) {
      gpu = false;
    } else {
      names.emplace_back(argv[i]);
    }
  }
  if (names.empty()) names = fathom::testing::family_names();
  for (const std::string& name : names) fathom::testing::compare(name, gpu);
  return 0;
}
