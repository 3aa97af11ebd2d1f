// Packed weights on one GPU. Without arguments: that they are the plain ones bit for bit, and their
// products the plain kernel's. --time [--rows N,...] [CASE ...]: microseconds in a captured chain
// of calls, weights rotated, beside the kernel that has the plain weights; CASE is
// n,k,gated,units,split,overlap_next (gated and overlap_next 0 or 1). Prints one JSON object a
// line.
#include <cmath>
#include <cstring>

#include "gemm/gemm_data.cuh"
#include "kernels/dense.h"
#include "kernels/gated.h"
#include "kernels/packed_gemm.h"
#include "kernels/packed_number.h"
#include "kernels/skinny_gemm.h"
#include "kernels/wide_gemm.h"
#include "ops/cuda/choose_gemm.h"

namespace fathom {
namespace {

using namespace bench;
using kernels::PackedMatrix;
using kernels::PackedNote;
using kernels::PackedPlan;

constexpr int64_t kRowsMax = 128;
constexpr int64_t kInMax = 14336;
constexpr int64_t kOutMax = 28672;
constexpr int64_t kRotatedBytes = int64_t{410} << 20;
constexpr int64_t kWeightBytes = int64_t{700} << 20;

struct Shape {
  int64_t out;
  int64_t in;
  bool gated;
};
constexpr Shape kShapes[] = {
    {28672, 4096, true}, {28672, 4096, false}, {4096, 14336, false}, {6144, 4096, false},
    {4096, 4096, false}, {336, 192, true},     {328, 320, false},
};

struct Bench {
  cudaStream_t stream = nullptr;
  int sms = 0;
  uint16_t* weights = nullptr;
  uint8_t* packed = nullptr;
  uint16_t* x = nullptr;
  float* y = nullptr;
  float* again = nullptr;
  float* reference = nullptr;
  float* both = nullptr;
  double* sums = nullptr;
  uint32_t* count = nullptr;
  PackedNote* note = nullptr;
  int64_t wrong = 0;
};

void set_up(Bench& b) {
  require(cudaSetDevice(0), "device");
  require(cudaDeviceGetAttribute(&b.sms, cudaDevAttrMultiProcessorCount, 0), "device");
  require(cudaStreamCreateWithFlags(&b.stream, cudaStreamNonBlocking), "stream");
  require(kernels::load_packed_gemm(), "load");
  require(kernels::load_skinny_gemm(), "load");
  require(kernels::load_wide_gemm(), "load");
  b.weights = device_array<uint16_t>(kWeightBytes / 2);
  b.packed = device_array<uint8_t>(kWeightBytes);
  b.x = device_array<uint16_t>(kRowsMax * kInMax);
  b.y = device_array<float>(kRowsMax * kOutMax);
  b.again = device_array<float>(kRowsMax * kOutMax);
  b.reference = device_array<float>(kRowsMax * kOutMax);
  b.both = device_array<float>(kRowsMax * kOutMax);
  b.sums = device_array<double>(2);
  b.count = device_array<uint32_t>(1);
  b.note = device_array<PackedNote>(1);
}

// ---- Weights of several kinds.

enum class Kind { kNormal, kHeavy, kSpecial, kEqual, kLarge, kZeros };
constexpr const char* kKindNames[] = {"normal", "heavy", "special", "equal", "large", "zeros"};

__device__ uint16_t number_of(Kind kind, uint64_t seed, int64_t i) {
  const float normal = 0.02F * normal_at(seed, i);
  float x = normal;
  const uint32_t dice = hashed(seed + 77 * i) % 5000;
  switch (kind) {
    case Kind::kHeavy: x = normal * expf(1.2F * normal_at(seed + 1, i)); break;
    case Kind::kEqual: x = 0.75F; break;
    case Kind::kLarge: x = normal * 1e30F; break;
    case Kind::kZeros: x = dice % 4 == 0 ? 0.0F : normal; break;
    case Kind::kSpecial:
      if (dice < 8) {  // 0, -0, infinities, a NaN, the least and other subnormals, a large number
        constexpr uint16_t kBits[8] = {0, 0x8000, 0x7F80, 0xFF80, 0xFFC1, 1, 0x8055, 0x7000};
        return kBits[dice];
      }
      break;
    default: break;
  }
  return __bfloat16_as_ushort(__float2bfloat16_rn(x));
}

__global__ void weights_kernel(uint16_t* p, int64_t n, Kind kind, uint64_t seed) {
  const int64_t step = int64_t{gridDim.x} * blockDim.x;
  for (int64_t i = int64_t{blockIdx.x} * blockDim.x + threadIdx.x; i < n; i += step) {
    p[i] = number_of(kind, seed, i);
  }
}

__global__ void widen_kernel(const __nv_bfloat16* from, int64_t n, float* to) {
  const int64_t step = int64_t{gridDim.x} * blockDim.x;
  for (int64_t i = int64_t{blockIdx.x} * blockDim.x + threadIdx.x; i < n; i += step) {
    to[i] = __bfloat162float(from[i]);
  }
}

__global__ void round_kernel(float* p, int64_t n) {
  const int64_t step = int64_t{gridDim.x} * blockDim.x;
  for (int64_t i = int64_t{blockIdx.x} * blockDim.x + threadIdx.x; i < n; i += step) {
    p[i] = kernels::round_number(Format::kBF16, p[i]);
  }
}

template <typename T>
__global__ void unequal_kernel(const T* a, const T* b, int64_t n, uint32_t* count) {
  const int64_t step = int64_t{gridDim.x} * blockDim.x;
  uint32_t mine = 0;
  for (int64_t i = int64_t{blockIdx.x} * blockDim.x + threadIdx.x; i < n; i += step) {
    mine += a[i] != b[i];
  }
  if (mine > 0) atomicAdd(count, mine);
}

template <typename T>
uint32_t unequal(Bench& b, const T* x, const T* y, int64_t n) {
  uint32_t count = 0;
  require(cudaMemsetAsync(b.count, 0, sizeof count, b.stream), "count");
  unequal_kernel<<<1024, 256, 0, b.stream>>>(x, y, n, b.count);
  require(cudaMemcpyAsync(&count, b.count, sizeof count, cudaMemcpyDeviceToHost, b.stream),
          "count");
  require(cudaStreamSynchronize(b.stream), "count");
  return count;
}

void fill(Bench& b, uint16_t* to, int64_t n, Kind kind, uint64_t seed) {
  weights_kernel<<<static_cast<unsigned>(b.sms * 8), 256, 0, b.stream>>>(to, n, kind, seed);
}

kernels::Matrix plain(const Bench& b, const Shape& s, int64_t copy) {
  kernels::Matrix w;
  w.data = b.weights + copy * s.out * s.in;
  w.format = Format::kBF16;
  w.out = s.out;
  w.in = s.in;
  w.stride = s.in;
  return w;
}

PackedMatrix pack(Bench& b, const Shape& s, int64_t copy, PackedNote& note) {
  PackedMatrix m;
  uint8_t* const records = b.packed + copy * kernels::packed_bytes(s.out, s.in);
  m.records = records;
  m.out = s.out;
  m.in = s.in;
  m.gated = s.gated;
  require(kernels::pack_weights(b.stream, plain(b, s, copy), s.gated, records, b.note), "pack");
  require(cudaMemcpyAsync(&note, b.note, sizeof note, cudaMemcpyDeviceToHost, b.stream), "note");
  require(cudaStreamSynchronize(b.stream), "pack");
  m.base = note.base;
  return m;
}

// ---- Packed weights are the plain ones.

void check_packing(Bench& b, const Shape& s, Kind kind) {
  const int64_t n = s.out * s.in;
  fill(b, b.weights, n, kind, 3);
  PackedNote note;
  const PackedMatrix m = pack(b, s, 0, note);
  uint16_t* const unpacked = b.weights + n;
  require(cudaMemsetAsync(unpacked, 0xA5, static_cast<size_t>(n) * 2, b.stream), "poison");
  require(kernels::unpack_weights(b.stream, m, unpacked), "unpack");
  const uint32_t wrong = unequal(b, b.weights, unpacked, n);
  // A matrix that is not packed says so; one that is has the very numbers.
  if (note.packed() == (wrong != 0) || note.packed() != (kind != Kind::kZeros)) ++b.wrong;
  std::printf(
      "{\"pack\": \"%s\", \"n\": %lld, \"k\": %lld, \"gated\": %d, \"base\": %d, \"packed\": %d, "
      "\"wrong\": %u, \"exceptions\": %u, \"most\": %u, \"inexact\": %u}\n",
      kKindNames[static_cast<int>(kind)], static_cast<long long>(s.out),
      static_cast<long long>(s.in), s.gated, note.base, note.packed(), wrong, note.exceptions,
      note.exceptions_max, note.inexact);
}

// ---- Products.

int32_t token_tile_of(int64_t rows) {
  for (const int32_t tile : {8, 32, 64}) {
    if (rows <= tile) return tile;
  }
  return 128;
}

// As many stages as fit.
PackedPlan plan_of(int64_t rows, int32_t units, int32_t split, bool overlap_next) {
  PackedPlan p;
  p.token_tile = token_tile_of(rows);
  p.units = units;
  p.slot_rows = static_cast<int32_t>((rows + 7) / 8 * 8);
  p.split = split;
  p.overlap_next = overlap_next;
  const int32_t room = kernels::packed_room(p.token_tile, units);
  while (p.stages < kernels::kPackedStagesMax &&
         kernels::packed_shared_bytes(p, p.stages + 1) <= room) {
    ++p.stages;
  }
  return p;
}

kernels::Rows activations(const Bench& b, const Shape& s) {
  return kernels::Rows{b.x, Format::kBF16, s.in, nullptr, 0};
}

void make_reference(Bench& b, const Shape& s) {
  kernels::linear(b.stream, activations(b, s), kRowsMax, plain(b, s, 0),
                  kernels::Rows{s.gated ? b.both : b.reference, Format::kF32, s.out, nullptr, 0},
                  s.gated ? Format::kBF16 : Format::kF32);
  if (!s.gated) return;
  kernels::Epilogue to;
  to.data = b.reference;
  to.stride = s.out / 2;
  require(kernels::gate_rows(b.stream, kernels::Rows{b.both, Format::kF32, s.out, nullptr, 0},
                             kRowsMax, s.out / 2, to),
          "gate");
}

// To `to`, poisoned before, in float32 rounded through `round`, or in bf16.
void multiply(Bench& b, const Shape& s, const PackedMatrix& m, int64_t rows, const PackedPlan& plan,
              float* to, Format format, Format round) {
  const int64_t width = s.gated ? s.out / 2 : s.out;
  require(cudaMemsetAsync(to, 0xFF, static_cast<size_t>(rows * width) * 4, b.stream), "poison");
  require(kernels::packed_gemm(b.stream, activations(b, s), rows, m,
                               kernels::Rows{to, format, width, nullptr, 0}, round, plan),
          "packed_gemm");
}

// Numbers of rows stored in bf16 that are not those stored in float32 and rounded.
uint32_t unlike_rounded(Bench& b, const Shape& s, const PackedMatrix& m, int64_t rows,
                        const PackedPlan& plan) {
  const int64_t n = rows * (s.gated ? s.out / 2 : s.out);
  multiply(b, s, m, rows, plan, b.both, Format::kBF16, Format::kBF16);
  widen_kernel<<<1024, 256, 0, b.stream>>>(reinterpret_cast<__nv_bfloat16*>(b.both), n, b.again);
  multiply(b, s, m, rows, plan, b.y, Format::kF32, Format::kBF16);
  if (s.gated) round_kernel<<<1024, 256, 0, b.stream>>>(b.y, n);  // once more, as when stored
  return unequal(b, reinterpret_cast<uint32_t*>(b.y), reinterpret_cast<uint32_t*>(b.again), n);
}

double error_of(Bench& b, int64_t n) {
  difference_kernel<<<1, 1024, 0, b.stream>>>(b.y, b.reference, n, b.sums);
  double sums[2] = {};
  require(cudaMemcpyAsync(sums, b.sums, sizeof sums, cudaMemcpyDeviceToHost, b.stream), "sums");
  require(cudaStreamSynchronize(b.stream), "difference");
  return std::sqrt(sums[0] / sums[1]);
}

// Results that differ from the skinny kernel's, which sums the plain numbers in the same order, 64
// rows at once: none may. -1: it has no such split, or no gate.
int64_t unlike_skinny(Bench& b, const Shape& s, int64_t rows, const PackedPlan& plan) {
  if (s.gated || plan.split == 3) return -1;
  kernels::SkinnyPlan p;
  p.token_tile = 64;
  p.split = plan.split;
  p.stages = 2;
  for (int64_t first = 0; first < rows; first += p.token_tile) {
    kernels::Rows x = activations(b, s);
    x.data = static_cast<uint16_t*>(x.data) + first * x.stride;
    require(kernels::skinny_gemm(
                b.stream, x, std::min<int64_t>(rows - first, p.token_tile), plain(b, s, 0),
                kernels::Rows{b.again + first * s.out, Format::kF32, s.out, nullptr, 0},
                Format::kF32, p),
            "skinny");
  }
  return unequal(b, reinterpret_cast<uint32_t*>(b.y), reinterpret_cast<uint32_t*>(b.again),
                 rows * s.out);
}

void check_product(Bench& b, const Shape& s, const PackedMatrix& m, int64_t rows, int32_t units,
                   int32_t split) {
  if (rows <= 64 && units > 2) return;
  const PackedPlan plan = plan_of(rows, units, split, true);
  const int64_t n = rows * (s.gated ? s.out / 2 : s.out);
  const Format round = s.gated ? Format::kBF16 : Format::kF32;
  multiply(b, s, m, rows, plan, b.y, Format::kF32, round);
  const double error = error_of(b, n);
  multiply(b, s, m, rows, plan, b.again, Format::kF32, round);
  const uint32_t unlike =
      unequal(b, reinterpret_cast<uint32_t*>(b.y), reinterpret_cast<uint32_t*>(b.again), n);
  const int64_t skinny = unlike_skinny(b, s, rows, plan);
  // bf16's step; or a rounding of float32 for each 16 columns.
  const double bound = s.gated ? 0x1p-8 : static_cast<double>(s.in / 16) * 0x1p-24;
  const uint32_t unlike_bf16 = unlike_rounded(b, s, m, rows, plan);
  const bool wrong = !(error < bound) || unlike != 0 || skinny > 0 || unlike_bf16 != 0;
  if (wrong) ++b.wrong;
  if (!wrong && rows != 17) return;
  std::printf(
      "{\"product\": \"%lld,%lld,%d\", \"rows\": %lld, \"tile\": %d, \"units\": %d, \"split\": %d, "
      "\"stages\": %d, \"error\": %.2e, \"unlike\": %u, \"unlike_skinny\": %lld, "
      "\"unlike_bf16\": %u}\n",
      static_cast<long long>(s.out), static_cast<long long>(s.in), s.gated,
      static_cast<long long>(rows), plan.token_tile, units, split, plan.stages, error, unlike,
      static_cast<long long>(skinny), unlike_bf16);
  std::fflush(stdout);
}

void check(Bench& b) {
  for (const Kind kind :
       {Kind::kNormal, Kind::kHeavy, Kind::kSpecial, Kind::kEqual, Kind::kLarge, Kind::kZeros}) {
    for (const Shape& s : kShapes) check_packing(b, s, kind);
  }
  fill_kernel<<<1024, 256, 0, b.stream>>>(b.x, Format::kBF16, kRowsMax * kInMax, 5, 1.0F);
  for (const Shape& s : kShapes) {
    fill(b, b.weights, s.out * s.in, Kind::kHeavy, 9);
    PackedNote note;
    const PackedMatrix m = pack(b, s, 0, note);
    make_reference(b, s);
    const int32_t most = s.in < 1024 ? 2 : 8;
    for (const int64_t rows : {1, 3, 8, 17, 32, 64, 65, 100, 128}) {
      for (const int32_t units : {1, 2, 4}) {
        for (const int32_t split : {1, 2, 3, 4, 8}) {
          if (split > most || (split != 1 && s.out > 8192) || (units == 4 && split > 1)) continue;
          check_product(b, s, m, rows, units, split);
        }
      }
    }
  }
  std::printf("{\"wrong\": %lld}\n", static_cast<long long>(b.wrong));
}

// ---- Times.

template <typename Call>
double time_of(Bench& b, int64_t copies, int64_t calls, const Call& call) {
  cudaGraph_t graph = nullptr;
  cudaGraphExec_t exec = nullptr;
  require(cudaStreamBeginCapture(b.stream, cudaStreamCaptureModeThreadLocal), "capture");
  for (int64_t i = 0; i < calls; ++i) call(i % copies);
  require(cudaStreamEndCapture(b.stream, &graph), "capture");
  require(cudaGraphInstantiate(&exec, graph, 0), "graph");
  const double us = median_us(b.stream, 12, [&] { cudaGraphLaunch(exec, b.stream); });
  cudaGraphExecDestroy(exec);
  cudaGraphDestroy(graph);
  return us / static_cast<double>(calls);
}

// The kernel of the plain weights, and the gate's where it is another.
void multiply_plain(Bench& b, const Shape& s, int64_t copy, int64_t rows) {
  GemmProblem p;
  p.rows = rows;
  p.out = s.out;
  p.in = s.in;
  p.gated = s.gated;
  const GemmChoice choice = choose_gemm(p);
  const int64_t width = s.gated ? s.out / 2 : s.out;
  const kernels::Rows y{b.y, Format::kBF16, width, nullptr, 0};
  if (choice.kernel == GemmKernel::kWide) {
    require(kernels::wide_gemm(b.stream, activations(b, s), rows, plain(b, s, copy), y,
                               Format::kBF16, s.gated, choice.wide),
            "wide");
    return;
  }
  const kernels::Rows both{b.both, Format::kBF16, s.out, nullptr, 0};
  require(kernels::skinny_gemm(b.stream, activations(b, s), rows, plain(b, s, copy),
                               s.gated ? both : y, Format::kBF16, choice.skinny),
          "skinny");
  if (!s.gated) return;
  kernels::Epilogue to;
  to.data = b.y;
  to.format = Format::kBF16;
  to.stride = width;
  require(kernels::gate_rows(b.stream, both, rows, width, to), "gate");
}

struct TimedCase {
  Shape shape;
  int32_t units;
  int32_t split;
  bool overlap_next;
};

void print_time(const Shape& s, int64_t rows, const PackedPlan& p, double us) {
  const bool plain = p.units == 0;
  const int64_t bytes = plain ? s.out * s.in * 2 : kernels::packed_bytes(s.out, s.in);
  std::printf(
      "{\"kernel\": \"%s\", \"n\": %lld, \"k\": %lld, \"gated\": %s, \"m\": %lld, \"us\": %.2f, "
      "\"tb_s\": %.3f, \"units\": %d, \"split\": %d, \"stages\": %d, \"overlap_next\": %s}\n",
      plain ? "plain" : "packed", static_cast<long long>(s.out), static_cast<long long>(s.in),
      s.gated ? "true" : "false", static_cast<long long>(rows), us,
      1e-6 * static_cast<double>(bytes) / us, p.units, p.split, p.stages,
      p.overlap_next ? "true" : "false");
  std::fflush(stdout);
}

void measure_rows(Bench& b, const Shape& s, const std::vector<TimedCase>& cases,
                  const std::vector<PackedMatrix>& packed, int64_t rows) {
  const auto copies = static_cast<int64_t>(packed.size());
  const int64_t calls = std::max<int64_t>(copies, s.out * s.in > 50000000 ? 16 : 48);
  const int64_t width = s.gated ? s.out / 2 : s.out;
  const kernels::Rows y{b.y, Format::kBF16, width, nullptr, 0};
  print_time(s, rows, PackedPlan{},
             time_of(b, copies, calls, [&](int64_t copy) { multiply_plain(b, s, copy, rows); }));
  for (const TimedCase& c : cases) {
    if (c.shape.out != s.out || c.shape.in != s.in || c.shape.gated != s.gated) continue;
    if (rows <= 64 && c.units > 2) continue;
    const PackedPlan plan = plan_of(rows, c.units, c.split, c.overlap_next);
    if (plan.stages < 2) continue;
    print_time(
        s, rows, plan, time_of(b, copies, calls, [&](int64_t copy) {
          require(kernels::packed_gemm(b.stream, activations(b, s), rows,
                                       packed[static_cast<size_t>(copy)], y, Format::kBF16, plan),
                  "packed");
        }));
  }
}

void measure(Bench& b, const std::vector<TimedCase>& cases,
             const std::vector<int64_t>& row_counts) {
  fill_kernel<<<1024, 256, 0, b.stream>>>(b.x, Format::kBF16, kRowsMax * kInMax, 5, 1.0F);
  for (size_t i = 0; i < cases.size(); ++i) {
    const Shape& s = cases[i].shape;
    const auto same = [&](const TimedCase& c) {
      return c.shape.out == s.out && c.shape.in == s.in && c.shape.gated == s.gated;
    };
    if (std::any_of(cases.begin(), cases.begin() + static_cast<int64_t>(i), same)) continue;
    const int64_t bytes = kernels::packed_bytes(s.out, s.in);
    const int64_t copies = (kRotatedBytes + bytes - 1) / bytes;
    std::vector<PackedMatrix> packed;
    for (int64_t copy = 0; copy < copies; ++copy) {
      fill(b, b.weights + copy * s.out * s.in, s.out * s.in, Kind::kNormal,
           static_cast<uint64_t>(copy));
      PackedNote note;
      packed.push_back(pack(b, s, copy, note));
      if (!note.packed()) require(cudaErrorInvalidValue, "pack normal weights");
    }
    for (const int64_t rows : row_counts) measure_rows(b, s, cases, packed, rows);
  }
}

}  // namespace
}  // namespace fathom

int main(int argc, char** argv) {
  fathom::Bench b;
  fathom::set_up(b);
  if (argc < 2 || std::strcmp(argv[1], "--time") != 0) {
    fathom::check(b);
    return b.wrong == 0 ? 0 : 1;
  }
  std::vector<int64_t> rows = {1, 8, 16, 32, 64, 96, 128};
  std::vector<fathom::TimedCase> cases;
  for (int i = 2; i < argc; ++i) {
    if (std::strcmp(argv[i], "--rows") == 0 && i + 1 < argc) {
      rows.clear();
      for (char* at = argv[++i]; *at != 0;) {
        rows.push_back(std::strtoll(at, &at, 10));
        if (*at == ',') ++at;
      }
      continue;
    }
    long long out = 0;
    long long in = 0;
    int gated = 0;
    int next = 0;
    fathom::TimedCase c{};
    if (std::sscanf(argv[i], "%lld,%lld,%d,%d,%d,%d", &out, &in, &gated, &c.units, &c.split,
                    &next) != 6) {
      std::fprintf(stderr, "no case: %s\n", argv[i]);
      return 1;
    }
    c.shape = {out, in, gated != 0};
    c.overlap_next = next != 0;
    cases.push_back(c);
  }
  fathom::measure(b, cases, rows);
  return 0;
}
