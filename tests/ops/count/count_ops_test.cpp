// CountOps op by op, against figures worked out by hand.
#include "ops/count/count_ops.h"

#include <gtest/gtest.h>

#include "comm/thread_comm.h"

namespace fathom {
namespace {

HostWeight bf16_weight(int64_t rows, int64_t columns) {
  HostWeight w;
  w.values.view = Tensor::of(nullptr, DType::kBF16, {rows, columns});
  return w;
}

HostWeight fp8_weight(int64_t rows, int64_t columns, int32_t first_row = 0) {
  HostWeight w;
  w.values.view = Tensor::of(nullptr, DType::kF8E4M3, {rows, columns});
  w.first_row_in_block = first_row;
  w.scales = HostTensor{
      Tensor::of(nullptr, DType::kF32, {(first_row + rows + 127) / 128, (columns + 127) / 128}),
      nullptr};
  return w;
}

Act act_of(CountOps& ops, int64_t rows, int64_t columns) {
  Act x;
  x.data = ops.arena().take(ops.act_dtype(), {rows, columns});
  x.spec.format = ops.numerics() == Numerics::kReference ? ActFormat::kF32 : ActFormat::kBF16;
  return x;
}

BatchView batch_of(int32_t decode_rows, int32_t query, int32_t prefill_rows, int32_t prefill,
                   int32_t context) {
  BatchView b;
  b.shape.rows = decode_rows + prefill_rows;
  b.shape.decode_rows = decode_rows;
  b.shape.query_tokens_max = query;
  b.shape.prefill_tokens_max = prefill;
  b.shape.tokens = decode_rows * query + prefill_rows * prefill;
  b.shape.context_tokens_max = context;
  b.shape.sample_rows = decode_rows * query + prefill_rows;
  return b;
}

OpCount line_of(const CountReport& report, std::string_view op) {
  for (const OpCount& line : report.ops) {
    if (line.op == op) return line;
  }
  ADD_FAILURE() << "no line for " << op;
  return {};
}

TEST(CountOps, CountsWeightsAsTheyAreKept) {
  CountOps ops({});
  const Weight bf16 = ops.prepare_linear({bf16_weight(10, 20), bf16_weight(6, 20)}).value();
  EXPECT_EQ(bf16.out(), 16);
  EXPECT_EQ(bf16.in(), 20);
  EXPECT_EQ(ops.report().weight_bytes, 16 * 20 * 2);
  // 200 + 100 rows; the second part starts inside a block: 2 + 2 rows of scales, 3 columns.
  const Weight fp8 = ops.prepare_linear({fp8_weight(200, 300), fp8_weight(100, 300, 60)}).value();
  EXPECT_EQ(fp8.format, WeightFormat::kFp8Block);
  EXPECT_EQ(fp8.scales.shape[0], 4);
  EXPECT_EQ(fp8.scales.shape[1], 3);
  EXPECT_EQ(weight_bytes(fp8), 300 * 300 + 4 * 3 * 4 + 300 * 4);
  EXPECT_EQ(ops.report().weight_bytes, 640 + weight_bytes(fp8));
  const Tensor placed =
      ops.place({Tensor::of(nullptr, DType::kBF16, {7, 3}), nullptr}, DType::kF32).value();
  EXPECT_EQ(placed.shape[1], 3);
  EXPECT_EQ(ops.report().weight_bytes, 640 + weight_bytes(fp8) + 84);
  EXPECT_TRUE(ops.prepare_kv_b(bf16_weight(2 * 32, 8), 2, 16, 16).is_ok());
  EXPECT_EQ(ops.report().weight_bytes, 640 + weight_bytes(fp8) + 84 + 2 * 32 * 8 * 2);
  EXPECT_TRUE(ops.reserve(DType::kI32, {5, 5}).is_ok());
  EXPECT_EQ(ops.report().reserved_bytes, 100);
  EXPECT_EQ(ops.report().flops, 0);
}

// As much as the backend's bounds say, beside the weights; the CPU packs nothing.
TEST(CountOps, CountsPackedCopiesApart) {
  class Bounds final : public ScratchBounds {
   public:
    int64_t rows(int64_t, int64_t) const override { return 0; }
    int64_t product(int64_t, const Weight&) const override { return 0; }
    int64_t gated(int64_t, const Weight&) const override { return 0; }
    int64_t moe(int64_t, int64_t, const ActSpec&, const MoeParams&) const override { return 0; }
    int64_t mla(const BatchView&, const KvView&, const MlaParams&) const override { return 0; }
    int64_t gqa(const BatchView&, const KvView&, const GqaParams&) const override { return 0; }
    int64_t sample(int64_t, int64_t) const override { return 0; }
    int64_t packed(const Weight& weight, bool gated) const override {
      return weight.out() + (gated ? 1000 : 0);
    }
  };
  const Bounds bounds;
  CountOps ops({.scratch = &bounds});
  const Weight w = ops.prepare_linear({bf16_weight(24, 40)}).value();
  const int64_t weight_bytes = ops.report().weight_bytes;
  EXPECT_EQ(ops.report().packed_bytes, 0);
  EXPECT_TRUE(ops.pack_linear(w, false).is_ok());
  EXPECT_TRUE(ops.pack_linear(w, true).is_ok());
  EXPECT_EQ(ops.report().packed_bytes, 24 + 1024);
  EXPECT_EQ(ops.report().weight_bytes, weight_bytes);
  CountOps cpu({});
  EXPECT_TRUE(cpu.pack_linear(w, false).is_ok());
  EXPECT_EQ(cpu.report().packed_bytes, 0);
}

TEST(CountOps, RefusesWhatABackendRefuses) {
  CountOps ops({});
  HostWeight bare = fp8_weight(128, 128);
  bare.scales.reset();
  EXPECT_FALSE(ops.prepare_linear({bare}).is_ok());
  EXPECT_FALSE(ops.prepare_linear({bf16_weight(1, 8), fp8_weight(1, 8)}).is_ok());
  EXPECT_FALSE(ops.prepare_kv_b(bf16_weight(5, 8), 2, 16, 16).is_ok());
}

TEST(CountOps, CountsALinearLayer) {
  CountOps ops({.numerics = Numerics::kNative, .threads = 1});
  const Weight w = ops.prepare_linear({bf16_weight(24, 40)}).value();
  ArenaScope step(ops.arena());
  const Tensor y = ops.linear(act_of(ops, 3, 40), w);
  EXPECT_EQ(y.data, nullptr);
  EXPECT_EQ(y.dtype, DType::kBF16);
  EXPECT_EQ(y.shape[1], 24);
  const CountReport report = ops.report();
  const OpCount line = line_of(report, "linear");
  EXPECT_EQ(line.calls, 1);
  EXPECT_EQ(line.flops, 2 * 3 * 24 * 40);
  EXPECT_EQ(line.bytes_read, 3 * 40 * 2 + 24 * 40 * 2);
  EXPECT_EQ(line.bytes_written, 3 * 24 * 2);
  EXPECT_EQ(report.flops, line.flops);
  EXPECT_EQ(report.bytes, line.bytes_read + line.bytes_written);
}

TEST(CountOps, ActivationsTakeTheFormThatTheWeightWants) {
  CountOps ops({.numerics = Numerics::kNative, .threads = 1});
  const Weight w = ops.prepare_linear({fp8_weight(128, 300)}).value();
  const Tensor x = ops.arena().take(DType::kBF16, {2, 300});
  const Tensor norm_weight = Tensor::of(nullptr, DType::kF32, {300});
  const Act act = ops.norm(x, norm_weight, 1e-6F, ops.act_spec(w));
  EXPECT_EQ(act.data.dtype, DType::kF8E4M3);
  EXPECT_EQ(act.scales.shape[1], 3);
  const CountReport report = ops.report();
  EXPECT_EQ(line_of(report, "norm").bytes_written, 2 * 300 + 2 * 3 * 4);
  CountOps reference({.numerics = Numerics::kReference, .threads = 1});
  EXPECT_EQ(reference.act_spec(w).format, ActFormat::kF32);
}

TEST(CountOps, GatedLinearWritesHalfItsRows) {
  CountOps ops({.numerics = Numerics::kReference, .threads = 1});
  const Weight w = ops.prepare_linear({bf16_weight(16, 4), bf16_weight(16, 4)}).value();
  const Act y = ops.gated_linear(act_of(ops, 5, 4), w, ActSpec{});
  EXPECT_EQ(y.data.shape[1], 16);
  const CountReport report = ops.report();
  EXPECT_EQ(report.flops, 2 * 5 * 4 * 32 + 5 * 5 * 16);
  EXPECT_EQ(line_of(report, "gated_linear").bytes_written, 5 * 16 * 4);
}

TEST(CountOps, SumsOverAGroupAreCommunication) {
  auto group = make_thread_group(4);
  CountOps ops({.numerics = Numerics::kReference, .threads = 1});
  const Tensor residual = ops.arena().take(DType::kF32, {2, 8});
  const Partial partial{ops.arena().take(DType::kF32, {2, 8})};
  const Tensor weight = Tensor::of(nullptr, DType::kF32, {8});
  ops.reduce_add_norm(partial, residual, weight, 1e-6F, ActSpec{}, group[0].get());
  ops.reduce_add_norm({}, residual, weight, 1e-6F, ActSpec{}, group[0].get());
  ops.reduce_add(partial, residual, nullptr);
  const CountReport report = ops.report();
  EXPECT_EQ(line_of(report, "reduce_add_norm").comm_bytes, 64);
  EXPECT_EQ(line_of(report, "reduce_add_norm").flops, (5 + 4) * 16);
  EXPECT_EQ(line_of(report, "reduce_add").comm_bytes, 0);
  const Weight head = ops.prepare_linear({bf16_weight(25, 8)}).value();
  const Tensor logits = ops.logits(act_of(ops, 3, 8), head, group[0].get());
  EXPECT_EQ(logits.shape[1], 100);
  EXPECT_EQ(line_of(ops.report(), "logits").comm_bytes, 3 * 100 * 4);
}

MlaParams mla() {
  MlaParams p;
  p.heads = 4;
  p.nope_dims = 16;
  p.rope_dims = 8;
  p.value_dims = 12;
  p.kv_lora = 32;
  p.up.key = Tensor::of(nullptr, DType::kF32, {4, 16, 32});
  p.up.value = Tensor::of(nullptr, DType::kF32, {4, 12, 32});
  return p;
}

int64_t attention_flops(const BatchView& batch, MlaForm form) {
  CountOps ops({.numerics = Numerics::kNative, .threads = 1});
  const MlaParams p = mla();
  KvView cache;
  cache.cache = Tensor::of(nullptr, DType::kBF16, {10, 64, 40});
  const Tensor q = Tensor::of(nullptr, DType::kBF16, {batch.shape.tokens, 4 * 24});
  const Tensor kv = Tensor::of(nullptr, DType::kBF16, {batch.shape.tokens, 40});
  const Act out = ops.mla_attention(batch, cache, q, kv, p, form);
  EXPECT_EQ(out.data.shape[1], 48);
  return ops.report().flops - 4 * batch.shape.tokens * 32;  // without the latent's norm
}

TEST(CountOps, AttentionIsAbsorbedForDecodeAndTheCheaperFormForPrefill) {
  // Two decode rows at context 100: per token and head 2 (16 + 12) 32 for the projections and
  // 2 * 100 pairs * (2 * 32 + 8).
  const int64_t decode = 2 * 4 * (2 * 28 * 32 + 2 * 100 * 72);
  EXPECT_EQ(attention_flops(batch_of(2, 1, 0, 0, 100), MlaForm::kChosen), decode);
  EXPECT_EQ(attention_flops(batch_of(2, 1, 0, 0, 100), MlaForm::kAbsorbed), decode);
  // One prefill row of 10 tokens at context 10: 55 causal pairs.
  const int64_t prefill = 4 * (2 * 10 * 32 * 28 + 2 * 55 * (16 + 8 + 12));
  EXPECT_EQ(attention_flops(batch_of(0, 0, 1, 10, 10), MlaForm::kChosen), prefill);
  EXPECT_EQ(attention_flops(batch_of(0, 0, 1, 10, 10), MlaForm::kNaive), prefill);
  EXPECT_EQ(attention_flops(batch_of(0, 0, 1, 10, 10), MlaForm::kAbsorbed),
            4 * (10 * 2 * 28 * 32 + 2 * 55 * 72));
  // Both at once, both at the longest context; few tokens read the latents as they are.
  EXPECT_EQ(attention_flops(batch_of(2, 1, 1, 60, 100), MlaForm::kChosen),
            decode + 4 * (2 * 100 * 32 * 28 + 2 * 4230 * 36));
  EXPECT_EQ(attention_flops(batch_of(2, 1, 1, 10, 100), MlaForm::kChosen),
            decode + 4 * (10 * 2 * 28 * 32 + 2 * 955 * 72));
}

TEST(CountOps, AttentionReadsEachRowsCacheOnce) {
  CountOps ops({.numerics = Numerics::kNative, .threads = 1});
  const BatchView batch = batch_of(3, 2, 0, 0, 50);
  KvView cache;
  cache.cache = Tensor::of(nullptr, DType::kBF16, {10, 64, 40});
  const Tensor q = Tensor::of(nullptr, DType::kBF16, {6, 96});
  const Tensor kv = Tensor::of(nullptr, DType::kBF16, {6, 40});
  ops.mla_attention(batch, cache, q, kv, mla(), MlaForm::kChosen);
  const CountReport report = ops.report();
  const OpCount line = line_of(report, "mla_attention");
  const int64_t up = 4 * 28 * 32 * 4;
  EXPECT_EQ(line.bytes_read, 6 * 96 * 2 + 6 * 40 * 2 + 3 * 50 * 40 * 2 + up);
  EXPECT_EQ(line.bytes_written, 6 * 40 * 2 + 6 * 48 * 4);  // cache entries, and f32 as p.out says
}

MoeParams moe(CountOps& ops, int experts_here) {
  MoeParams p;
  p.experts = 8;
  p.experts_per_token = 2;
  p.router = Tensor::of(nullptr, DType::kF32, {8, 16});
  for (int i = 0; i < experts_here; ++i) {
    p.gate_up.push_back(ops.prepare_linear({bf16_weight(24, 16)}).value());
    p.down.push_back(ops.prepare_linear({bf16_weight(16, 12)}).value());
  }
  return p;
}

TEST(CountOps, MoeCountsThisRanksShareOfTheChoices) {
  constexpr int64_t kExpertBytes = (24 * 16 + 16 * 12) * 2;
  constexpr int64_t kExpertFlops = 6 * 16 * 12;
  for (const int here : {8, 4, 0}) {
    CountOps ops({.numerics = Numerics::kNative, .threads = 1});
    const MoeParams p = moe(ops, here);
    const BatchView batch = batch_of(3, 1, 0, 0, 10);
    const Tensor out = ops.arena().take(DType::kBF16, {3, 16});
    ops.moe(batch, act_of(ops, 3, 16), p, out);
    const CountReport report = ops.report();
    EXPECT_EQ(report.flops, 2 * 3 * 16 * 8 + 6 * kExpertFlops * here / 8);
    EXPECT_EQ(line_of(report, "moe").bytes_read,
              3 * 16 * 2 + 8 * 16 * 4 + std::min(here, 6) * kExpertBytes);
  }
}

TEST(CountOps, SharedExpertRunsForEveryToken) {
  CountOps ops({.numerics = Numerics::kNative, .threads = 1});
  MoeParams p = moe(ops, 8);
  const BatchView batch = batch_of(3, 1, 0, 0, 10);
  const auto flops = [&] {
    ops.reset_steps();
    EXPECT_EQ(ops.report().flops, 0);
    ArenaScope step(ops.arena());
    const Tensor out = ops.arena().take(DType::kBF16, {3, 16});
    ops.moe(batch, act_of(ops, 3, 16), p, out);
    return ops.report().flops;
  };
  const int64_t without = flops();
  p.shared_gate_up = ops.prepare_linear({bf16_weight(40, 16)}).value();
  p.shared_down = ops.prepare_linear({bf16_weight(16, 20)}).value();
  EXPECT_EQ(flops(), without + 3 * 6 * 16 * 20);
}

TEST(CountOps, ThePeakOutlivesTheScopes) {
  CountOps ops({.numerics = Numerics::kReference, .threads = 2});
  const Weight w = ops.prepare_linear({bf16_weight(64, 64)}).value();
  {
    ArenaScope step(ops.arena());
    const Act x = act_of(ops, 4, 64);
    for (int i = 0; i < 3; ++i) {
      ArenaScope layer(ops.arena());
      ops.linear(x, w);
    }
  }
  EXPECT_EQ(ops.arena().used(), 0);
  const int64_t peak = ops.report().arena_peak_bytes;
  EXPECT_GE(peak, 2 * 4 * 64 * 4);
  ops.reset_steps();
  EXPECT_EQ(ops.report().arena_peak_bytes, 0);
  EXPECT_GT(ops.report().weight_bytes, 0);
}

TEST(CountOps, TokensCountBytes) {
  CountOps ops({});
  const BatchView batch = batch_of(2, 1, 0, 0, 10);
  SlotTable slots;
  slots.limits.vocab_padded = 100;
  SampleOutput out;
  out.accepted = Tensor::of(nullptr, DType::kI32, {2});
  const Tensor logits = Tensor::of(nullptr, DType::kF32, {2, 100});
  ops.sample(slots, batch, logits, {}, out);
  EXPECT_EQ(ops.report().flops, 200);
  EXPECT_EQ(line_of(ops.report(), "sample").bytes_written, 8);
  EXPECT_EQ(ops.next_tokens(slots, batch).shape[0], 2);
  EXPECT_EQ(ops.last_accepted(batch, out).shape[0], 2);
  const Tensor index = Tensor::of(nullptr, DType::kI32, {5});
  EXPECT_EQ(ops.gather_rows(Tensor::of(nullptr, DType::kBF16, {9, 7}), index).shape[0], 5);
}

}  // namespace
}  // namespace fathom
