// Prefill attention on one GPU: correctness against double sums on the host (samples, padding, NaN
// past the rows' ends, equal bits however an MLA context is sliced), then the median time of a call
// and its TFLOPS: flops of the (query, key) pairs that causality allows. Prints one JSON object a
// line.
//
//   prefill_bench [part of a case's name]
#include <cuda_bf16.h>
#include <cuda_runtime.h>

#include <algorithm>
#include <cmath>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <memory>
#include <random>
#include <string>
#include <vector>

#include "attention/bench_device.cuh"
#include "kernels/prefill_attention.h"

namespace fathom::kernels {
namespace {

using bench::check;
using bench::Device;
using bench::fill_random;

constexpr int kRounds = 21;
constexpr int kLatent = 512;
constexpr int kRope = 64;

using Numbers = Device<__nv_bfloat16>;

std::unique_ptr<Numbers> random_numbers(size_t n, uint64_t seed, float spread) {
  auto numbers = std::make_unique<Numbers>(n);
  fill_random<<<1024, 256>>>(numbers->data, n, seed << 40, spread);
  check(cudaDeviceSynchronize(), "fill");
  return numbers;
}

struct Row {
  int32_t context = 0;
  int32_t query = 0;
  int32_t bound = 0;  // of a decode row: its tokens, which are left alone
  bool prefill = true;
};

struct Case {
  std::string name;
  int32_t heads = 0;
  int32_t kv_heads = 0;  // 0: MLA
  int32_t head_dims = 128;
  std::vector<Row> rows;
  int64_t slice_bytes = kPrefillSliceBytes;
  double must = 0.0;
  double goal = 0.0;
  bool timed = true;
  bool across = false;  // layout of the keys' up-projection
};

struct Setup {
  explicit Setup(const Case& c);
  void place_rows();
  void place_numbers();

  bool mla() const { return c.kv_heads == 0; }
  int32_t entry() const { return mla() ? kLatent + kRope : 2 * c.kv_heads * c.head_dims; }
  int32_t value_dims() const { return mla() ? 128 : c.head_dims; }
  int32_t key_dims() const { return mla() ? 192 : c.head_dims; }
  void run(cudaStream_t stream, const MlaPrefillPlan& plan);

  Case c;
  std::vector<int32_t> table, slot, first{0}, query, context;
  int32_t blocks_max = 0, begin = -1;
  int64_t tokens = 0, blocks = 1;
  double pairs = 0.0;  // (query, key)
  std::unique_ptr<Numbers> queries, rope_queries, cache, up_key, up_value, out, expanded;
  std::unique_ptr<Device<int32_t>> table_d, slot_d, first_d, query_d, context_d;
  std::unique_ptr<Device<float>> carry;
  PrefillRows rows;
  GqaPrefillDesc gqa;
  MlaPrefillDesc latent;
  MlaPrefillPlan plan;  // one slice when that fits the memory of the case
  float scale = 0.0F;
};

Setup::Setup(const Case& one) : c(one) {
  place_rows();
  place_numbers();
}

void Setup::place_rows() {
  const auto count = static_cast<int32_t>(c.rows.size());
  const auto blocks_of = [](const Row& r) { return (r.context + r.query + 63) / 64; };
  for (const Row& r : c.rows) blocks_max = std::max(blocks_max, blocks_of(r) + 1);
  table.assign(static_cast<size_t>(count + 1) * blocks_max, 0);
  std::vector<int32_t> order;
  int64_t all = 0;
  for (const Row& r : c.rows) all += blocks_of(r);
  for (int32_t b = 1; b <= all; ++b) order.push_back(b);
  std::shuffle(order.begin(), order.end(), std::mt19937(7));
  blocks = all + 1;
  size_t at = 0;
  for (int32_t r = 0; r < count; ++r) {
    const Row& row = c.rows[r];
    slot.push_back(count - r);
    query.push_back(row.query);
    context.push_back(row.context);
    tokens += row.bound;
    first.push_back(static_cast<int32_t>(tokens));
    if (row.prefill && begin < 0) begin = r;
    for (int32_t b = 0; b < blocks_of(row); ++b)
      table[static_cast<size_t>(slot[r]) * blocks_max + b] = order[at++];
    if (row.prefill) pairs += double(row.query) * (row.context + (row.query + 1) / 2.0);
  }
}

void Setup::place_numbers() {
  const auto count = static_cast<int32_t>(c.rows.size());
  cache = random_numbers(static_cast<size_t>(blocks) * 64 * entry(), 1, 1.0F);
  // What an earlier sequence may have left past a row's end.
  for (int32_t r = 0; r < count; ++r) {
    const int32_t end = context[r] + query[r];
    if (end % 64 == 0) continue;
    const int64_t block = table[static_cast<size_t>(slot[r]) * blocks_max + end / 64];
    check(cudaMemset(cache->data + (block * 64 + end % 64) * entry(), 0xFF,
                     static_cast<size_t>(64 - end % 64) * entry() * 2),
          "poison");
  }
  check(cudaMemset(cache->data, 0xFF, static_cast<size_t>(64) * entry() * 2), "poison block 0");
  queries = random_numbers(static_cast<size_t>(tokens) * c.heads * key_dims(), 2, 1.5F);
  out = std::make_unique<Numbers>(static_cast<size_t>(tokens) * c.heads * value_dims());
  table_d = std::make_unique<Device<int32_t>>(table);
  slot_d = std::make_unique<Device<int32_t>>(slot);
  first_d = std::make_unique<Device<int32_t>>(first);
  query_d = std::make_unique<Device<int32_t>>(query);
  context_d = std::make_unique<Device<int32_t>>(context);
  rows = {begin,         count,           slot_d->data,  first_d->data,
          query_d->data, context_d->data, table_d->data, blocks_max};
  scale = 1.0F / std::sqrt(static_cast<float>(key_dims()));
  gqa = {c.heads, c.kv_heads, c.head_dims, 64, true};
  latent.rows = count - begin;
  latent.tokens = tokens - first[begin];
  for (int32_t r = 0; r < count; ++r)
    latent.context_tokens_max = std::max(latent.context_tokens_max, context[r] + query[r]);
  latent.heads = c.heads;
  plan = plan_mla_prefill(latent, c.slice_bytes);
  if (!mla()) return;
  rope_queries = random_numbers(static_cast<size_t>(tokens) * c.heads * kRope, 3, 1.5F);
  up_key = random_numbers(static_cast<size_t>(c.heads) * 128 * kLatent, 4, 0.044F);
  up_value = random_numbers(static_cast<size_t>(c.heads) * 128 * kLatent, 5, 0.044F);
  expanded = std::make_unique<Numbers>(plan.expanded_numbers());
  carry = std::make_unique<Device<float>>(plan.carry_floats());
}

MlaPrefillCall mla_call(Setup& s, const MlaPrefillPlan& plan) {
  MlaPrefillCall call;
  call.rows = s.rows;
  call.tokens = s.tokens;
  call.queries = s.queries->data;
  call.query_stride = int64_t{s.c.heads} * 192;
  call.rope_queries = s.rope_queries->data;
  call.cache = s.cache->data;
  call.blocks = s.blocks;
  call.up_key = s.up_key->data;
  call.up_key_across = s.c.across;
  call.up_value = s.up_value->data;
  call.softmax_scale = s.scale;
  call.out.data = s.out->data;
  call.out.format = Format::kBF16;
  call.out.stride = int64_t{s.c.heads} * 128;
  if (s.expanded->count < static_cast<size_t>(plan.expanded_numbers()))
    s.expanded = std::make_unique<Numbers>(plan.expanded_numbers());
  if (s.carry->count < static_cast<size_t>(plan.carry_floats()))
    s.carry = std::make_unique<Device<float>>(plan.carry_floats());
  call.expanded = s.expanded->data;
  call.carry = s.carry->data;
  return call;
}

void Setup::run(cudaStream_t stream, const MlaPrefillPlan& how) {
  if (mla()) {
    check(mla_prefill(stream, latent, how, mla_call(*this, how)), "mla_prefill");
    return;
  }
  GqaPrefillCall call;
  call.rows = rows;
  call.tokens = tokens;
  call.query_tiles = prefill_tiles_max(latent.rows, latent.tokens);
  call.queries = queries->data;
  call.cache = cache->data;
  call.blocks = blocks;
  call.softmax_scale = scale;
  call.out.data = out->data;
  call.out.format = Format::kBF16;
  call.out.stride = int64_t{c.heads} * c.head_dims;
  check(gqa_prefill(stream, gqa, call), "gqa_prefill");
}

float as_float(uint16_t bits) {
  const uint32_t word = static_cast<uint32_t>(bits) << 16;
  float x;
  std::memcpy(&x, &word, sizeof x);
  return x;
}

std::vector<float> some(const Numbers& from, size_t at, size_t n) {
  std::vector<uint16_t> bits(n);
  check(cudaMemcpy(bits.data(), from.data + at, n * 2, cudaMemcpyDeviceToHost), "some");
  std::vector<float> out(n);
  for (size_t i = 0; i < n; ++i) out[i] = as_float(bits[i]);
  return out;
}

// The entries that a query sees, in order.
std::vector<float> entries_of(Setup& s, int32_t row, int32_t visible) {
  std::vector<float> all;
  for (int32_t b = 0; b < (visible + 63) / 64; ++b) {
    const int64_t block = s.table[static_cast<size_t>(s.slot[row]) * s.blocks_max + b];
    const auto page = some(*s.cache, block * 64 * s.entry(), size_t{64} * s.entry());
    all.insert(all.end(), page.begin(), page.end());
  }
  return all;
}

// Softmax-weighted values of one (query, head), MLA in absorbed form: the same but for rounding.
std::vector<double> exact(Setup& s, int32_t row, int32_t i, int32_t head) {
  const int32_t visible = s.context[row] + i + 1;
  const auto entries = entries_of(s, row, visible);
  const int64_t t = s.first[row] + i;
  const auto q = some(*s.queries, (t * s.c.heads + head) * s.key_dims(), s.key_dims());
  std::vector<double> key(q.begin(), q.end());
  size_t key_at = 0, value_at = 0, values = s.c.head_dims;
  std::vector<float> up;
  if (s.mla()) {
    const auto rope = some(*s.rope_queries, (t * s.c.heads + head) * kRope, kRope);
    up = some(*s.up_key, size_t(head) * 128 * kLatent, size_t{128} * kLatent);
    key.assign(kLatent + kRope, 0.0);
    for (int d = 0; d < 128; ++d)
      for (int k = 0; k < kLatent; ++k)
        key[k] += double{q[d]} * (s.c.across ? up[k * 128 + d] : up[d * kLatent + k]);
    for (int k = 0; k < kRope; ++k) key[kLatent + k] = rope[k];
    values = kLatent;
  } else {
    key_at = size_t(head / (s.c.heads / s.c.kv_heads)) * s.c.head_dims;
    value_at = size_t(s.c.kv_heads) * s.c.head_dims + key_at;
  }
  std::vector<double> scores(visible, 0.0);
  for (int32_t n = 0; n < visible; ++n)
    for (size_t k = 0; k < key.size(); ++k)
      scores[n] += key[k] * entries[size_t(n) * s.entry() + key_at + k];
  const double most = *std::max_element(scores.begin(), scores.end());
  double total = 0.0;
  std::vector<double> sums(values, 0.0);
  for (int32_t n = 0; n < visible; ++n) {
    const double w = std::exp((scores[n] - most) * s.scale);
    total += w;
    for (size_t k = 0; k < values; ++k)
      sums[k] += w * entries[size_t(n) * s.entry() + value_at + k];
  }
  for (double& x : sums) x /= total;
  if (!s.mla()) return sums;
  up = some(*s.up_value, size_t(head) * 128 * kLatent, size_t{128} * kLatent);
  std::vector<double> projected(128, 0.0);
  for (int d = 0; d < 128; ++d)
    for (int k = 0; k < kLatent; ++k) projected[d] += sums[k] * up[d * kLatent + k];
  return projected;
}

// Largest ||out - exact|| / ||exact|| of samples: the ends of every row, and some between.
double largest_error(Setup& s) {
  std::mt19937 random(11);
  double worst = 0.0;
  for (size_t r = s.begin; r < s.c.rows.size(); ++r) {
    std::vector<int32_t> samples;
    if (s.query[r] == 0) continue;
    for (const int32_t i : {0, 63, 64, 127, 128, s.query[r] / 2, s.query[r] - 1})
      if (i < s.query[r] && (s.context[r] + i < 20000 || i == 64)) samples.push_back(i);
    for (const int32_t i : samples) {
      const auto head = static_cast<int32_t>(random() % s.c.heads);
      const auto expected = exact(s, static_cast<int32_t>(r), i, head);
      const auto got = some(*s.out, ((s.first[r] + i) * int64_t{s.c.heads} + head) * s.value_dims(),
                            s.value_dims());
      double error = 0.0, size = 0.0;
      for (size_t k = 0; k < got.size(); ++k) {
        error += (got[k] - expected[k]) * (got[k] - expected[k]);
        size += expected[k] * expected[k];
      }
      const double relative = std::sqrt(error / size);
      if (!(relative < 1e-2))
        std::printf("{\"wrong\": \"row %zu query %d head %d\", \"error\": %.3e}\n", r, i, head,
                    relative);
      worst = std::isnan(relative) || std::isnan(worst) ? NAN : std::max(worst, relative);
    }
  }
  return worst;
}

// Padding is zero, decode rows' tokens are as they were (0xFFFF), no other number is not finite.
bool rest_is_right(Setup& s, const std::vector<uint16_t>& out) {
  const int64_t columns = int64_t{s.c.heads} * s.value_dims();
  for (size_t r = 0; r < s.c.rows.size(); ++r) {
    for (int32_t i = 0; i < s.c.rows[r].bound; ++i) {
      for (int64_t k = 0; k < columns; ++k) {
        const uint16_t x = out[(s.first[r] + i) * columns + k];
        const bool right = !s.c.rows[r].prefill ? x == 0xFFFF
                           : i >= s.query[r]    ? x == 0
                                                : std::isfinite(as_float(x));
        if (!right) {
          std::printf("{\"wrong\": \"row %zu token %d column %lld\", \"bits\": %u}\n", r, i,
                      static_cast<long long>(k), x);
          return false;
        }
      }
    }
  }
  return true;
}

std::vector<uint16_t> run_once(cudaStream_t stream, Setup& s, const MlaPrefillPlan& plan) {
  check(cudaMemset(s.out->data, 0xFF, s.out->count * 2), "poison");
  if (s.carry) check(cudaMemset(s.carry->data, 0xFF, s.carry->count * 4), "poison");
  check(cudaDeviceSynchronize(), "poison");  // the stream does not wait for the default one
  s.run(stream, plan);
  check(cudaStreamSynchronize(stream), s.c.name.c_str());
  const auto values = s.out->host();
  std::vector<uint16_t> out(values.size());
  std::memcpy(out.data(), values.data(), values.size() * 2);
  return out;
}

template <typename Launch>
double median_us(cudaStream_t stream, Launch&& launch) {
  cudaEvent_t begin = nullptr;
  cudaEvent_t end = nullptr;
  check(cudaEventCreate(&begin), "event");
  check(cudaEventCreate(&end), "event");
  std::vector<float> times;
  for (int i = 0; i < kRounds + 3; ++i) {
    check(cudaEventRecord(begin, stream), "record");
    launch();
    check(cudaEventRecord(end, stream), "record");
    check(cudaEventSynchronize(end), "run");
    float ms = 0.0F;
    check(cudaEventElapsedTime(&ms, begin, end), "elapsed");
    if (i >= 3) times.push_back(ms);
  }
  cudaEventDestroy(begin);
  cudaEventDestroy(end);
  std::sort(times.begin(), times.end());
  return times[times.size() / 2] * 1e3;
}

// The halves of an MLA call, apart.
void time_parts(cudaStream_t stream, Setup& s) {
  const MlaPrefillCall call = mla_call(s, s.plan);
  const auto each = [&](auto&& f) {
    return median_us(stream, [&] {
      for (int32_t head = 0; head < s.c.heads; head += s.plan.heads)
        for (int32_t slice = 0; slice < s.plan.slices; ++slice) check(f(head, slice), "part");
    });
  };
  const double expand_us = each([&](int32_t head, int32_t slice) {
    return mla_prefill_expand(stream, s.latent, s.plan, call, {head, slice});
  });
  const double attend_us = each([&](int32_t head, int32_t slice) {
    return mla_prefill_attend(stream, s.latent, s.plan, call, {head, slice});
  });
  double keys = 0.0;
  for (size_t r = s.begin; r < s.c.rows.size(); ++r) keys += s.context[r] + s.query[r];
  std::printf(
      "{\"case\": \"%s\", \"attend_us\": %.1f, \"attend_tflops\": %.0f, \"expand_us\": %.1f, "
      "\"expand_tflops\": %.0f, \"slices\": %d}\n",
      s.c.name.c_str(), attend_us, s.pairs * s.c.heads * 640 / attend_us / 1e6, expand_us,
      keys * s.c.heads * 256 * kLatent * 2 / expand_us / 1e6, s.plan.slices);
}

bool run_case(cudaStream_t stream, const Case& c) {
  Setup s(c);
  const auto out = run_once(stream, s, s.plan);
  const double error = largest_error(s);
  bool right = rest_is_right(s, out) && error < 8e-3;
  if (s.mla()) {
    const MlaPrefillPlan other =
        plan_mla_prefill(s.latent, s.plan.slices > 1 ? int64_t{2} << 30 : int64_t{4} << 20);
    const bool equal = run_once(stream, s, other) == out;
    if (!equal) std::printf("{\"wrong\": \"%d slices differ\"}\n", other.slices);
    right = right && equal;
  }
  double us = 0.0;
  if (c.timed) us = median_us(stream, [&] { s.run(stream, s.plan); });
  const double flops = s.pairs * c.heads * 2 * (s.key_dims() + s.value_dims());
  std::printf(
      "{\"case\": \"%s\", \"right\": %s, \"error\": %.2e, \"us\": %.1f, \"flops\": %.4g, "
      "\"tflops\": %.0f, \"must\": %.0f, \"goal\": %.0f}\n",
      c.name.c_str(), right ? "true" : "false", error, us, flops, c.timed ? flops / us / 1e6 : 0.0,
      c.must, c.goal);
  if (c.timed && s.mla()) time_parts(stream, s);
  std::fflush(stdout);
  return right;
}

std::vector<Case> cases() {
  const std::vector<Row> ragged = {{70, 1, 1, false}, {9, 2, 3, false}, {0, 1, 1},
                                   {0, 63, 64},       {64, 64, 64},     {130, 129, 140},
                                   {1, 200, 200},     {500, 0, 130},    {127, 1, 1},
                                   {300, 77, 300},    {1000, 333, 333}};
  const std::vector<Row> whole = {{0, 8192, 8192}};
  const std::vector<Row> chunk = {{65536 - 2048, 2048, 2048}};
  std::vector<Case> all = {
      {"gqa ragged 8/2", 8, 2, 128, ragged},
      {"gqa ragged 9/3, 64 dims", 9, 3, 64, ragged},
      {"mla ragged 4 heads", 4, 0, 128, ragged},
      {"mla ragged 32 heads", 32, 0, 128, ragged, int64_t{2} << 20},
      {"gqa 32/8, 8k", 32, 8, 128, whole},
      {"gqa 28/4, 8 x 1k", 28, 4, 128, std::vector<Row>(8, {0, 1024, 1024})},
      {"gqa 32/8, 2k on 62k", 32, 8, 128, chunk},
      {"gqa 9/3, 64 dims, 8k", 9, 3, 64, whole},
      {"mla 16 heads, 8k", 16, 0, 128, whole},
      {"mla 16 heads, 2k on 62k", 16, 0, 128, chunk},
      {"mla 16 heads, 8 x 1k", 16, 0, 128, std::vector<Row>(8, {0, 1024, 1024})},
      {"mla 128 heads, 4k", 128, 0, 128, {{0, 4096, 4096}}},
  };
  all[3].across = true;
  all[8].across = true;
  for (Case& c : all) c.timed = c.name.find("ragged") == std::string::npos;
  all[4].must = 520;
  all[4].goal = 640;
  all[8].must = 480;
  all[8].goal = 620;
  all[9].must = 450;
  all[9].goal = 600;
  return all;
}

int run_all(const char* filter) {
  cudaStream_t stream = nullptr;
  check(cudaStreamCreateWithFlags(&stream, cudaStreamNonBlocking), "stream");
  check(load_prefill_attention(), "load_prefill_attention");
  bool right = true;
  for (const Case& c : cases()) {
    if (c.name.find(filter) == std::string::npos) continue;
    right = run_case(stream, c) && right;
  }
  cudaStreamDestroy(stream);
  return right ? 0 : 1;
}

}  // namespace
}  // namespace fathom::kernels

int main(int argc, char** argv) { return fathom::kernels::run_all(argc > 1 ? argv[1] : ""); }
