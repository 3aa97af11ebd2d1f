// MLA decode on one GPU: correctness against the plain kernel (every output) and against double
// sums on the host (samples), then the median time of a call inside a graph, over as many caches as
// keep the second-level cache cold. Prints one JSON object a line.
#include <cuda_bf16.h>
#include <cuda_fp8.h>
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
#include "kernels/attention.h"
#include "kernels/mla_decode.h"

namespace fathom::kernels {
namespace {

using bench::check;
using bench::Device;
using bench::fill_random;
using bench::median_ms;

constexpr double kColdBytes = 400e6;  // eight times the second-level cache

// FP8 entries of random numbers, and what they stand for. A block a token, a thread a column.
__global__ void fill_entries(const __nv_bfloat16* random, uint8_t* to, __nv_bfloat16* meant) {
  const int64_t token = blockIdx.x;
  const auto c = static_cast<int>(threadIdx.x);
  const __nv_bfloat16 x = random[token * kMlaEntry + c];
  uint8_t* entry = to + token * kMlaFp8EntryBytes;
  __nv_bfloat16 value = x;
  if (c < kMlaLatent) {
    const float scale = (1.0F + static_cast<float>((token * 4 + c / 128) % 13) / 16.0F) / 64.0F;
    const __nv_fp8_storage_t code =
        __nv_cvt_float_to_fp8(__bfloat162float(x) / scale, __NV_SATFINITE, __NV_E4M3);
    entry[c] = code;
    if (c % 128 == 0) reinterpret_cast<float*>(entry + kMlaLatent)[c / 128] = scale;
    const __half_raw half = __nv_cvt_fp8_to_halfraw(code, __NV_E4M3);
    value = __float2bfloat16_rn(__half2float(__half(half)) * scale);
  } else {
    reinterpret_cast<__nv_bfloat16*>(entry + kMlaLatent + 16)[c - kMlaLatent] = x;
  }
  if (meant != nullptr) meant[token * kMlaEntry + c] = value;
}

__global__ void read_all(const uint4* from, size_t n, uint32_t* sink) {
  uint32_t x = 0;
  const size_t step = size_t{gridDim.x} * blockDim.x;
  size_t i = blockIdx.x * size_t{blockDim.x} + threadIdx.x;
  for (; i + 3 * step < n; i += 4 * step) {
    uint4 v[4];
#pragma unroll
    for (int k = 0; k < 4; ++k) v[k] = __ldcs(from + i + k * step);
#pragma unroll
    for (int k = 0; k < 4; ++k) x ^= v[k].x ^ v[k].y ^ v[k].z ^ v[k].w;
  }
  if (x == 0x12345678U) *sink = x;
}

struct Case {
  std::string name;
  int32_t heads = 0;
  int32_t query_tokens = 1;
  std::vector<int32_t> visible;  // by row, the row's own tokens included; 0: padding
  double must_us = 0.0;
  double goal_us = 0.0;
  bool fp8 = false;
  float spread = 1.5F;  // of queries: the larger, the more a row's largest score moves
};

// One case's arrays: a shuffled block table, several caches ("layers"), queries and outputs.
struct Setup {
  explicit Setup(const Case& c);
  void run(cudaStream_t stream, size_t layer, bool overlap);
  void plant_past_ends(const Case& c, void* cache, size_t entry_bytes) const;
  size_t copies() const { return std::max(caches.size(), fp8_caches.size()); }
  const void* cache_of(size_t layer) const {
    return fp8_caches.empty() ? static_cast<const void*>(caches[layer % copies()]->data)
                              : fp8_caches[layer % copies()]->data;
  }

  std::vector<int32_t> table, slot, first, query, context, positions, token_row;
  std::vector<uint8_t> valid;
  int32_t blocks_max = 1;
  int64_t blocks = 1;
  MlaDecodeDesc desc;
  MlaDecodeConfig config;
  std::vector<std::unique_ptr<Device<__nv_bfloat16>>> caches;  // of FP8 ones the first, as bf16
  std::vector<std::unique_ptr<Device<uint8_t>>> fp8_caches;
  std::unique_ptr<Device<__nv_bfloat16>> queries, out;
  std::unique_ptr<Device<int32_t>> table_device, slot_device, first_device, query_device,
      context_device;
  std::unique_ptr<Device<float>> partial, partial_weights;
  std::unique_ptr<Device<MlaPart>> parts;
  std::unique_ptr<Device<MlaCut>> cuts;
  MlaDecodeCall call;
  MlaSchedule schedule;
  int64_t tokens = 0;
  double bytes = 0.0;  // of the cache, that a call must read; and queries and outputs
  double flops = 0.0;
};

template <typename T>
std::unique_ptr<Device<T>> on_device(const std::vector<T>& host) {
  return std::make_unique<Device<T>>(host);
}

std::unique_ptr<Device<__nv_bfloat16>> random_numbers(int64_t n, uint64_t seed, float spread) {
  auto memory = std::make_unique<Device<__nv_bfloat16>>(static_cast<size_t>(n));
  fill_random<<<1024, 256>>>(memory->data, static_cast<size_t>(n), seed, spread);
  check(cudaDeviceSynchronize(), "fill");
  return memory;
}

Setup::Setup(const Case& c) {
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
    bytes += static_cast<double>(v) * (c.fp8 ? kMlaFp8EntryBytes : kMlaEntry * 2);
    flops += 2.0 * v * c.heads * query.back() * (kMlaEntry + kMlaLatent);
  }
  std::vector<int32_t> order;
  for (int32_t b = 1; b < blocks; ++b) order.push_back(b);
  std::shuffle(order.begin(), order.end(), std::mt19937(7));
  size_t at = 0;
  for (int32_t r = 0; r < rows; ++r)
    for (int32_t b = 0; b < (c.visible[r] + 63) / 64; ++b)
      table[static_cast<size_t>(slot[r]) * blocks_max + b] = order[at++];
  tokens = static_cast<int64_t>(positions.size());
  desc = {rows, c.query_tokens, c.heads};
  desc.fp8_cache = c.fp8;
  config = choose_mla_decode(desc);
  const int64_t cache_numbers = blocks * kMlaBlockTokens * kMlaEntry;
  const auto copies = static_cast<size_t>(
      std::clamp(std::ceil(kColdBytes / (static_cast<double>(cache_numbers) * 2)), 2.0, 64.0));
  for (size_t i = 0; i < copies; ++i) {
    caches.push_back(random_numbers(cache_numbers, 1 + i * 977, 1.0F));
    if (!c.fp8) continue;
    const int64_t entries = blocks * kMlaBlockTokens;
    fp8_caches.push_back(std::make_unique<Device<uint8_t>>(entries * kMlaFp8EntryBytes));
    fill_entries<<<static_cast<unsigned>(entries), kMlaEntry>>>(
        caches.back()->data, fp8_caches.back()->data, i == 0 ? caches[0]->data : nullptr);
    check(cudaDeviceSynchronize(), "entries");
    if (i > 0) caches.pop_back();
  }
  for (size_t i = 0; i < copies; ++i) {
    if (i < caches.size()) plant_past_ends(c, caches[i]->data, kMlaEntry * 2);
    if (c.fp8) plant_past_ends(c, fp8_caches[i]->data, kMlaFp8EntryBytes);
  }
  queries = random_numbers(tokens * c.heads * kMlaEntry, 5, c.spread);
  out = std::make_unique<Device<__nv_bfloat16>>(tokens * c.heads * kMlaLatent);
  bytes += static_cast<double>(tokens * c.heads) * (kMlaEntry + kMlaLatent) * 2;
  table_device = on_device(table);
  slot_device = on_device(slot);
  first_device = on_device(first);
  query_device = on_device(query);
  context_device = on_device(context);
  partial = std::make_unique<Device<float>>(config.partial_pairs() * kMlaLatent);
  partial_weights = std::make_unique<Device<float>>(2 * config.partial_pairs());
  parts = std::make_unique<Device<MlaPart>>(kMlaPartsMax);
  cuts = std::make_unique<Device<MlaCut>>(kMlaRowsMax);
  schedule = {parts->data, cuts->data};
  call.rows = {slot_device->data,    first_device->data, query_device->data,
               context_device->data, table_device->data, blocks_max};
  call.tokens = tokens;
  call.queries = queries->data;
  call.blocks = blocks;
  call.softmax_scale = 0.1352337788608801F;  // 192^-0.5, times YaRN's mscale squared
  call.out = out->data;
  call.partial = partial->data;
  call.partial_weights = partial_weights->data;
}

// NaN where a row's last block holds no token of it: what an earlier sequence may have left there.
void Setup::plant_past_ends(const Case& c, void* cache, size_t entry_bytes) const {
  for (size_t r = 0; r < c.visible.size(); ++r) {
    const auto used = static_cast<size_t>(c.visible[r]) % kMlaBlockTokens;
    if (used == 0) continue;
    const auto row = static_cast<size_t>(slot[r]) * blocks_max;
    const auto block = static_cast<size_t>(table[row + c.visible[r] / kMlaBlockTokens]);
    check(cudaMemset(static_cast<uint8_t*>(cache) + (block * kMlaBlockTokens + used) * entry_bytes,
                     0xFF, (kMlaBlockTokens - used) * entry_bytes),
          "plant");
  }
  check(cudaDeviceSynchronize(), "plant");
}

void Setup::run(cudaStream_t stream, size_t layer, bool overlap) {
  call.cache = cache_of(layer);
  call.overlap = overlap;
  check(mla_decode(stream, desc, config, schedule, call), "mla_decode");
}

// ||out - plain|| / ||plain|| over valid tokens, and whether padding was left alone.
struct Difference {
  double relative = 0.0;
  bool untouched = true;
};

Difference against_plain(cudaStream_t stream, Setup& s, const std::vector<uint16_t>& out) {
  const int64_t pairs = s.tokens * s.desc.heads;
  const auto positions = on_device(s.positions);
  const auto token_row = on_device(s.token_row);
  const auto valid = on_device(s.valid);
  Device<__nv_bfloat16> latents(pairs * kMlaLatent);
  MlaShape shape{s.desc.heads,         128,  kMlaRope, 128, kMlaLatent, kMlaBlockTokens,
                 s.call.softmax_scale, 1e-6F};
  AttentionBatch batch;
  batch.positions = positions->data;
  batch.token_row = token_row->data;
  batch.token_valid = valid->data;
  batch.row_slot = s.slot_device->data;
  batch.block_table = s.table_device->data;
  batch.table_stride = s.blocks_max;
  batch.cache = s.caches[0]->data;
  batch.cache_format = Format::kBF16;
  batch.tokens = s.tokens;
  mla_attend(stream, shape, batch, {0, s.desc.rows}, s.queries->data, Format::kBF16, latents.data);
  check(cudaStreamSynchronize(stream), "plain kernel");
  const auto expected = latents.host();
  Difference d;
  double error = 0.0;
  double size = 0.0;
  for (int64_t i = 0; i < pairs * kMlaLatent; ++i) {
    if (s.valid[i / kMlaLatent / s.desc.heads] == 0) {
      d.untouched = d.untouched && out[i] == 0xFFFF;
      continue;
    }
    const uint32_t word = static_cast<uint32_t>(out[i]) << 16;
    float x;
    std::memcpy(&x, &word, sizeof x);
    const double wanted = __bfloat162float(expected[i]);
    error += (x - wanted) * (x - wanted);
    size += wanted * wanted;
  }
  d.relative = std::sqrt(error / size);
  return d;
}

// Largest ||out - exact|| / ||exact|| of some pairs, with double sums on the host.
double against_double(Setup& s, const std::vector<uint16_t>& out, int samples) {
  const auto queries = s.queries->host();
  std::mt19937 random(11);
  double worst = 0.0;
  for (int n = 0; n < samples; ++n) {
    const int64_t t = random() % s.tokens;
    const int64_t head = random() % s.desc.heads;
    if (s.valid[t] == 0) continue;
    const int32_t row = s.token_row[t];
    const int32_t visible = s.positions[t] + 1;
    std::vector<__nv_bfloat16> entries(static_cast<size_t>((visible + 63) / 64) * 64 * kMlaEntry);
    for (int32_t b = 0; b < (visible + 63) / 64; ++b) {
      const int64_t block = s.table[static_cast<size_t>(s.slot[row]) * s.blocks_max + b];
      check(cudaMemcpy(entries.data() + int64_t{b} * 64 * kMlaEntry,
                       s.caches[0]->data + block * 64 * kMlaEntry, 64 * kMlaEntry * 2,
                       cudaMemcpyDeviceToHost),
            "entries");
    }
    const __nv_bfloat16* q = queries.data() + (t * s.desc.heads + head) * kMlaEntry;
    std::vector<double> sums(kMlaLatent, 0.0);
    std::vector<double> scores(visible, 0.0);
    for (int32_t i = 0; i < visible; ++i)
      for (int32_t k = 0; k < kMlaEntry; ++k)
        scores[i] += double{__bfloat162float(q[k])} *
                     double{__bfloat162float(entries[int64_t{i} * kMlaEntry + k])};
    const double most = *std::max_element(scores.begin(), scores.end());
    double total = 0.0;
    for (int32_t i = 0; i < visible; ++i) {
      const double w = std::exp((scores[i] - most) * s.call.softmax_scale);
      total += w;
      for (int32_t k = 0; k < kMlaLatent; ++k)
        sums[k] += w * double{__bfloat162float(entries[int64_t{i} * kMlaEntry + k])};
    }
    double error = 0.0;
    double size = 0.0;
    for (int32_t k = 0; k < kMlaLatent; ++k) {
      const uint32_t word = static_cast<uint32_t>(out[(t * s.desc.heads + head) * kMlaLatent + k])
                            << 16;
      float x;
      std::memcpy(&x, &word, sizeof x);
      const double exact = sums[k] / total;
      error += (x - exact) * (x - exact);
      size += exact * exact;
    }
    const double relative = std::sqrt(error / size);
    worst = std::isnan(relative) ? relative : std::max(worst, relative);
  }
  return worst;
}

// Rows whose bits are others when they are computed alone; -1 where the kernel cuts as it likes.
int changed_by_batch(cudaStream_t stream, Setup& s, const std::vector<uint16_t>& out) {
  if (!s.config.fixed_cuts) return -1;
  MlaDecodeDesc one = s.desc;
  one.rows = 1;
  const MlaDecodeConfig config = choose_mla_decode(one);
  int changed = 0;
  for (int32_t row = 0; row < s.desc.rows; row += std::max(1, s.desc.rows / 8)) {
    MlaDecodeCall call = s.call;
    call.cache = s.cache_of(0);
    call.rows.slot += row;
    call.rows.first += row;
    call.rows.query += row;
    call.rows.context += row;
    check(cudaMemsetAsync(s.out->data, 0xFF, s.out->count * 2, stream), "poison");
    check(mla_schedule(stream, one, config, call.rows, s.schedule), "mla_schedule");
    check(mla_decode(stream, one, config, s.schedule, call), "mla_decode");
    check(cudaStreamSynchronize(stream), "alone");
    const auto alone = s.out->host();
    const auto numbers = static_cast<size_t>(s.query[row]) * s.desc.heads * kMlaLatent;
    const size_t at = static_cast<size_t>(s.first[row]) * s.desc.heads * kMlaLatent;
    changed += std::memcmp(alone.data() + at, out.data() + at, numbers * 2) == 0 ? 0 : 1;
  }
  return changed;
}

bool run_case(cudaStream_t stream, const Case& c, double bandwidth) {
  Setup s(c);
  const auto scheduled = [&] {
    check(mla_schedule(stream, s.desc, s.config, s.call.rows, s.schedule), "mla_schedule");
  };
  check(cudaMemsetAsync(s.out->data, 0xFF, s.out->count * 2, stream), "poison");
  check(cudaMemsetAsync(s.partial->data, 0xFF, s.partial->count * 4, stream), "poison");
  scheduled();
  s.run(stream, 0, false);
  check(cudaStreamSynchronize(stream), c.name.c_str());
  const auto values = s.out->host();
  std::vector<uint16_t> out(values.size());
  std::memcpy(out.data(), values.data(), values.size() * 2);
  const Difference plain = against_plain(stream, s, out);
  const double exact = against_double(s, out, 6);
  const int changed = changed_by_batch(stream, s, out);
  scheduled();
  const bool right = plain.untouched && plain.relative < 8e-3 && exact < 8e-3 && changed <= 0;
  const size_t calls = std::max<size_t>(s.copies(), 8);
  const double us = median_ms(stream,
                              [&] {
                                for (size_t i = 0; i < calls; ++i) s.run(stream, i, true);
                              }) *
                    1e3 / static_cast<double>(calls);
  const double apart_us = median_ms(stream,
                                    [&] {
                                      for (size_t i = 0; i < calls; ++i) s.run(stream, i, false);
                                    }) *
                          1e3 / static_cast<double>(calls);
  const double schedule_us = median_ms(stream,
                                       [&] {
                                         for (int i = 0; i < 8; ++i) scheduled();
                                       }) *
                             1e3 / 8;
  const double floor_us = std::max(s.bytes / bandwidth, s.flops / 800e12) * 1e6;
  std::printf(
      "{\"case\": \"%s\", \"right\": %s, \"error_plain\": %.2e, \"error_double\": %.2e, "
      "\"rows_changed_by_batch\": %d, \"us\": %.1f, \"us_without_overlap\": %.1f, "
      "\"schedule_us\": %.1f, \"bytes\": %.4g, "
      "\"flops\": %.4g, \"floor_us\": %.1f, \"times_floor\": %.2f, \"read_percent\": %.1f, "
      "\"tflops\": %.0f, \"must_us\": %.0f, \"goal_us\": %.0f, \"parts\": %d, \"tiles\": %d}\n",
      c.name.c_str(), right ? "true" : "false", plain.relative, exact, changed, us, apart_us,
      schedule_us, s.bytes, s.flops, floor_us, us / floor_us,
      100.0 * s.bytes / (us * 1e-6) / bandwidth, s.flops / us / 1e6, c.must_us, c.goal_us,
      s.config.parts, s.config.tiles);
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
  const auto same = [](int32_t rows, int32_t length) {
    return std::vector<int32_t>(static_cast<size_t>(rows), length);
  };
  std::vector<int32_t> padded = ragged(24, 1, 700);
  for (size_t i = 0; i < padded.size(); i += 3) padded[i] = 0;
  const std::vector<int32_t> lengths = ragged(128, 100, 8192);
  return {
      {"16 heads, 128 x 1k", 16, 1, same(128, 1024), 66, 57},
      {"16 heads, 128 ragged 0.1k..8k", 16, 1, lengths},
      {"16 heads, 128 x 4k", 16, 1, same(128, 4096)},
      {"16 heads, 16 x 1k", 16, 1, same(16, 1024)},
      {"16 heads, 1 x 1k", 16, 1, same(1, 1024)},
      {"16 heads, 1 x 32k", 16, 1, same(1, 32768)},
      {"16 heads, 8 x 160k", 16, 1, same(8, 163840)},
      {"16 heads, 2 tokens, 128 x 1k", 16, 2, same(128, 1024)},
      {"demo: 4 heads, 24 rows, 8 of padding", 4, 1, padded},
      {"demo: 4 heads, 2 tokens, 24 rows, 8 of padding", 4, 2, padded},
      {"16 heads, 2 tokens, 16 ragged 0.1k..8k", 16, 2, ragged(16, 100, 8192)},
      {"4 heads, 4 tokens, ragged", 4, 4, ragged(9, 4, 300)},
      {"16 heads, 4 tokens, 64 x 1k", 16, 4, same(64, 1024)},
      {"16 heads, FP8, 128 x 4k", 16, 1, same(128, 4096), 150, 125, true},
      {"16 heads, FP8, 128 x 1k", 16, 1, same(128, 1024), 0, 0, true},
      {"16 heads, FP8, 128 ragged 0.1k..8k", 16, 1, lengths, 0, 0, true},
      {"4 heads, FP8, 4 tokens, ragged", 4, 4, ragged(9, 4, 300), 0, 0, true},
      {"16 heads, chunks of 37, ragged", 16, 37, ragged(3, 40, 900)},
      {"16 heads, a chunk of 16 on 50k", 16, 16, same(1, 50000)},
      {"16 heads, a chunk of 32 on 32k", 16, 32, same(1, 32800)},
      {"16 heads, a chunk of 64 on 32k", 16, 64, same(1, 32832)},
      {"16 heads, a chunk of 96 on 32k", 16, 96, same(1, 32864)},
      {"16 heads, a chunk of 128 on 32k", 16, 128, same(1, 32896)},
      {"16 heads, a chunk of 64 on 4k", 16, 64, same(1, 4160)},
      {"128 heads, a chunk of 16 on 8k", 128, 16, same(1, 8208)},
      {"128 heads, 64 x 4k", 128, 1, same(64, 4096), 125, 110},
      {"128 heads, 64 ragged 0.1k..8k", 128, 1, ragged(64, 100, 8192)},
      {"128 heads, 32 x 1k", 128, 1, same(32, 1024)},
      {"128 heads, 1 x 32k", 128, 1, same(1, 32768)},
      {"128 heads, 24 rows, 8 of padding", 128, 1, padded},
      {"128 heads, 40 rows of 1 to 130", 128, 1, ragged(40, 1, 130)},
      {"128 heads, 2 tokens, ragged", 128, 2, ragged(9, 2, 300)},
      {"128 heads, steep, ragged", 128, 1, ragged(20, 1, 3000), 0, 0, false, 9.0F},
      {"24 heads, 4 tokens, ragged", 24, 4, ragged(9, 4, 300)},
      {"48 heads, 4 tokens, steep, ragged", 48, 4, ragged(9, 4, 900), 0, 0, false, 9.0F},
  };
}

double read_bandwidth(cudaStream_t stream) {
  const size_t bytes = size_t{2} << 30;
  Device<uint4> memory(bytes / sizeof(uint4));
  Device<uint32_t> sink(1);
  fill_random<<<1024, 256>>>(reinterpret_cast<__nv_bfloat16*>(memory.data), bytes / 2, 1, 1.0F);
  check(cudaDeviceSynchronize(), "fill");
  const double ms = median_ms(
      stream, [&] { read_all<<<132 * 8, 512, 0, stream>>>(memory.data, memory.count, sink.data); });
  return static_cast<double>(bytes) / (ms * 1e-3);
}

int run_all(const char* filter) {
  cudaStream_t stream = nullptr;
  check(cudaStreamCreateWithFlags(&stream, cudaStreamNonBlocking), "stream");
  cudaDeviceProp properties{};
  check(cudaGetDeviceProperties(&properties, 0), "device");
  const double bandwidth = read_bandwidth(stream);
  std::printf("{\"device\": \"%s\", \"multiprocessors\": %d, \"read_bandwidth\": %.4g}\n",
              properties.name, properties.multiProcessorCount, bandwidth);
  bool right = true;
  for (const Case& c : cases()) {
    if (c.name.find(filter) == std::string::npos) continue;
    right = run_case(stream, c, bandwidth) && right;
  }
  cudaStreamDestroy(stream);
  return right ? 0 : 1;
}

}  // namespace
}  // namespace fathom::kernels

int main(int argc, char** argv) { return fathom::kernels::run_all(argc > 1 ? argv[1] : ""); }
