// Shapes from DeepSeek-V3, V2-Lite and Llama, at the batch sizes that their figures are stated for.
#include "bench_cases.h"

#include "ops/op_builders.h"

namespace fathom::bench {
namespace {

using testing::AttentionRow;
using testing::AttentionShape;
using testing::GqaShape;
using testing::MoeShape;
using testing::OpCase;

constexpr WeightFormat kBF16 = WeightFormat::kBF16;
constexpr WeightFormat kFp8 = WeightFormat::kFp8Block;

AttentionShape decode(const char* name, int32_t heads, std::vector<int32_t> contexts) {
  AttentionShape s;
  s.name = name;
  s.heads = heads;
  for (const int32_t context : contexts) s.rows.push_back({context - 1, 1, 1, false});
  return s;
}

AttentionShape prefill(const char* name, int32_t heads, int32_t context, int32_t query) {
  AttentionShape s;
  s.name = name;
  s.heads = heads;
  s.rows.push_back({context, query, query, true});
  return s;
}

// 100 to 8,192 tokens, spread evenly over the logarithm.
std::vector<int32_t> ragged(int32_t rows) {
  std::vector<int32_t> contexts;
  double context = 100.0;
  for (int32_t i = 0; i < rows; ++i, context *= 1.0353) {
    contexts.push_back(static_cast<int32_t>(context));
  }
  return contexts;
}

MoeShape v2_lite(int64_t tokens) {
  MoeShape s{.name = "V2-Lite", .tokens = tokens, .padding = {}};
  s.hidden = 2048;
  s.intermediate = 1408;
  s.shared_intermediate = 2816;
  s.experts = 64;
  s.experts_per_token = 6;
  s.score = ScoreFunction::kSoftmax;
  s.bias = s.normalize = false;
  s.scale = 1.0F;
  s.distinct_experts = 4;
  return s;
}

void add_linears(std::vector<OpCase>& cases) {
  for (const int64_t rows : {1, 8, 16, 64}) {
    cases.push_back(testing::linear_case({rows, 7168, 16384, kFp8}));
    cases.push_back(testing::linear_case({rows, 2112, 7168, kFp8}));
    cases.push_back(testing::linear_case({rows, 4096, 4096, kFp8}));
    if (rows > 16) continue;
    cases.push_back(testing::linear_case({rows, 4096, 4096, kBF16}));
    cases.push_back(testing::linear_case({rows, 28672, 4096, kBF16}));
  }
  cases.push_back(testing::linear_case({4096, 7168, 2048, kFp8}));
  cases.push_back(testing::linear_case({4096, 4096, 4096, kBF16}));
  cases.push_back(testing::gated_linear_case({1, 10944, 2048, kFp8}, true));
  cases.push_back(testing::gated_linear_case({32, 10944, 2048, kFp8}, true));
  cases.push_back(testing::logits_case({1, 102400, 2048, kBF16}));
  cases.push_back(testing::logits_case({32, 102400, 2048, kBF16}));
}

void add_attention(std::vector<OpCase>& cases) {
  const auto add = [&](const AttentionShape& s) {
    cases.push_back(testing::mla_attention_case(s, Numerics::kNative, MlaForm::kChosen));
  };
  add(decode("decode 1 x 1k", 16, {1024}));
  add(decode("decode 128 x 1k", 16, std::vector<int32_t>(128, 1024)));
  add(decode("decode 128 ragged, 0.1k to 8k", 16, ragged(128)));
  add(decode("decode 64 x 4k", 128, std::vector<int32_t>(64, 4096)));
  add(prefill("prefill 2k", 16, 0, 2048));
}

// Heads of Llama-8B: 32 for queries, 8 for keys and values, of 128.
void add_grouped_attention(std::vector<OpCase>& cases) {
  const auto add = [&](const char* name, int32_t rows, const AttentionRow& row) {
    GqaShape s;
    s.name = name;
    s.rows.assign(static_cast<size_t>(rows), row);
    cases.push_back(testing::gqa_attention_case(s, Numerics::kNative));
  };
  add("decode 1 x 1k", 1, {1023, 1, 1, false});
  add("decode 128 x 1k", 128, {1023, 1, 1, false});
  add("prefill 2k", 1, {0, 2048, 2048, true});
}

}  // namespace

std::vector<OpCase> bench_cases() {
  std::vector<OpCase> cases;
  add_linears(cases);
  add_attention(cases);
  add_grouped_attention(cases);
  for (const int64_t tokens : {1, 8, 32, 128}) {
    cases.push_back(testing::moe_case(v2_lite(tokens), Numerics::kNative));
  }
  for (const int64_t rows : {1, 128}) {
    cases.push_back(testing::reduce_add_norm_case(
        {rows, 7168, Numerics::kNative, ActFormat::kFp8Block, false, 0}));
  }
  cases.push_back(testing::sample_bench_case(128, 129280, false));
  cases.push_back(testing::sample_bench_case(128, 129280, true));
  return cases;
}

}  // namespace fathom::bench
