// CudaOps against CpuOps, its oracle, over the table of op cases. Needs a GPU and no file.
//
//   cuda_ops_test [--neutral] [--threads N] [--part I/N] [--only WORDS] [--gtest_filter=...]
//
// A test for each op and numerics. --neutral: on the kernels that every architecture has, as on a
// GPU before Hopper. --threads: of the oracle. --part: the I-th (from 0) of N parts of the cases,
// for processes side by side. --only: cases whose name has one of the words, by commas.
#include <cuda_runtime_api.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <chrono>
#include <cstdio>
#include <map>
#include <sstream>
#include <string_view>
#include <thread>

#include "ops/count/count_ops.h"
#include "ops/cpu/cpu_ops.h"
#include "ops/cuda/cuda_ops.h"
#include "ops/cuda/cuda_scratch.h"
#include "ops/op_builders.h"
#include "ops/op_compare.h"
#include "support/forward_ops.h"

namespace fathom::testing {
namespace {

using Clock = std::chrono::steady_clock;

constexpr int64_t kArenaBytes = int64_t{256} << 20;

// What the command line asks for.
struct Asked {
  bool neutral = false;
  int32_t threads = static_cast<int32_t>(std::thread::hardware_concurrency());
  size_t part = 0;
  size_t parts = 1;
  std::vector<std::string> words;

  bool names(const std::string& name) const {
    return words.empty() || std::any_of(words.begin(), words.end(), [&](const std::string& word) {
             return name.find(word) != std::string::npos;
           });
  }
};

Asked asked;

// This part's of the table's cases: neighbours share kernels, so a part is a piece of the table.
// Those that sanitizers leave out are dealt out by themselves.
std::vector<OpCase> asked_cases() {
  std::vector<OpCase> kept;
  for (const bool repeats : {false, true}) {
    std::vector<OpCase> all;
    for (OpCase& one : op_cases()) {
      if (one.repeats == repeats) all.push_back(std::move(one));
    }
    for (size_t i = 0; i < all.size(); ++i) {
      if (i * asked.parts / all.size() == asked.part && asked.names(all[i].name()))
        kept.push_back(std::move(all[i]));
    }
  }
  return kept;
}

// Device memory, or host memory that the device writes.
void copy_from_device(const Tensor& from, void* to) {
  const int64_t size = dtype_bytes(from.dtype);
  const int64_t columns = from.shape[from.rank - 1];
  const int64_t rows = from.elements() / columns;
  const int64_t stride = from.rank < 2 ? columns : from.stride[from.rank - 2];
  const cudaError_t error = cudaMemcpy2D(
      to, static_cast<size_t>(columns * size), from.data, static_cast<size_t>(stride * size),
      static_cast<size_t>(columns * size), static_cast<size_t>(rows), cudaMemcpyDefault);
  FATHOM_CHECK(error == cudaSuccess, cudaGetErrorString(error));
}

// What the case may take of the step arena, as the memory plan reckons.
int64_t planned_bytes(const OpCase& one) {
  DeviceTraits traits = device_traits().value();
  if (asked.neutral) traits.hopper = false;
  const CudaScratch scratch(one.numerics, device_multiprocessors().value(), traits);
  CountOps count({.numerics = one.numerics, .scratch = &scratch});
  ArenaScope scope(count.arena());
  one.prepare(count).launch();
  return count.report().arena_peak_bytes;
}

// Cases of one op in one numerics; cuBLASLt's come again with our kernels alone, which is what
// sanitizers look at (deploy/gpu_test.sh).
struct Group {
  std::string op;
  Numerics numerics = Numerics::kNative;
  bool library = false;
  bool repeats = false;

  bool holds(const OpCase& one) const {
    return one.op == op && one.numerics == numerics && one.repeats == repeats;
  }
  std::string name() const {
    return op + (numerics == Numerics::kReference ? "_reference" : "_native") +
           (library ? "_library" : "") + (repeats ? "_again" : "");
  }
};

bool has_products(const std::string& op) {
  return op == "linear" || op == "gated_linear" || op == "linear_partial" || op == "logits" ||
         op == "moe" || op == "norm_moe" || op == "sample";  // logits of a product
}

std::vector<Group> groups() {
  std::map<std::string, Group> found;
  for (const OpCase& one : op_cases()) {
    Group group{one.op, one.numerics, false, one.repeats};
    found[group.name()] = group;
    if (one.numerics == Numerics::kReference || !has_products(one.op)) continue;
    group.library = true;
    found[group.name()] = group;
  }
  std::vector<Group> all;
  for (const auto& [name, group] : found) all.push_back(group);
  return all;
}

class CudaOpsTable : public ::testing::TestWithParam<Group> {};

TEST_P(CudaOpsTable, EqualsTheOracle) {
  double largest = 0.0;
  double mean_square = 0.0;
  int cases = 0;
  int left_out = 0;
  int64_t peak = 0;
  for (const OpCase& one : asked_cases()) {
    if (!GetParam().holds(one)) continue;
    if (one.cpu_only || (asked.neutral && one.hopper_only)) {
      ++left_out;
      continue;
    }
    SCOPED_TRACE(one.name());
    const Clock::time_point begin = Clock::now();
    const auto oracle = make_cpu_ops({one.numerics, asked.threads, kArenaBytes});
    const std::vector<HostOutput> expected = run_case(one, *oracle, copy_from_host);
    CudaOpsOptions options{one.numerics, kArenaBytes};
    options.library = GetParam().library;
    options.neutral_kernels = asked.neutral;
    auto made = CudaOps::make(options);
    ASSERT_TRUE(made.is_ok()) << made.status().to_string();
    const std::vector<HostOutput> outputs = run_case(one, **made, copy_from_device);
    EXPECT_LE((*made)->arena().peak(), planned_bytes(one))
        << one.op << " takes more workspace than planned: its bound in src/ops/cuda/cuda_scratch"
        << " has to grow with it, or a server's step may end the process";
    for (const OutputError& error : compare_backends(one, outputs, expected)) {
      EXPECT_EQ(error.complaint, "");
      largest = std::max(largest, error.largest);
      mean_square = std::max(mean_square, error.mean_square);
    }
    peak = std::max(peak, (*made)->arena().peak());
    ++cases;
    const auto ms = std::chrono::duration_cast<std::chrono::milliseconds>(Clock::now() - begin);
    if (ms.count() > 1000) std::printf("  %s took %.1f s\n", one.name().c_str(), 1e-3 * ms.count());
  }
  if (cases + left_out == 0) return;  // other parts have them
  std::printf("%s: %d cases, largest error %.2g, mean square %.2g", GetParam().op.c_str(), cases,
              largest, mean_square);
  std::printf(", arena %ld MiB", static_cast<long>(peak >> 20));
  if (left_out > 0) std::printf("; %d left out, which this backend does not have", left_out);
  std::printf("\n");
  if (cases == 0) GTEST_SKIP() << "this backend does not have the op";
}

// Sizes of steps and shapes of layers that the table does not have: each token tile of the kernels
// for few tokens, a shared expert of two parts, padding, blocks with several items or none.
std::vector<MoeShape> few_token_shapes() {
  std::vector<MoeShape> all;
  for (const WeightFormat f : {WeightFormat::kBF16, WeightFormat::kFp8Block}) {
    MoeShape lite{.name = "v2 lite", .tokens = 4, .padding = {}};
    lite.hidden = 2048;
    lite.intermediate = 1408;
    lite.shared_intermediate = 2816;
    lite.experts = 64;
    lite.experts_per_token = 6;
    lite.distinct_experts = 5;
    lite.score = ScoreFunction::kSoftmax;
    lite.bias = lite.normalize = false;
    lite.scale = 1.0F;
    lite.format = f;
    lite.seed = 21;
    MoeShape eight = lite;
    eight.tokens = 8;
    eight.padding = {2};
    MoeShape lone = lite;  // as a server's first step
    lone.tokens = 1;
    lone.padding = {0};
    MoeShape wide{.name = "wide", .tokens = 20, .padding = {0, 19}};
    wide.shared_intermediate = 384;
    wide.hidden = 384;
    wide.intermediate = 128;
    wide.experts = 16;
    wide.experts_per_token = 4;
    wide.format = f;
    wide.seed = 22;
    MoeShape most = wide;
    most.tokens = 32;
    most.padding = {};
    MoeShape rank = wide;  // no expert of this rank may have a token
    rank.tokens = 1;
    rank.padding = {};
    rank.first_expert = 3;
    rank.experts_here = 2;
    all.insert(all.end(), {lite, eight, lone, wide, most, rank});
  }
  return all;
}

// Experts with enough rows for blocks that work in twos: tiles of 129 to 144 rows, several twos, a
// last one of few rows, experts without rows, a half box at the end of down, a rank's part.
std::vector<MoeShape> paired_shapes() {
  std::vector<MoeShape> all;
  for (const WeightFormat f : {WeightFormat::kBF16, WeightFormat::kFp8Block}) {
    MoeShape near{.name = "near 270 rows", .tokens = 540, .padding = {}};
    near.hidden = 384;
    near.intermediate = 256;
    near.shared_intermediate = 256;
    near.experts = 4;
    near.experts_per_token = 2;
    near.bias_width = 0.01F;
    near.format = f;
    near.seed = 31;
    MoeShape uneven = near;
    uneven.name = "uneven twos";
    uneven.tokens = 700;
    uneven.padding = {5, 77, 699};
    uneven.experts = 8;
    uneven.bias_width = 1.0F;
    uneven.seed = 32;
    MoeShape rank = near;
    rank.name = "rank of twos";
    rank.tokens = 530;
    rank.padding = {0};
    rank.shared_intermediate = 0;
    rank.experts = 16;
    rank.experts_per_token = 4;
    rank.first_expert = 4;
    rank.experts_here = 4;
    rank.bias_width = 0.2F;
    rank.seed = 33;
    all.insert(all.end(), {near, uneven, rank});
  }
  return all;
}

// On our kernels alone.
void expect_equal_to_the_oracle(const std::vector<MoeShape>& shapes) {
  for (size_t i = 0; i < shapes.size(); ++i) {
    const OpCase one = moe_case(shapes[i], Numerics::kNative);
    if (i % asked.parts != asked.part || !asked.names(one.name())) continue;
    SCOPED_TRACE(one.name());
    const auto oracle = make_cpu_ops({one.numerics, asked.threads, kArenaBytes});
    const std::vector<HostOutput> expected = run_case(one, *oracle, copy_from_host);
    CudaOpsOptions options{one.numerics, kArenaBytes};
    options.library = false;
    auto made = CudaOps::make(options);
    ASSERT_TRUE(made.is_ok()) << made.status().to_string();
    const std::vector<HostOutput> outputs = run_case(one, **made, copy_from_device);
    for (const OutputError& error : compare_backends(one, outputs, expected)) {
      EXPECT_EQ(error.complaint, "");
      std::printf("%s: largest error %.2g, mean square %.2g\n", one.name().c_str(), error.largest,
                  error.mean_square);
    }
  }
}

TEST(CudaMoe, FewTokensEqualTheOracle) { expect_equal_to_the_oracle(few_token_shapes()); }

TEST(CudaMoe, PairedBlocksEqualTheOracle) { expect_equal_to_the_oracle(paired_shapes()); }

// In V2-Lite's shape, on our kernels alone. A wrapper that does not know norm_moe runs the ops that
// it stands for, and closes every sum.
TEST(CudaMoe, NormsBesideExpertsEqualTheirOps) {
  for (const MoeShape& shape : few_token_shapes()) {
    if (shape.format != WeightFormat::kFp8Block || shape.hidden != 2048) continue;
    MoeShape one = shape;
    if (shape.tokens == 1) one.padding = {};
    const bool eight = shape.tokens == 8;
    const OpCase behind = norm_moe_case(one, Numerics::kNative,
                                        eight ? SumGoesTo::kResidual : SumGoesTo::kQuantizedNorm);
    SCOPED_TRACE(behind.name());
    CudaOpsOptions options{behind.numerics, kArenaBytes};
    options.library = false;
    auto made = CudaOps::make(options);
    ASSERT_TRUE(made.is_ok()) << made.status().to_string();
    ForwardOps parts(**made);
    const std::vector<HostOutput> apart = run_case(behind, parts, copy_from_device);
    const std::vector<HostOutput> together = run_case(behind, **made, copy_from_device);
    for (const OutputError& error : compare_backends(behind, together, apart))
      EXPECT_EQ(error.complaint, "");
  }
}

// The table's cases would pass on the plain copy, too. On our kernels alone, as what sanitizers
// look at.
TEST(CudaPacked, PacksMatricesOfFewOddNumbers) {
  const auto packed_of = [](int32_t odd_every) -> int64_t {
    LinearShape shape{8, 328, 1024};
    shape.packed_odd_every = odd_every;
    CudaOpsOptions options{Numerics::kNative, kArenaBytes};
    options.library = false;
    auto made = CudaOps::make(options);
    if (!made.is_ok()) return -1;
    linear_case(shape).prepare(**made);
    return (*made)->packed_count();
  };
  if (asked.neutral) GTEST_SKIP() << "these kernels read plain weights alone";
  EXPECT_EQ(packed_of(0), 0);
  EXPECT_EQ(packed_of(700), 1);
  EXPECT_EQ(packed_of(20), 0);
}

INSTANTIATE_TEST_SUITE_P(Ops, CudaOpsTable, ::testing::ValuesIn(groups()),
                         [](const auto& info) { return info.param.name(); });

}  // namespace

// False: an argument makes no sense.
bool ask(int argc, char** argv) {
  for (int i = 1; i < argc; ++i) {
    const std::string_view word = argv[i];
    if (word == "--neutral") {
      asked.neutral = true;
      continue;
    }
    if (i + 1 == argc) return false;
    std::istringstream value(argv[++i]);
    if (word == "--threads") {
      if (!(value >> asked.threads) || asked.threads < 1) return false;
    } else if (word == "--part") {
      char slash = 0;
      if (!(value >> asked.part >> slash >> asked.parts) || asked.part >= asked.parts) return false;
    } else if (word == "--only") {
      for (std::string one; std::getline(value, one, ',');) asked.words.push_back(one);
    } else {
      return false;
    }
  }
  return true;
}

}  // namespace fathom::testing

int main(int argc, char** argv) {
  ::testing::InitGoogleTest(&argc, argv);
  if (!fathom::testing::ask(argc, argv)) {
    std::fprintf(stderr, "arguments: [--neutral] [--threads N] [--part I/N] [--only WORDS]\n");
    return 2;
  }
  return RUN_ALL_TESTS();
}
