// The product of many rows against the plain kernels, where its last round is shared out: sums of K
// that one two of blocks begins and another ends. Choosers name it for products too large for the
// op table. Needs a GPU and no file.
#include <cuda_runtime_api.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <cstring>
#include <random>
#include <vector>

#include "kernels/dense.h"
#include "kernels/gated.h"
#include "kernels/many_gemm.h"

namespace fathom {
namespace {

using kernels::Epilogue;
using kernels::Format;
using kernels::ManyCall;

constexpr int64_t kRowAfter = 1;  // of an output, which stays as it is
constexpr uint8_t kUntouched = 0xEE;

class CudaMany : public ::testing::Test {
 protected:
  void SetUp() override {
    int32_t major = 0;
    if (cudaDeviceGetAttribute(&major, cudaDevAttrComputeCapabilityMajor, 0) != cudaSuccess ||
        major != 9) {
      GTEST_SKIP() << "Hopper's kernels";
    }
    ASSERT_EQ(cudaDeviceGetAttribute(&sms_, cudaDevAttrMultiProcessorCount, 0), cudaSuccess);
    ASSERT_EQ(cudaStreamCreateWithFlags(&stream_, cudaStreamNonBlocking), cudaSuccess);
    ASSERT_EQ(kernels::load_many_gemm(), cudaSuccess);
    sums_ = array<float>(kernels::many_sums_bytes(sms_ / 2) / 4, 0xFF);
    words_ = array<uint32_t>(kernels::many_words(sms_ / 2), 0);
  }
  void TearDown() override {
    for (void* p : memory_) cudaFree(p);
    if (stream_ != nullptr) cudaStreamDestroy(stream_);
  }

  template <typename T>
  T* array(int64_t count, int fill) {
    void* p = nullptr;
    const auto bytes = static_cast<size_t>(count) * sizeof(T);
    EXPECT_EQ(cudaMalloc(&p, bytes), cudaSuccess);
    EXPECT_EQ(cudaMemsetAsync(p, fill, bytes, stream_), cudaSuccess);
    memory_.push_back(p);
    return static_cast<T*>(p);
  }
  template <typename T>
  T* put(const std::vector<T>& values) {
    T* p = array<T>(static_cast<int64_t>(values.size()), 0);
    EXPECT_EQ(cudaMemcpyAsync(p, values.data(), values.size() * sizeof(T), cudaMemcpyHostToDevice,
                              stream_),
              cudaSuccess);
    EXPECT_EQ(cudaStreamSynchronize(stream_), cudaSuccess);
    return p;
  }
  template <typename T>
  std::vector<T> get(const T* from, int64_t count) {
    std::vector<T> values(static_cast<size_t>(count));
    EXPECT_EQ(cudaStreamSynchronize(stream_), cudaSuccess);
    EXPECT_EQ(cudaMemcpy(values.data(), from, values.size() * sizeof(T), cudaMemcpyDeviceToHost),
              cudaSuccess);
    return values;
  }
  // Codes of 2^-4 to 2 with either sign.
  std::vector<uint8_t> codes(int64_t count) {
    std::vector<uint8_t> all(static_cast<size_t>(count));
    for (uint8_t& code : all) {
      const uint32_t bits = random_();
      code = static_cast<uint8_t>((bits & 0x80U) | (0x18U + bits % 0x28U));
    }
    return all;
  }
  std::vector<uint16_t> halves(int64_t count) {
    std::vector<uint16_t> all(static_cast<size_t>(count));
    std::normal_distribution<float> normal;
    for (uint16_t& half : all) {
      const float x = normal(random_);
      uint32_t bits = 0;
      std::memcpy(&bits, &x, sizeof bits);
      half = static_cast<uint16_t>(bits >> 16U);
    }
    return all;
  }
  std::vector<float> scales(int64_t count) {
    std::vector<float> all(static_cast<size_t>(count));
    for (float& scale : all) scale = 1e-3F * static_cast<float>(1 + random_() % 8);
    return all;
  }

  // In e4m3, x [rows, in] and w [out, in].
  ManyCall scaled_call(int64_t rows, int64_t out, int64_t in) {
    ManyCall call;
    call.rows = rows;
    call.x = {put(codes(rows * in)), Format::kFp8, in, put(scales(rows * in / 128)), in / 128};
    call.w.data = put(codes(out * in));
    call.w.format = Format::kFp8;
    call.w.out = out;
    call.w.in = call.w.stride = in;
    call.w.scales = put(scales(out / 128 * (in / 128)));
    call.w.scale_stride = in / 128;
    std::vector<int32_t> places(static_cast<size_t>(out));
    for (size_t i = 0; i < places.size(); ++i) places[i] = static_cast<int32_t>(i / 128);
    call.w.scale_rows = put(places);
    call.sums = sums_;
    call.words = words_;
    return call;
  }
  // The plain kernels' y, rounded to bf16 where `round` says so.
  float* plain(const ManyCall& call, Format round) {
    auto* y = array<float>(call.rows * call.w.out, 0xFF);
    kernels::linear(stream_, call.x, call.rows, call.w, {y, Format::kF32, call.w.out, nullptr, 0},
                    round);
    return y;
  }
  // Twice: the second launch finds the words as the first found them, and writes the same bits.
  std::vector<uint8_t> run(const ManyCall& call, int64_t row_bytes) {
    const int64_t bytes = call.rows * row_bytes;
    const kernels::ManySplit split = kernels::many_split(
        static_cast<int32_t>((call.rows + 255) / 256 * ((call.w.out + 255) / 256)), sms_ / 2,
        static_cast<int32_t>(call.w.in / (call.w.format == Format::kFp8 ? 512 : 256)));
    EXPECT_GT(split.tail, 0) << "nothing is shared";
    EXPECT_EQ(kernels::many_gemm(stream_, call, sms_), cudaSuccess);
    const auto* to = static_cast<const uint8_t*>(call.out.data);
    const std::vector<uint8_t> first = get(to, bytes + kRowAfter * row_bytes);
    EXPECT_EQ(kernels::many_gemm(stream_, call, sms_), cudaSuccess);
    EXPECT_EQ(get(to, bytes + kRowAfter * row_bytes), first);
    for (const uint32_t word : get(words_, kernels::many_words(sms_ / 2))) EXPECT_EQ(word, 0U);
    EXPECT_TRUE(std::all_of(first.begin() + bytes, first.end(),
                            [](uint8_t byte) { return byte == kUntouched; }));
    return {first.begin(), first.begin() + bytes};
  }

  cudaStream_t stream_ = nullptr;
  int32_t sms_ = 0;
  float* sums_ = nullptr;
  uint32_t* words_ = nullptr;
  std::vector<void*> memory_;
  std::mt19937 random_{7};
};

double relative(const std::vector<float>& values, const std::vector<float>& wanted) {
  double difference = 0.0;
  double size = 0.0;
  for (size_t i = 0; i < wanted.size(); ++i) {
    const double d = static_cast<double>(values[i]) - wanted[i];
    difference += d * d;
    size += static_cast<double>(wanted[i]) * wanted[i];
  }
  return std::sqrt(difference / size);
}

float of_half(const uint8_t* at) {
  const uint32_t bits = (uint32_t{at[1]} << 24U) | (uint32_t{at[0]} << 16U);
  float x = 0.0F;
  std::memcpy(&x, &bits, sizeof x);
  return x;
}

float of_code(uint8_t code) {
  const int exponent = code >> 3U & 15U;
  const auto mantissa = static_cast<float>(code & 7U);
  const float x =
      exponent == 0 ? std::ldexp(mantissa, -9) : std::ldexp(8.0F + mantissa, exponent - 10);
  return (code & 0x80U) != 0 ? -x : x;
}

TEST_F(CudaMany, SharedSumsOfRowsAreThePlainKernels) {
  constexpr int64_t kRows = 270;
  ManyCall call = scaled_call(kRows, 1408, 4096);
  call.out.data = array<uint16_t>((kRows + kRowAfter) * call.w.out, kUntouched);
  call.out.format = Format::kBF16;
  call.out.stride = call.w.out;
  const std::vector<uint8_t> bytes = run(call, call.w.out * 2);
  std::vector<float> values(bytes.size() / 2);
  for (size_t i = 0; i < values.size(); ++i) values[i] = of_half(&bytes[2 * i]);
  EXPECT_LT(relative(values, get(plain(call, Format::kBF16), kRows * call.w.out)), 1.5e-3);
}

TEST_F(CudaMany, SharedSumsOfGateAndUpAreThePlainKernels) {
  constexpr int64_t kRows = 300;
  constexpr int64_t kWidth = 768;
  ManyCall call = scaled_call(kRows, 2 * kWidth, 4096);
  call.gated = true;
  call.out = {array<uint8_t>((kRows + kRowAfter) * kWidth, kUntouched), Format::kFp8, kWidth,
              array<float>(kRows * kWidth / 128, 0xFF), kWidth / 128};
  call.scales_by_group = array<float>((kRows + kRowAfter) * kWidth / 128, kUntouched);
  const std::vector<uint8_t> bytes = run(call, kWidth);
  Epilogue wanted = call.out;
  wanted.data = array<uint8_t>(kRows * kWidth, 0);
  wanted.scales = array<float>(kRows * kWidth / 128, 0);
  const kernels::Rows both{plain(call, Format::kBF16), Format::kF32, call.w.out, nullptr, 0};
  ASSERT_EQ(kernels::gate_rows(stream_, both, kRows, kWidth, wanted), cudaSuccess);
  const auto dequantized = [&](const std::vector<uint8_t>& all, const float* scales) {
    const std::vector<float> of_groups = get(scales, kRows * kWidth / 128);
    std::vector<float> values(all.size());
    for (size_t i = 0; i < all.size(); ++i) values[i] = of_code(all[i]) * of_groups[i / 128];
    return values;
  };
  const auto* codes_wanted = static_cast<const uint8_t*>(wanted.data);
  EXPECT_LT(relative(dequantized(bytes, call.out.scales),
                     dequantized(get(codes_wanted, kRows * kWidth), wanted.scales)),
            8e-3);
  const std::vector<float> scales = get(call.out.scales, kRows * kWidth / 128);
  const std::vector<float> by_group = get(call.scales_by_group, kRows * kWidth / 128 + 1);
  for (int64_t row = 0; row < kRows; ++row) {
    for (int64_t group = 0; group < kWidth / 128; ++group) {
      ASSERT_EQ(by_group[static_cast<size_t>(group * kRows + row)],
                scales[static_cast<size_t>(row * (kWidth / 128) + group)]);
    }
  }
  uint32_t after = 0;
  std::memcpy(&after, &by_group.back(), sizeof after);
  EXPECT_EQ(after, 0xEEEEEEEEU);
}

TEST_F(CudaMany, SharedSumsInBf16AreThePlainKernels) {
  constexpr int64_t kRows = 300;
  constexpr int64_t kIn = 2048;
  ManyCall call;
  call.rows = kRows;
  call.x = {put(halves(kRows * kIn)), Format::kBF16, kIn, nullptr, 0};
  call.w.out = 1024;
  call.w.in = call.w.stride = kIn;
  call.w.format = Format::kBF16;
  call.w.data = put(halves(call.w.out * kIn));
  call.out = {array<float>((kRows + kRowAfter) * call.w.out, kUntouched), Format::kF32, call.w.out};
  call.sums = sums_;
  call.words = words_;
  const int64_t chunks = call.w.out / 128;
  call.peak_stride = chunks + 1;
  call.peaks = array<float>((kRows + kRowAfter) * call.peak_stride, kUntouched);
  const std::vector<uint8_t> bytes = run(call, call.w.out * 4);
  std::vector<float> values(bytes.size() / 4);
  std::memcpy(values.data(), bytes.data(), bytes.size());
  const std::vector<float> peaks = get(call.peaks, (kRows + kRowAfter) * call.peak_stride);
  std::vector<float> wanted(peaks.size());
  std::memset(wanted.data(), kUntouched, wanted.size() * sizeof(float));
  for (int64_t i = 0; i < kRows * chunks; ++i) {
    wanted[static_cast<size_t>(i / chunks * call.peak_stride + i % chunks)] =
        *std::max_element(values.begin() + i * 128, values.begin() + (i + 1) * 128);
  }
  EXPECT_EQ(std::memcmp(peaks.data(), wanted.data(), peaks.size() * sizeof(float)), 0);
  EXPECT_LT(relative(values, get(plain(call, Format::kF32), kRows * call.w.out)), 2e-5);
}

}  // namespace
}  // namespace fathom
