// Grouped-query decode attention on one GPU: rows of a batch against the plain kernel and, bit for
// bit, against the same row alone; then the median time of a call inside a graph, over as much
// cache as keeps the second-level cache cold, alone and with the preparation of heads before it.
// Prints one JSON object a line.
#include <cuda_bf16.h>
#include <cuda_runtime.h>

#include <algorithm>
#include <cmath>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <random>
#include <regex>
#include <string>
#include <vector>

#include "attention/bench_device.cuh"
#include "kernels/gqa.h"
#include "kernels/gqa_decode.h"
#include "kernels/gqa_few.h"
#include "kernels/gqa_fp8_cache.cuh"
#include "kernels/number.cuh"
#include "ops/cuda/choose_gqa.h"

namespace fathom::kernels {
namespace {

using bench::check;
using bench::Device;
using bench::fill_random;
using bench::median_ms;

constexpr double kColdBytes = 400e6;  // eight times the second-level cache
constexpr double kBandwidth = 3.0e12;

// Heads' runs of e4m3 codes (no NaNs) and, from byte `codes` of a run on, bf16 scales.
__global__ void fill_codes(uint8_t* to, int64_t runs, int64_t run_bytes, int64_t codes) {
  for (int64_t i = blockIdx.x * int64_t{blockDim.x} + threadIdx.x; i < runs * run_bytes / 4;
       i += int64_t{gridDim.x} * blockDim.x) {
    uint32_t x = static_cast<uint32_t>(i) * 0x9E3779B9U;
    x = (x ^ x >> 15) * 0x85EBCA6BU;
    x ^= x >> 13;
    const auto scale = [&](uint32_t part) {
      return 0.002F + 0.004F * static_cast<float>(part & 0xFFFF) / 65536.0F;
    };
    auto* word = reinterpret_cast<uint32_t*>(to) + i;
    *word = i * 4 % run_bytes < codes ? x & 0xF7F7F7F7U : pack_pair(scale(x), scale(x >> 16));
  }
}

// NaNs in the entries of a block from token `used` on. A block of threads has a head.
__global__ void spoil_codes(uint8_t* block, int64_t dims, int64_t used) {
  uint8_t* run = block + blockIdx.x * fp8_head_bytes(64, static_cast<int32_t>(dims));
  auto* scales = reinterpret_cast<uint16_t*>(run + 2 * 64 * dims);
  for (auto i = static_cast<int64_t>(threadIdx.x); i < 2 * 64 * dims; i += blockDim.x) {
    if (i / dims % 64 < used) continue;
    run[i] = 0xFF;
    scales[i / dims] = 0xFFFF;
  }
}

struct Heads {
  const char* name = "";
  int32_t heads = 0;
  int32_t kv_heads = 0;
  int32_t dims = 128;
};

struct Case {
  Heads heads;
  std::string rows;
  int32_t query_tokens = 1;
  std::vector<int32_t> visible;  // by row, the row's own tokens included; 0: padding
  bool fp8 = false;              // cache

  // Of a token; a bf16 cache is counted in bytes, too.
  int64_t entry_bytes() const {
    return int64_t{2} * heads.kv_heads * (fp8 ? heads.dims + kFp8ScaleBytes : 2 * heads.dims);
  }
};

// One case on the host: rows, and a shuffled block table.
struct Layout {
  std::vector<int32_t> table, slot, first, query, context, positions, token_row;
  std::vector<uint8_t> valid;
  int32_t blocks_max = 1;
  int64_t blocks = 1;
  double bytes = 0.0;  // of the cache, that a call must read

  explicit Layout(const Case& c) {
    const auto rows = static_cast<int32_t>(c.visible.size());
    for (const int32_t v : c.visible) blocks_max = std::max(blocks_max, (v + 63) / 64);
    table.assign(static_cast<size_t>(rows + 1) * blocks_max, 0);
    for (int32_t r = 0; r < rows; ++r) {
      const int32_t v = c.visible[r];
      slot.push_back(v == 0 ? 0 : r + 1);
      first.push_back(r * c.query_tokens);
      query.push_back(v == 0 ? 0 : c.query_tokens);
      context.push_back(std::max(v - c.query_tokens, 0));
      for (int32_t i = 0; i < c.query_tokens; ++i) {
        positions.push_back(v == 0 ? 0 : v - c.query_tokens + i);
        token_row.push_back(r);
        valid.push_back(v == 0 ? 0 : 1);
      }
      blocks += (v + 63) / 64;
      bytes += static_cast<double>(v) * static_cast<double>(c.entry_bytes());
    }
    std::vector<int32_t> order;
    for (int32_t b = 1; b < blocks; ++b) order.push_back(b);
    std::shuffle(order.begin(), order.end(), std::mt19937(7));
    size_t at = 0;
    for (int32_t r = 0; r < rows; ++r)
      for (int32_t b = 0; b < (c.visible[r] + 63) / 64; ++b)
        table[static_cast<size_t>(slot[r]) * blocks_max + b] = order[at++];
  }
};

int64_t copies_of(const Layout& host, int64_t cache_numbers) {
  const double one = std::max(host.bytes, 1.0);
  const double fit = 40e9 / (static_cast<double>(cache_numbers) * 2);
  return static_cast<int64_t>(std::clamp(std::ceil(kColdBytes / one), 2.0, std::max(fit, 1.0)));
}

struct Setup {
  const Case& c;
  const Layout host;
  const GqaDecodePlan plan;
  const GqaDecodePlan few;  // few.few: gqa_few takes the case
  const int64_t tokens;
  const int64_t columns;
  const int64_t entry;
  const int64_t cache_numbers;
  const int64_t copies;
  Device<__nv_bfloat16> cache, qkv, queries, out, alone;
  Device<float> angles, plain, partial;
  Device<float2> statistics;
  Device<int32_t> arrivals, table, slot, first, query, context, positions, token_row;
  Device<uint8_t> valid;
  Device<uint32_t> exchange{kGqaFewWords};

  explicit Setup(const Case& of)
      : c(of),
        host(of),
        plan(choose_gqa_decode({static_cast<int32_t>(of.visible.size()), of.query_tokens,
                                of.heads.heads, of.heads.kv_heads, of.heads.dims, 64,
                                host.blocks_max})),
        few(choose_gqa_decode({static_cast<int32_t>(of.visible.size()), of.query_tokens,
                               of.heads.heads, of.heads.kv_heads, of.heads.dims, 64,
                               host.blocks_max, true, !of.fp8})),
        tokens(static_cast<int64_t>(host.positions.size())),
        columns(int64_t{of.heads.heads} * of.heads.dims),
        entry(int64_t{2} * of.heads.kv_heads * of.heads.dims),
        cache_numbers(host.blocks * 64 * of.entry_bytes() / 2),
        copies(copies_of(host, cache_numbers)),
        cache(static_cast<size_t>(cache_numbers * copies)),
        qkv(static_cast<size_t>(tokens * (columns + entry))),
        queries(static_cast<size_t>(tokens * columns)),
        out(static_cast<size_t>(tokens * columns)),
        alone(static_cast<size_t>(tokens * columns)),
        angles(std::vector<float>(static_cast<size_t>(host.blocks_max) * 64 * 128, 0.6F)),
        plain(static_cast<size_t>(columns) * of.query_tokens),
        partial(static_cast<size_t>(std::max(plan.slots(), few.slots()) * plan.pairs *
                                    of.heads.dims)),
        statistics(static_cast<size_t>(std::max(plan.slots(), few.slots()) * plan.pairs)),
        arrivals(static_cast<size_t>(2 * plan.blocks) * (copies + 8)),
        table(host.table),
        slot(host.slot),
        first(host.first),
        query(host.query),
        context(host.context),
        positions(host.positions),
        token_row(host.token_row),
        valid(host.valid) {
    if (of.fp8) {
      fill_codes<<<4096, 256>>>(reinterpret_cast<uint8_t*>(cache.data),
                                host.blocks * copies * of.heads.kv_heads,
                                fp8_head_bytes(64, of.heads.dims), 2 * 64 * of.heads.dims);
    } else {
      fill_random<<<4096, 256>>>(cache.data, cache.count, 1, 1.0F);
    }
    fill_random<<<256, 256>>>(qkv.data, qkv.count, 2, 1.0F);
    fill_random<<<256, 256>>>(queries.data, queries.count, 5, 1.5F);
    check(cudaMemset(partial.data, 0xFF, partial.count * 4), "poison");
    check(cudaMemset(exchange.data, 0, exchange.count * 4), "clear");
    plant_nans();
    check(cudaDeviceSynchronize(), "fill");
  }

  // In the entries past each row's end, which an earlier sequence may have left.
  void plant_nans() const {
    for (size_t r = 0; r < c.visible.size(); ++r) {
      const int64_t used = c.visible[r] % 64;
      if (used == 0) continue;
      const int64_t block =
          host.table[static_cast<size_t>(host.slot[r]) * host.blocks_max + c.visible[r] / 64];
      if (c.fp8) {
        uint8_t* bytes = reinterpret_cast<uint8_t*>(cache.data) + block * 64 * c.entry_bytes();
        spoil_codes<<<c.heads.kv_heads, 256>>>(bytes, c.heads.dims, used);
        continue;
      }
      check(cudaMemset(cache.data + (block * 64 + used) * entry, 0xFF,
                       static_cast<size_t>((64 - used) * entry) * 2),
            "NaNs past a row's end");
    }
  }

  float scale() const { return 1.0F / std::sqrt(static_cast<float>(c.heads.dims)); }

  GqaDecodeCall call(int64_t copy, int32_t first_row, int32_t rows, __nv_bfloat16* to) const {
    GqaDecodeCall d;
    d.rows = {slot.data + first_row,    first.data + first_row, query.data + first_row,
              context.data + first_row, table.data,             host.blocks_max,
              rows};
    d.heads = c.heads.heads;
    d.kv_heads = c.heads.kv_heads;
    d.head_dims = c.heads.dims;
    d.queries = queries.data;
    d.cache = cache.data + copy % copies * cache_numbers;
    d.fp8_cache = c.fp8;
    d.cache_blocks = host.blocks;
    d.softmax_scale = scale();
    d.out = Epilogue{to, Format::kBF16, columns};
    d.partial = partial.data;
    d.statistics = statistics.data;
    d.arrivals = arrivals.data + copy * 2 * plan.blocks;
    return d;
  }
  AttentionBatch batch(int64_t copy, int64_t first_token, int64_t count) const {
    AttentionBatch b;
    b.positions = positions.data + first_token;
    b.token_row = token_row.data + first_token;
    b.token_valid = valid.data + first_token;
    b.row_slot = slot.data;
    b.block_table = table.data;
    b.table_stride = host.blocks_max;
    b.cosines = b.sines = angles.data;
    b.rope_stride = c.heads.dims / 2;
    b.cache = cache.data + copy % copies * cache_numbers;
    b.cache_format = c.fp8 ? Format::kFp8 : Format::kBF16;
    b.tokens = count;
    return b;
  }
  GqaShape shape() const {
    return {c.heads.heads, c.heads.kv_heads, c.heads.dims, 64, scale(), 1e-6F};
  }
  void clear_arrivals(cudaStream_t stream) const {
    check(cudaMemsetAsync(arrivals.data, 0, arrivals.count * 4, stream), "clear");
  }
  // Heads made ready and attention of all rows in one kernel.
  void run_few(cudaStream_t stream, int64_t copy, __nv_bfloat16* to) const {
    GqaFewCall f;
    f.decode = call(copy, 0, static_cast<int32_t>(c.visible.size()), to);
    f.batch = batch(copy, 0, tokens);
    f.norm_epsilon = 1e-6F;
    f.qkv = Rows{qkv.data, Format::kBF16, columns + entry};
    f.exchange = exchange.data;
    check(gqa_few(stream, few, f), "gqa_few");
  }
  void prepare(cudaStream_t stream, int64_t copy) const {
    GqaPrepareCall p;
    p.shape = shape();
    p.batch = batch(copy, 0, tokens);
    p.qkv = Rows{qkv.data, Format::kBF16, columns + entry};
    p.queries = queries.data;
    p.out = Epilogue{out.data, Format::kBF16, columns};
    p.arrivals = arrivals.data + copy * 2 * plan.blocks;
    p.arrival_count = 2 * plan.blocks;
    check(gqa_prepare_heads(stream, p), "prepare");
  }
};

float float_of(uint16_t bits) {
  const uint32_t word = static_cast<uint32_t>(bits) << 16;
  float x;
  std::memcpy(&x, &word, sizeof x);
  return x;
}

std::vector<uint16_t> bits_of(const Device<__nv_bfloat16>& from) {
  const auto values = from.host();
  std::vector<uint16_t> bits(values.size());
  std::memcpy(bits.data(), values.data(), values.size() * 2);
  return bits;
}

struct Verdict {
  double error = 0.0;  // largest ||out - plain|| / ||plain|| of a row
  bool same = true;    // as the row alone
};

Verdict judge(cudaStream_t stream, Setup& s) {
  const auto rows = static_cast<int32_t>(s.c.visible.size());
  check(cudaMemsetAsync(s.out.data, 0xFF, s.out.count * 2, stream), "poison");
  s.clear_arrivals(stream);
  check(gqa_decode(stream, s.plan, s.call(0, 0, rows, s.out.data)), "gqa_decode");
  check(cudaStreamSynchronize(stream), s.c.rows.c_str());
  const std::vector<uint16_t> all = bits_of(s.out);
  Verdict v;
  for (const int32_t row : {0, rows / 3, rows - 1}) {
    const int64_t token = s.host.first[row];
    const int64_t count = s.c.query_tokens;
    if (s.host.query[row] == 0) {
      v.same = v.same && all[token * s.columns] == 0xFFFF;
      continue;
    }
    s.clear_arrivals(stream);
    check(gqa_decode(stream, s.plan, s.call(0, row, 1, s.alone.data)), "gqa_decode alone");
    gqa_attend(stream, s.shape(), s.batch(0, token, count),
               Rows{s.queries.data + token * s.columns, Format::kBF16, s.columns}, 0, rows,
               s.plain.data);
    check(cudaStreamSynchronize(stream), "row alone");
    const std::vector<uint16_t> alone = bits_of(s.alone);
    const std::vector<float> plain = s.plain.host();
    double error = 0.0;
    double size = 0.0;
    for (int64_t i = 0; i < count * s.columns; ++i) {
      const int64_t at = token * s.columns + i;
      v.same = v.same && alone[at] == all[at];
      error += std::pow(double{float_of(all[at])} - plain[i], 2);
      size += std::pow(double{plain[i]}, 2);
    }
    const double relative = std::sqrt(error / size);
    v.error = std::isnan(relative) ? relative : std::max(v.error, relative);
  }
  return v;
}

// Whether gqa_few gives the bits of the two kernels that it stands for.
bool few_is_same(cudaStream_t stream, const Setup& s) {
  const auto rows = static_cast<int32_t>(s.c.visible.size());
  check(cudaMemsetAsync(s.alone.data, 0xFF, s.alone.count * 2, stream), "poison");
  s.run_few(stream, 0, s.alone.data);
  check(cudaStreamSynchronize(stream), "gqa_few");
  s.prepare(stream, 0);
  check(gqa_decode(stream, s.plan, s.call(0, 0, rows, s.out.data)), "gqa_decode");
  check(cudaStreamSynchronize(stream), "both");
  return bits_of(s.alone) == bits_of(s.out);
}

bool run_case(cudaStream_t stream, const Case& c, bool timed) {
  Setup s(c);
  const auto rows = static_cast<int32_t>(c.visible.size());
  const Verdict v = judge(stream, s);
  const bool few_same = !s.few.few || few_is_same(stream, s);
  const bool right = v.same && v.error < 8e-3 && few_same;
  if (!timed) {
    std::printf("{\"heads\": \"%s\", \"rows\": \"%s\", \"right\": %s}\n", c.heads.name,
                c.rows.c_str(), right ? "true" : "false");
    return right;
  }
  const int64_t calls = std::max<int64_t>(s.copies, 8);
  const double us = median_ms(stream,
                              [&] {
                                s.clear_arrivals(stream);
                                for (int64_t i = 0; i < calls; ++i)
                                  check(gqa_decode(stream, s.plan, s.call(i, 0, rows, s.out.data)),
                                        "gqa_decode");
                              }) *
                    1e3 / static_cast<double>(calls);
  const double both_us =
      median_ms(stream,
                [&] {
                  for (int64_t i = 0; i < calls; ++i) {
                    s.prepare(stream, i);
                    check(gqa_decode(stream, s.plan, s.call(i, 0, rows, s.out.data)), "gqa_decode");
                  }
                }) *
      1e3 / static_cast<double>(calls);
  const double few_us = !s.few.few ? 0.0
                                   : median_ms(stream,
                                               [&] {
                                                 for (int64_t i = 0; i < calls; ++i)
                                                   s.run_few(stream, i, s.out.data);
                                               }) *
                                         1e3 / static_cast<double>(calls);
  const double floor_us = s.host.bytes / kBandwidth * 1e6;
  std::printf(
      "{\"heads\": \"%s\", \"rows\": \"%s\", \"cache\": \"%s\", \"query_tokens\": %d, "
      "\"right\": %s, \"error\": %.2e, "
      "\"same_as_alone\": %s, \"us\": %.1f, \"with_prepare_us\": %.1f, \"few_same\": %s, "
      "\"few_us\": %.1f, \"bytes\": %.4g, "
      "\"floor_us\": %.1f, \"times_floor\": %.2f, \"copies\": %d}\n",
      c.heads.name, c.rows.c_str(), c.fp8 ? "fp8" : "bf16", c.query_tokens,
      right ? "true" : "false", v.error,
      v.same ? "true" : "false", us, both_us, few_same ? "true" : "false", few_us, s.host.bytes,
      floor_us, us / floor_us,
      static_cast<int>(s.copies));
  std::fflush(stdout);
  return right;
}

std::vector<int32_t> ragged(int32_t rows, int32_t least, int32_t most) {
  std::mt19937 random(3);
  std::uniform_int_distribution<int32_t> length(least, most);
  std::vector<int32_t> v;
  for (int32_t i = 0; i < rows; ++i) v.push_back(length(random));
  return v;
}

std::vector<Case> cases() {
  const auto same = [](size_t rows, int32_t length) { return std::vector<int32_t>(rows, length); };
  const Heads llama{"Llama-8B 32/8", 32, 8};
  const Heads qwen{"Qwen2-7B 28/4", 28, 4};
  const Heads smol{"SmolLM2 9/3", 9, 3, 64};
  const Heads mha{"DeepSeek-LLM-7B 32/32", 32, 32};
  std::vector<int32_t> padded = ragged(24, 1, 700);
  for (size_t i = 0; i < padded.size(); i += 3) padded[i] = 0;
  std::vector<int32_t> many_padded = ragged(768, 1400, 1640);
  for (size_t i = 0; i < many_padded.size(); i += 3) many_padded[i] = 0;
  return {
      {llama, "1 x 1k", 1, same(1, 1024)},
      {llama, "1 x 1.1k", 1, same(1, 1100)},
      {llama, "1 x 2k", 1, same(1, 2048)},
      {llama, "1 x 77", 1, same(1, 77)},
      {llama, "1 x 8k", 1, same(1, 8192)},
      {llama, "1 x 2.1k", 1, same(1, 2100)},
      {llama, "2 ragged", 1, {5000, 130}},
      {llama, "2, one of padding", 1, {0, 1500}},
      {llama, "32 x 211", 1, same(32, 211)},
      {llama, "128 x 211", 1, same(128, 211)},
      {llama, "32 x 1k", 1, same(32, 1024)},
      {llama, "128 x 1k", 1, same(128, 1024)},
      {llama, "128 ragged 0.95k..1.15k", 1, ragged(128, 950, 1150)},
      {llama, "1 x 32k", 1, same(1, 32768)},
      {llama, "4 ragged, one of padding", 1, {5000, 0, 130, 2049}},
      {llama, "32 x 32k", 1, same(32, 32768)},
      {llama, "128 x 32k", 1, same(128, 32768)},
      {llama, "128 ragged 0.1k..8k", 1, ragged(128, 100, 8192)},
      {llama, "64 x 1k, 2 tokens", 2, same(64, 1024)},
      {llama, "64 x 1k, 4 tokens", 4, same(64, 1024)},
      {llama, "24 rows, 8 of padding, 3 tokens", 3, padded},
      {qwen, "1 x 1k", 1, same(1, 1024)},
      {qwen, "128 x 1k", 1, same(128, 1024)},
      {qwen, "3 ragged", 1, {2049, 5000, 33}},
      {qwen, "3 ragged, 2 tokens", 2, {5000, 64, 2049}},
      {smol, "1 x 1k", 1, same(1, 1024)},
      {smol, "128 x 1k", 1, same(128, 1024)},
      {smol, "2 x 9k, 5 tokens", 5, same(2, 9001)},
      {mha, "1 x 1k", 1, same(1, 1024)},
      {mha, "128 x 1k", 1, same(128, 1024)},
      {llama, "FP8 1 x 1k", 1, same(1, 1024), true},
      {llama, "FP8 32 x 211", 1, same(32, 211), true},
      {smol, "FP8 88 x 211", 1, same(88, 211), true},
      {llama, "FP8 32 x 1k", 1, same(32, 1024), true},
      {llama, "FP8 128 x 1k", 1, same(128, 1024), true},
      {llama, "FP8 256 x 1.5k", 1, same(256, 1536), true},
      {llama, "FP8 512 x 1.5k", 1, same(512, 1536), true},
      {llama, "FP8 256 ragged 1k..2k", 1, ragged(256, 1000, 2000), true},
      {llama, "FP8 256 ragged 1.1k..1.35k", 1, ragged(256, 1100, 1350), true},
      {llama, "FP8 512 ragged 1.4k..1.64k", 1, ragged(512, 1400, 1640), true},
      {llama, "FP8 768 rows, 256 of padding, 1.4k..1.64k", 1, many_padded, true},
      {llama, "FP8 32 x 32k", 1, same(32, 32768), true},
      {llama, "FP8 24 rows, 8 of padding, 3 tokens", 3, padded, true},
      {smol, "FP8 24 rows, 8 of padding, 5 tokens", 5, padded, true},
      {smol, "FP8 32 x 1k", 1, same(32, 1024), true},
  };
}

int run_all(const char* filter, bool timed) {
  cudaStream_t stream = nullptr;
  check(cudaStreamCreateWithFlags(&stream, cudaStreamNonBlocking), "stream");
  bool right = true;
  for (const Case& c : cases()) {
    const std::string name = std::string(c.heads.name) + " " + c.rows;
    if (!std::regex_search(name, std::regex(filter))) continue;
    right = run_case(stream, c, timed) && right;
  }
  cudaStreamDestroy(stream);
  return right ? 0 : 1;
}

}  // namespace
}  // namespace fathom::kernels

// gqa_bench [FILTER [check]]: the cases whose names the regular expression finds; not timed.
int main(int argc, char** argv) {
  return fathom::kernels::run_all(argc > 1 ? argv[1] : "", argc < 3);
}
