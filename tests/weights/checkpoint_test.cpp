// Model directories: round trips through the writer, slices with their scale blocks, and every way
// in which index and shards can disagree.
#include "weights/checkpoint.h"

#include <gtest/gtest.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cerrno>
#include <cmath>
#include <numeric>

#include "test_files.h"
#include "weights/page_reads.h"
#include "weights/parallel_loader.h"

namespace fathom {
namespace {

using testing::as_bytes;
using testing::TempDir;
using testing::write_tensors;

constexpr const char* kFp8Config = R"({"quantization_config":{"quant_method":"fp8",)"
                                   R"("weight_block_size":[4,4],"scale_fmt":"ue8m0"}})";

std::vector<float> counting(size_t n) {
  std::vector<float> values(n);
  std::iota(values.begin(), values.end(), 1.0F);
  return values;
}

std::vector<uint8_t> counting_bytes(size_t n) {
  std::vector<uint8_t> values(n);
  std::iota(values.begin(), values.end(), uint8_t{0});
  return values;
}

// One FP8 matrix [10, 6] in 4x4 blocks: scales [3, 2], and a norm vector.
void write_fp8_model(const TempDir& dir) {
  dir.write("config.json", kFp8Config);
  write_tensors(dir / "model.safetensors",
                {{{"w.weight", DType::kF8E4M3, {10, 6}}, as_bytes(counting_bytes(60))},
                 {{"w.weight_scale_inv", DType::kF32, {3, 2}}, as_bytes(counting(6))},
                 {{"norm.weight", DType::kF32, {5}}, as_bytes(counting(5))}});
}

TEST(Checkpoint, RoundTripsThroughTheWriter) {
  const TempDir dir;
  write_fp8_model(dir);
  const auto checkpoint = Checkpoint::open(dir.path());
  ASSERT_TRUE(checkpoint.is_ok()) << checkpoint.status().to_string();
  const Checkpoint& c = **checkpoint;
  EXPECT_TRUE(c.has("norm.weight"));
  EXPECT_FALSE(c.has("bias"));
  EXPECT_EQ(c.names(), (std::vector<std::string>{"norm.weight", "w.weight", "w.weight_scale_inv"}));
  EXPECT_EQ(c.total_bytes(), 60 + 24 + 20);
  const auto norm = c.read("norm.weight");
  ASSERT_TRUE(norm.is_ok());
  EXPECT_EQ(norm->view.shape[0], 5);
  EXPECT_EQ(norm->view.as<float>()[4], 5.0F);
  EXPECT_EQ(c.info("w.weight")->shape[0], 10);
  EXPECT_EQ(c.read("nope").status().code(), Code::kNotFound);
}

TEST(Checkpoint, TensorsOutliveTheCheckpoint) {
  const TempDir dir;
  write_fp8_model(dir);
  HostTensor norm;
  {
    auto checkpoint = Checkpoint::open(dir.path());
    norm = (*checkpoint)->read("norm.weight").value();
  }
  EXPECT_EQ(norm.view.as<float>()[0], 1.0F);
}

TEST(Checkpoint, SlicesCarryTheScaleBlocksThatCoverThem) {
  const TempDir dir;
  write_fp8_model(dir);
  const auto c = Checkpoint::open(dir.path()).value();
  // Every slice, aligned or inside blocks: w = value * scale looked up by the slice's own offsets
  // equals the whole tensor's.
  for (int64_t r0 = 0; r0 <= 10; ++r0) {
    for (int64_t r1 = r0; r1 <= 10; ++r1) {
      for (int64_t c0 = 0; c0 <= 6; ++c0) {
        for (int64_t c1 = c0; c1 <= 6; ++c1) {
          const auto w = c->read_weight("w.weight", {r0, r1}, {c0, c1});
          ASSERT_TRUE(w.is_ok()) << w.status().to_string();
          ASSERT_TRUE(w->ue8m0_activations);
          const Tensor& v = w->values.view;
          const Tensor& s = w->scales->view;
          ASSERT_EQ(v.shape[0], r1 - r0);
          ASSERT_EQ(v.shape[1], c1 - c0);
          for (int64_t i = 0; i < v.shape[0]; ++i) {
            for (int64_t j = 0; j < v.shape[1]; ++j) {
              ASSERT_EQ(v.as<uint8_t>()[i * v.stride[0] + j * v.stride[1]], (r0 + i) * 6 + c0 + j);
              const int64_t row = (w->first_row_in_block + i) / w->block_rows;
              const int64_t column = (w->first_column_in_block + j) / w->block_columns;
              ASSERT_LT(row, s.shape[0]);
              ASSERT_LT(column, s.shape[1]);
              ASSERT_EQ(s.as<float>()[row * s.stride[0] + column * s.stride[1]],
                        static_cast<float>((r0 + i) / 4 * 2 + (c0 + j) / 4 + 1));
            }
          }
        }
      }
    }
  }
}

TEST(Checkpoint, SlicesOutOfRangeAreRefused) {
  const TempDir dir;
  write_fp8_model(dir);
  const auto c = Checkpoint::open(dir.path()).value();
  for (const auto& [rows, columns] : std::vector<std::pair<Span, Span>>{
           {{0, 11}, {0, 6}}, {{0, 10}, {0, 7}}, {{-1, 2}, {0, 6}}, {{5, 4}, {0, 6}}}) {
    EXPECT_EQ(c->read_weight("w.weight", rows, columns).status().code(), Code::kInvalidArgument);
  }
  EXPECT_NE(c->read_weight("norm.weight", {0, 1}, {0, 1}).status().message().find("matrix"),
            std::string::npos);
}

TEST(Checkpoint, ScalesOfOtherDTypesBecomeFloat) {
  const TempDir dir;
  dir.write("config.json", kFp8Config);
  const std::vector<uint8_t> e8m0 = {127, 128, 0, 120};
  const std::vector<uint16_t> bf16 = {0x3f80, 0x4000, 0x3e80, 0xbf80};
  write_tensors(dir / "model.safetensors",
                {{{"a.weight", DType::kF8E4M3, {8, 8}}, as_bytes(counting_bytes(64))},
                 {{"a.weight_scale_inv", DType::kE8M0, {2, 2}}, as_bytes(e8m0)},
                 {{"b.weight", DType::kF8E4M3, {8, 8}}, as_bytes(counting_bytes(64))},
                 {{"b.weight_scale_inv", DType::kBF16, {2, 2}}, as_bytes(bf16)}});
  const auto c = Checkpoint::open(dir.path()).value();
  const auto a = c->read_weight("a.weight", {0, 8}, {0, 8}).value();
  EXPECT_EQ(a.scales->view.dtype, DType::kF32);
  EXPECT_EQ(a.scales->view.as<float>()[0], 1.0F);
  EXPECT_EQ(a.scales->view.as<float>()[1], 2.0F);
  EXPECT_EQ(a.scales->view.as<float>()[2], std::ldexp(1.0F, -127));
  EXPECT_EQ(a.scales->view.as<float>()[3], std::ldexp(1.0F, -7));
  const auto b = c->read_weight("b.weight", {4, 8}, {4, 8}).value();
  EXPECT_EQ(b.scales->view.as<float>()[0], -1.0F);
}

TEST(Checkpoint, DTypeAndScalesDecideWhetherATensorIsQuantized) {
  const TempDir dir;
  dir.write("config.json", kFp8Config);
  write_tensors(dir / "model.safetensors",
                {{{"bf16.weight", DType::kBF16, {4, 4}}, as_bytes(std::vector<uint16_t>(16))},
                 {{"bf16.weight_scale_inv", DType::kF32, {1, 1}}, as_bytes(counting(1))},
                 {{"bare.weight", DType::kF8E4M3, {4, 4}}, as_bytes(counting_bytes(16))},
                 {{"odd.weight", DType::kF8E4M3, {5, 4}}, as_bytes(counting_bytes(20))},
                 {{"odd.weight_scale_inv", DType::kF32, {1, 1}}, as_bytes(counting(1))}});
  const auto c = Checkpoint::open(dir.path()).value();
  EXPECT_FALSE(c->read_weight("bf16.weight", {0, 4}, {0, 4})->scales.has_value());
  const Status bare = c->read_weight("bare.weight", {0, 4}, {0, 4}).status();
  EXPECT_EQ(bare.code(), Code::kDataLoss);
  EXPECT_NE(bare.message().find("bare.weight_scale_inv"), std::string::npos);
  const Status odd = c->read_weight("odd.weight", {0, 5}, {0, 4}).status();
  EXPECT_NE(odd.message().find("must be [2, 1]"), std::string::npos) << odd.message();
}

TEST(Checkpoint, MisalignedTensorsAreCopied) {
  const TempDir dir;
  dir.write("config.json", "{}");
  const std::string json = R"({"a":{"dtype":"U8","shape":[1],"data_offsets":[0,1]},)"
                           R"("b":{"dtype":"F32","shape":[2,2],"data_offsets":[1,17]}})";
  const auto data = as_bytes(counting(4));
  dir.write("model.safetensors",
            testing::safetensors_bytes(
                json, "x" + std::string(reinterpret_cast<const char*>(data.data()), 16)));
  const auto c = Checkpoint::open(dir.path()).value();
  const auto b = c->read("b").value();
  EXPECT_EQ(reinterpret_cast<uintptr_t>(b.view.data) % 4, 0U);
  EXPECT_EQ(b.view.as<float>()[3], 4.0F);
  const auto column = c->read_weight("b", {0, 2}, {1, 2}).value();
  EXPECT_EQ(column.values.view.as<float>()[column.values.view.stride[0]], 4.0F);
}

TEST(Checkpoint, ScalarsAreOneElementAndHighRanksAreRefused) {
  const TempDir dir;
  dir.write("config.json", "{}");
  write_tensors(dir / "model.safetensors",
                {{{"scalar", DType::kF32, {}}, as_bytes(counting(1))},
                 {{"five", DType::kF32, {1, 1, 1, 1, 1}}, as_bytes(counting(1))},
                 {{"none", DType::kF32, {0, 3}}, {}}});
  const auto c = Checkpoint::open(dir.path()).value();
  EXPECT_EQ(c->read("scalar")->view.rank, 1);
  EXPECT_EQ(c->read("scalar")->view.as<float>()[0], 1.0F);
  EXPECT_EQ(c->info("five").status().code(), Code::kUnimplemented);
  EXPECT_EQ(c->read("none")->view.elements(), 0);
}

// Two shards, `a` in the first and `b` in the second, under the given weight_map.
Result<std::shared_ptr<const Checkpoint>> open_two_shards(const TempDir& dir,
                                                          const std::string& weight_map) {
  dir.write("config.json", "{}");
  write_tensors(dir / "s1.safetensors", {{{"a", DType::kF32, {2}}, as_bytes(counting(2))}});
  write_tensors(dir / "s2.safetensors", {{{"b", DType::kF32, {3}}, as_bytes(counting(3))}});
  dir.write("model.safetensors.index.json", R"({"metadata":{},"weight_map":)" + weight_map + "}");
  return Checkpoint::open(dir.path());
}

TEST(Checkpoint, ReadsAShardedIndex) {
  const TempDir dir;
  const auto c = open_two_shards(dir, R"({"a":"s1.safetensors","b":"s2.safetensors"})");
  ASSERT_TRUE(c.is_ok()) << c.status().to_string();
  EXPECT_EQ((*c)->read("b")->view.as<float>()[2], 3.0F);
  EXPECT_TRUE((*c)->warnings().empty());
}

TEST(Checkpoint, WarnsOfTensorsThatTheIndexLeavesOut) {
  const TempDir dir;
  ASSERT_FALSE(open_two_shards(dir, "{}").is_ok());
  write_tensors(dir / "s1.safetensors", {{{"a", DType::kF32, {1}}, as_bytes(counting(1))},
                                         {{"extra", DType::kF32, {1}}, as_bytes(counting(1))}});
  dir.write("model.safetensors.index.json", R"({"weight_map":{"a":"s1.safetensors"}})");
  const auto c = Checkpoint::open(dir.path());
  ASSERT_TRUE(c.is_ok());
  EXPECT_EQ((*c)->warnings().size(), 1U);
  EXPECT_FALSE((*c)->has("extra"));
}

TEST(Checkpoint, RefusesAnIndexThatDisagreesWithItsShards) {
  const std::pair<const char*, const char*> cases[] = {
      {R"({"a":"s1.safetensors","b":"s3.safetensors"})", "s3.safetensors is missing"},
      {R"({"a":"s1.safetensors","b":"s1.safetensors"})", "does not hold tensor 'b'"},
      {R"({"a":"s2.safetensors","b":"s1.safetensors"})", "but the index maps it to"},
      {R"({"a":"s1.safetensors","a":"s2.safetensors"})", "twice"},
      {R"({"a":"../s1.safetensors"})", "a file name in the same directory"},
      {R"({"a":"/etc/passwd"})", "a file name in the same directory"},
      {R"({"a":""})", "a file name in the same directory"},
      {R"({"a":".."})", "a file name in the same directory"},
      {R"({"a":7})", "a file name in the same directory"},
      {"{}", "no weight_map"},
      {"[]", "no weight_map"},
  };
  for (const auto& [map, expected] : cases) {
    const TempDir dir;
    const auto c = open_two_shards(dir, map);
    ASSERT_FALSE(c.is_ok()) << map;
    EXPECT_NE(c.status().message().find(expected), std::string::npos) << c.status().message();
  }
}

TEST(Checkpoint, RefusesATensorThatTwoShardsHold) {
  const TempDir dir;
  ASSERT_FALSE(open_two_shards(dir, "{}").is_ok());
  write_tensors(dir / "s2.safetensors", {{{"a", DType::kF32, {2}}, as_bytes(counting(2))},
                                         {{"b", DType::kF32, {3}}, as_bytes(counting(3))}});
  dir.write("model.safetensors.index.json",
            R"({"weight_map":{"a":"s1.safetensors","b":"s2.safetensors"}})");
  const auto c = Checkpoint::open(dir.path());
  ASSERT_FALSE(c.is_ok());
  EXPECT_NE(c.status().message().find("'a' is in"), std::string::npos) << c.status().message();
}

TEST(Checkpoint, SaysWhyADirectoryHasNoWeights) {
  const TempDir dir;
  EXPECT_EQ(Checkpoint::open(dir / "absent").status().code(), Code::kNotFound);
  EXPECT_NE(Checkpoint::open(dir.path()).status().message().find("config.json"), std::string::npos);
  dir.write("config.json", "{}");
  EXPECT_EQ(Checkpoint::open(dir.path()).status().code(), Code::kNotFound);
  dir.write("pytorch_model.bin", "pickle");
  const Status pickled = Checkpoint::open(dir.path()).status();
  EXPECT_EQ(pickled.code(), Code::kFailedPrecondition);
  EXPECT_NE(pickled.message().find("convert"), std::string::npos);
  dir.write("model-00001-of-00002.safetensors", "x");
  EXPECT_NE(Checkpoint::open(dir.path()).status().message().find("index.json"), std::string::npos);
}

TEST(Checkpoint, AShardCutShortAfterOpeningIsRefusedByName) {
  const TempDir dir;
  dir.write("config.json", "{}");
  std::vector<float> matrix(size_t{1} << 20, 2.0F);
  const std::string path = dir / "model.safetensors";
  write_tensors(path, {{{"w", DType::kF32, {1024, 1024}}, as_bytes(matrix)},
                       {{"norm", DType::kF32, {5}}, as_bytes(counting(5))}});
  const auto c = Checkpoint::open(dir.path()).value();
  ASSERT_TRUE(c->read("norm").is_ok());
  ASSERT_TRUE(c->read_weight("w", {8, 16}, {0, 512}).is_ok());
  const HostWeight mapped = c->map_weight("w", {0, 1024}, {0, 1024}).value();
  std::vector<std::byte> bytes(static_cast<size_t>(mapped.values.view.bytes()));
  ASSERT_TRUE(mapped.bytes->read(0, bytes).is_ok());
  struct stat whole {};
  ASSERT_EQ(::stat(path.c_str(), &whole), 0);
  for (const off_t size : {whole.st_size - 1, whole.st_size / 2, off_t{0}}) {
    ASSERT_EQ(::truncate(path.c_str(), size), 0);
    for (const Status& status : {c->read("norm").status(), c->read("w").status(),
                                 c->read_weight("w", {0, 1024}, {0, 1024}).status()}) {
      EXPECT_EQ(status.code(), Code::kDataLoss) << size;
      EXPECT_NE(status.message().find(path), std::string::npos) << status.message();
    }
  }
  const Status gone = mapped.bytes->read(0, bytes);
  EXPECT_EQ(gone.code(), Code::kDataLoss);
  EXPECT_NE(gone.message().find(path), std::string::npos) << gone.message();
}

TEST(Checkpoint, APageThatCannotBeReadIsAnErrorAndNotASignal) {
  const TempDir dir;
  const std::string path = dir / "pages";
  dir.write("pages", std::string(size_t{64} << 10, 'x'));
  const MappedFile map = MappedFile::open(path).value();
  EXPECT_EQ(read_pages(map.bytes()), 0);
  EXPECT_EQ(read_pages({}), 0);
  ASSERT_EQ(::truncate(path.c_str(), 8 << 10), 0);
  EXPECT_EQ(read_pages(map.bytes().first(8 << 10)), 0);
  EXPECT_EQ(read_pages(map.bytes()), EFAULT);
}

TEST(Prefault, ReadsEverythingAndReportsProgress) {
  const TempDir dir;
  dir.write("config.json", "{}");
  std::vector<uint8_t> big(size_t{40} << 20, 7);
  write_tensors(dir / "model.safetensors",
                {{{"big", DType::kU8, {static_cast<int64_t>(big.size())}}, as_bytes(big)},
                 {{"norm", DType::kF32, {5}}, as_bytes(counting(5))}});
  const auto c = Checkpoint::open(dir.path()).value();
  for (const unsigned threads : {0U, 1U, 4U}) {
    int64_t last = -1;
    const Status s = prefault(*c, {}, threads, [&](int64_t done, int64_t total) {
      EXPECT_GE(done, last);
      EXPECT_EQ(total, c->total_bytes());
      last = done;
    });
    ASSERT_TRUE(s.is_ok()) << s.to_string();
    EXPECT_EQ(last, c->total_bytes());
  }
}

TEST(Prefault, AFileCutShortIsAnErrorAndNotASignal) {
  const TempDir dir;
  dir.write("config.json", "{}");
  std::vector<uint8_t> big(size_t{20} << 20, 7);
  write_tensors(dir / "model.safetensors",
                {{{"big", DType::kU8, {static_cast<int64_t>(big.size())}}, as_bytes(big)}});
  const auto c = Checkpoint::open(dir.path()).value();
  ASSERT_EQ(::truncate((dir / "model.safetensors").c_str(), 1 << 20), 0);
  EXPECT_EQ(prefault(*c, {}, 2, nullptr).code(), Code::kDataLoss);
}

}  // namespace
}  // namespace fathom
