// MLA's decode attention as a whole op on one GPU: queries into the latent's space and cache
// entries, the attention, partial results and values; and each of its launches alone. Outputs are
// compared with the plain launches' (every number), rows with themselves alone (every bit). Times
// are medians of graphs over as many layers as keep the second-level cache cold. Prints one JSON
// object a line.
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
#include "kernels/attention.h"
#include "kernels/mla_decode.h"
#include "kernels/mla_entry.h"
#include "kernels/mla_output.h"
#include "kernels/mla_project.h"

namespace fathom::kernels {
namespace {

using bench::check;
using bench::Device;
using bench::fill_random;
using bench::median_ms;

constexpr double kBandwidth = 3.0e12;
constexpr int32_t kHeadQuery = kMlaNope + kMlaRope;

struct Case {
  std::string name;
  int32_t heads = 16;
  std::vector<int32_t> visible;  // by row, its token included; 0: padding
};

using Numbers = std::unique_ptr<Device<__nv_bfloat16>>;

Numbers random_numbers(int64_t n, uint64_t seed, float spread) {
  auto memory = std::make_unique<Device<__nv_bfloat16>>(static_cast<size_t>(n));
  fill_random<<<1024, 256>>>(memory->data, static_cast<size_t>(n), seed, spread);
  check(cudaDeviceSynchronize(), "fill");
  return memory;
}

template <typename T>
std::unique_ptr<Device<T>> on_device(const std::vector<T>& host) {
  return std::make_unique<Device<T>>(host);
}

struct Layer {
  Numbers cache, up_key, up_value;
};

struct Setup {
  explicit Setup(const Case& c);
  void place_arrays();
  void entry(cudaStream_t stream, size_t layer) const;
  void attend(cudaStream_t stream, size_t layer, bool merge) const;
  void output(cudaStream_t stream, size_t layer) const;
  void plain_write(cudaStream_t stream, size_t layer) const;
  void plain_absorb(cudaStream_t stream, size_t layer) const;
  void plain_values(cudaStream_t stream, size_t layer) const;
  void schedule_step(cudaStream_t stream) const {
    check(mla_schedule(stream, desc, config, call.rows, schedule), "mla_schedule");
  }
  void op(cudaStream_t stream, size_t layer) const {
    entry(stream, layer);
    attend(stream, layer, false);
    output(stream, layer);
  }
  void plain_op(cudaStream_t stream, size_t layer) const {
    plain_write(stream, layer);
    plain_absorb(stream, layer);
    attend(stream, layer, true);
    plain_values(stream, layer);
  }
  HeadProjection projection(const void* x, const void* weights, void* to) const;

  int32_t heads, rows;
  std::vector<int32_t> slot, first, query, context, positions, table;
  std::vector<uint8_t> valid;
  int32_t blocks_max = 1;
  int64_t blocks = 1;
  MlaDecodeDesc desc;
  MlaDecodeConfig config;
  std::vector<Layer> layers;
  Numbers q, kv_a, queries, latents, out;
  std::vector<std::unique_ptr<Device<int32_t>>> ints;
  std::unique_ptr<Device<uint8_t>> valid_device;
  std::unique_ptr<Device<float>> partial, partial_weights, kv_norm, cosines, sines;
  std::unique_ptr<Device<MlaPart>> parts;
  std::unique_ptr<Device<MlaCut>> cuts;
  MlaDecodeCall call;
  MlaSchedule schedule;
  MlaShape shape;
  AttentionBatch batch;
  double bytes = 0.0;
};

Setup::Setup(const Case& c) : heads(c.heads), rows(static_cast<int32_t>(c.visible.size())) {
  for (const int32_t v : c.visible) blocks_max = std::max(blocks_max, (v + 63) / 64);
  table.assign(static_cast<size_t>(rows + 1) * blocks_max, 0);
  for (int32_t r = 0; r < rows; ++r) {
    const int32_t v = c.visible[r];
    slot.push_back(v == 0 ? 0 : r + 1);
    first.push_back(r);
    query.push_back(v == 0 ? 0 : 1);
    context.push_back(std::max(v - 1, 0));
    positions.push_back(std::max(v - 1, 0));
    valid.push_back(v == 0 ? 0 : 1);
    blocks += (v + 63) / 64;
    bytes += static_cast<double>(v) * kMlaEntry * 2;
  }
  bytes += static_cast<double>(heads) * (kMlaNope + kMlaValue) * kMlaLatent * 2 +
           static_cast<double>(rows) * heads * (kHeadQuery + kMlaValue) * 2;
  std::vector<int32_t> order;
  for (int32_t b = 1; b < blocks; ++b) order.push_back(b);
  std::shuffle(order.begin(), order.end(), std::mt19937(7));
  size_t at = 0;
  for (int32_t r = 0; r < rows; ++r)
    for (int32_t b = 0; b < (c.visible[r] + 63) / 64; ++b)
      table[static_cast<size_t>(slot[r]) * blocks_max + b] = order[at++];
  desc = {rows, 1, heads};
  config = choose_mla_decode(desc);
  const auto count = static_cast<size_t>(std::clamp(4e8 / bytes, 4.0, 27.0));
  for (size_t i = 0; i < count; ++i) {
    layers.push_back({random_numbers(blocks * 64 * kMlaEntry, 1 + i * 977, 1.0F),
                      random_numbers(int64_t{heads} * kMlaLatent * kMlaNope, 2 + i * 977, 0.08F),
                      random_numbers(int64_t{heads} * kMlaLatent * kMlaValue, 3 + i * 977, 0.06F)});
  }
  place_arrays();
}

// What the step's arrays and views are.
void Setup::place_arrays() {
  q = random_numbers(int64_t{rows} * heads * kHeadQuery, 5, 1.5F);
  kv_a = random_numbers(int64_t{rows} * kMlaEntry, 6, 1.0F);
  queries = random_numbers(int64_t{rows} * heads * kMlaEntry, 7, 1.0F);
  latents = random_numbers(int64_t{rows} * heads * kMlaLatent, 8, 1.0F);
  out = random_numbers(int64_t{rows} * heads * kMlaValue, 9, 1.0F);
  for (const auto* v : {&slot, &first, &query, &context, &table, &positions})
    ints.push_back(on_device(*v));
  valid_device = on_device(valid);
  const int32_t longest = *std::max_element(positions.begin(), positions.end()) + 1;
  std::vector<float> c32(static_cast<size_t>(longest) * 32);
  std::vector<float> s32(c32.size());
  for (size_t i = 0; i < c32.size(); ++i) {
    c32[i] = std::cos(static_cast<float>(i / 32) * 0.37F / static_cast<float>(1 + i % 32));
    s32[i] = std::sin(static_cast<float>(i / 32) * 0.37F / static_cast<float>(1 + i % 32));
  }
  cosines = on_device(c32);
  sines = on_device(s32);
  kv_norm = on_device(std::vector<float>(kMlaLatent, 1.0F));
  partial = std::make_unique<Device<float>>(config.partial_pairs() * kMlaLatent);
  partial_weights = std::make_unique<Device<float>>(2 * config.partial_pairs());
  parts = std::make_unique<Device<MlaPart>>(kMlaPartsMax);
  cuts = std::make_unique<Device<MlaCut>>(kMlaRowsMax);
  schedule = {parts->data, cuts->data};
  call.rows = {ints[0]->data, ints[1]->data, ints[2]->data,
               ints[3]->data, ints[4]->data, blocks_max};
  call.tokens = rows;
  call.queries = queries->data;
  call.blocks = blocks;
  call.softmax_scale = 0.1352337788608801F;
  call.out = latents->data;
  call.partial = partial->data;
  call.partial_weights = partial_weights->data;
  shape = {heads, kMlaNope, kMlaRope, kMlaValue, kMlaLatent, 64, call.softmax_scale, 1e-6F};
  batch.positions = ints[5]->data;
  batch.token_row = ints[1]->data;  // a token a row
  batch.token_valid = valid_device->data;
  batch.row_slot = ints[0]->data;
  batch.block_table = ints[4]->data;
  batch.table_stride = blocks_max;
  batch.cosines = cosines->data;
  batch.sines = sines->data;
  batch.rope_stride = 32;
  batch.cache_format = Format::kBF16;
  batch.tokens = rows;
}

void Setup::entry(cudaStream_t stream, size_t layer) const {
  MlaEntryCall e;
  e.shape = shape;
  e.batch = batch;
  e.batch.cache = layers[layer].cache->data;
  e.kv_a = {kv_a->data, Format::kBF16, kMlaEntry};
  e.kv_norm = kv_norm->data;
  e.q = {q->data, Format::kBF16, int64_t{heads} * kHeadQuery};
  e.up_key = layers[layer].up_key->data;
  e.queries = queries->data;
  e.query_tokens = rows;
  if (!mla_entry_fits(e)) std::exit(2);
  check(mla_entry(stream, e), "mla_entry");
}

void Setup::attend(cudaStream_t stream, size_t layer, bool merge) const {
  MlaDecodeCall d = call;
  d.cache = layers[layer].cache->data;
  d.merge = merge;
  check(mla_decode(stream, desc, config, schedule, d), "mla_decode");
}

void Setup::output(cudaStream_t stream, size_t layer) const {
  MlaOutputCall o;
  o.rows = call.rows;
  o.schedule = schedule;
  o.token_row = batch.token_row;
  o.token_valid = batch.token_valid;
  o.end_row = rows;
  o.tokens = rows;
  o.heads = heads;
  o.latents = latents->data;
  o.partial = partial->data;
  o.partial_weights = partial_weights->data;
  o.up_value = layers[layer].up_value->data;
  o.out.data = out->data;
  o.out.format = Format::kBF16;
  o.out.stride = int64_t{heads} * kMlaValue;
  if (!mla_output_fits(o)) std::exit(2);
  check(mla_output(stream, config, o), "mla_output");
}

void Setup::plain_write(cudaStream_t stream, size_t layer) const {
  AttentionBatch b = batch;
  b.cache = layers[layer].cache->data;
  mla_write(stream, shape, b, {kv_a->data, Format::kBF16, kMlaEntry}, kv_norm->data,
            {{q->data, Format::kBF16, int64_t{heads} * kHeadQuery}, queries->data, rows});
}

HeadProjection Setup::projection(const void* x, const void* weights, void* to) const {
  HeadProjection h;
  h.x = x;
  h.weights = weights;
  h.heads = heads;
  h.tokens = rows;
  h.out = to;
  h.out_format = Format::kBF16;
  return h;
}

void Setup::plain_absorb(cudaStream_t stream, size_t layer) const {
  HeadProjection h = projection(q->data, layers[layer].up_key->data, queries->data);
  h.x_stride = int64_t{heads} * kHeadQuery;
  h.x_head_stride = kHeadQuery;
  h.columns = kMlaLatent;
  h.inner = kMlaNope;
  h.out_stride = int64_t{heads} * kMlaEntry;
  h.out_head_stride = kMlaEntry;
  check(project_heads(stream, h), "project_heads");
}

void Setup::plain_values(cudaStream_t stream, size_t layer) const {
  HeadProjection h = projection(latents->data, layers[layer].up_value->data, out->data);
  h.x_stride = int64_t{heads} * kMlaLatent;
  h.x_head_stride = kMlaLatent;
  h.columns = kMlaValue;
  h.inner = kMlaLatent;
  h.token_row = batch.token_row;
  h.valid = batch.token_valid;
  h.end_row = rows;
  h.out_stride = int64_t{heads} * kMlaValue;
  h.out_head_stride = kMlaValue;
  check(project_heads(stream, h), "project_heads");
}

std::vector<float> floats_of(const Device<__nv_bfloat16>& d) {
  std::vector<float> v;
  for (const __nv_bfloat16 x : d.host()) v.push_back(__bfloat162float(x));
  return v;
}

double distance(const std::vector<float>& a, const std::vector<float>& b) {
  double error = 0.0;
  double size = 0.0;
  for (size_t i = 0; i < a.size(); ++i) {
    error += (a[i] - b[i]) * (a[i] - b[i]);
    size += b[i] * b[i];
  }
  return std::sqrt(error / size);
}

// Rows whose bits are others when the step has them alone; -1 where the kernel cuts as it likes.
int changed_by_batch(cudaStream_t stream, const Case& c, const std::vector<float>& all) {
  if (!choose_mla_decode({static_cast<int32_t>(c.visible.size()), 1, c.heads}).fixed_cuts)
    return -1;
  int changed = 0;
  Setup s(c);
  Setup one(c);
  const auto row_numbers = static_cast<size_t>(c.heads) * kMlaValue;
  for (int32_t row = 0; row < s.rows; row += std::max(1, s.rows / 6)) {
    one.rows = 1;
    one.desc.rows = 1;
    one.config = choose_mla_decode(one.desc);
    one.call.rows = s.call.rows;
    one.call.rows.slot += row;
    one.call.rows.query += row;
    one.call.rows.context += row;
    one.call.tokens = 1;
    one.batch = s.batch;
    one.batch.positions += row;
    one.batch.token_valid += row;
    one.batch.row_slot += row;
    one.batch.tokens = 1;
    check(cudaMemcpyAsync(one.q->data, s.q->data + row * int64_t{c.heads} * kHeadQuery,
                          static_cast<size_t>(c.heads) * kHeadQuery * 2, cudaMemcpyDeviceToDevice,
                          stream),
          "row");
    check(cudaMemcpyAsync(one.kv_a->data, s.kv_a->data + int64_t{row} * kMlaEntry, kMlaEntry * 2,
                          cudaMemcpyDeviceToDevice, stream),
          "row");
    one.schedule_step(stream);
    one.op(stream, 0);
    check(cudaStreamSynchronize(stream), "alone");
    const std::vector<float> alone = floats_of(*one.out);
    changed +=
        std::memcmp(alone.data(), all.data() + row * row_numbers, row_numbers * 4) == 0 ? 0 : 1;
  }
  return changed;
}

template <typename Launch>
double each_us(cudaStream_t stream, const Setup& s, Launch&& launch) {
  return median_ms(stream,
                   [&] {
                     for (size_t i = 0; i < s.layers.size(); ++i) launch(i);
                   }) *
         1e3 / static_cast<double>(s.layers.size());
}

enum class Times { kNone, kOp, kAll };

bool run_case(cudaStream_t stream, const Case& c, Times times) {
  Setup s(c);
  s.schedule_step(stream);
  s.plain_op(stream, 0);
  check(cudaStreamSynchronize(stream), "plain");
  const std::vector<float> plain = floats_of(*s.out);
  const std::vector<float> plain_cache = floats_of(*s.layers[0].cache);
  Setup t(c);
  check(cudaMemsetAsync(t.partial->data, 0xFF, t.partial->count * 4, stream), "poison");
  check(cudaMemsetAsync(t.out->data, 0xFF, t.out->count * 2, stream), "poison");
  t.schedule_step(stream);
  t.op(stream, 0);
  check(cudaStreamSynchronize(stream), "op");
  const std::vector<float> out = floats_of(*t.out);
  const double error = distance(out, plain);
  const double cache_error = distance(floats_of(*t.layers[0].cache), plain_cache);
  const int changed = changed_by_batch(stream, c, out);
  const bool right = error < 3e-3 && cache_error < 1e-4 && changed <= 0;
  const double op_us = times == Times::kNone
                           ? 0.0
                           : median_ms(stream,
                                       [&] {
                                         s.schedule_step(stream);
                                         for (size_t i = 0; i < s.layers.size(); ++i)
                                           s.op(stream, i);
                                       }) *
                                 1e3 / static_cast<double>(s.layers.size());
  const double floor_us = s.bytes / kBandwidth * 1e6;
  std::printf(
      "{\"case\": \"%s\", \"right\": %s, \"error\": %.2e, \"cache_error\": %.2e, "
      "\"rows_changed_by_batch\": %d, \"op_us\": %.2f, \"floor_us\": %.1f",
      c.name.c_str(), right ? "true" : "false", error, cache_error, changed, op_us, floor_us);
  if (times == Times::kAll) {
    const auto us = [&](auto&& launch) { return each_us(stream, s, launch); };
    std::printf(
        ", \"plain_op_us\": %.2f, \"entry_us\": %.2f, \"attend_us\": %.2f, \"output_us\": %.2f, "
        "\"plain_write_us\": %.2f, \"plain_absorb_us\": %.2f, \"attend_merge_us\": %.2f, "
        "\"plain_values_us\": %.2f, \"schedule_us\": %.2f",
        us([&](size_t i) { s.plain_op(stream, i); }), us([&](size_t i) { s.entry(stream, i); }),
        us([&](size_t i) { s.attend(stream, i, false); }),
        us([&](size_t i) { s.output(stream, i); }), us([&](size_t i) { s.plain_write(stream, i); }),
        us([&](size_t i) { s.plain_absorb(stream, i); }),
        us([&](size_t i) { s.attend(stream, i, true); }),
        us([&](size_t i) { s.plain_values(stream, i); }),
        us([&](size_t) { s.schedule_step(stream); }));
  }
  std::printf("}\n");
  std::fflush(stdout);
  return right;
}

std::vector<Case> cases() {
  const auto same = [](int32_t rows, int32_t length) {
    return std::vector<int32_t>(static_cast<size_t>(rows), length);
  };
  std::vector<int32_t> ragged;
  std::mt19937 random(3);
  std::uniform_int_distribution<int32_t> length(100, 8192);
  for (int i = 0; i < 128; ++i) ragged.push_back(i % 9 == 5 ? 0 : length(random));
  return {
      {"16 heads, 1 x 1k", 16, same(1, 1024)},       {"16 heads, 8 x 1k", 16, same(8, 1024)},
      {"16 heads, 32 x 1k", 16, same(32, 1024)},     {"16 heads, 128 x 1k", 16, same(128, 1024)},
      {"16 heads, 256 x 1k", 16, same(256, 1024)},   {"16 heads, 1 x 32k", 16, same(1, 32768)},
      {"16 heads, 128 ragged, padding", 16, ragged}, {"128 heads, 1 x 1k", 128, same(1, 1024)},
      {"128 heads, 32 x 1k", 128, same(32, 1024)},   {"128 heads, 64 x 4k", 128, same(64, 4096)},
  };
}

int run_all(const char* filter, const std::string& times) {
  const Times wanted = times == "op" ? Times::kOp : times == "check" ? Times::kNone : Times::kAll;
  cudaStream_t stream = nullptr;
  check(cudaStreamCreateWithFlags(&stream, cudaStreamNonBlocking), "stream");
  bool right = true;
  for (const Case& c : cases())
    if (c.name.find(filter) != std::string::npos) right = run_case(stream, c, wanted) && right;
  cudaStreamDestroy(stream);
  return right ? 0 : 1;
}

}  // namespace
}  // namespace fathom::kernels

// mla_op_bench [part of a case's name] [op: the op's time alone; check: none]
int main(int argc, char** argv) {
  return fathom::kernels::run_all(argc > 1 ? argv[1] : "", argc > 2 ? argv[2] : "");
}
