// How far results may lie apart, in one place. Errors are measured against the expected values of
// one output: the largest error over the largest value, and the root of the mean square over
// theirs. The second is what finds a lost key, or a rounding that is missing everywhere; a bound on
// the largest error alone would not.
#pragma once

#include <cstdint>

namespace fathom::testing {

// What lies between an op's inputs and its outputs.
enum class Precision : uint8_t {
  kExact,           // integers, copies, additions
  kFloat32,         // sums of up to a few thousand float32 products, in any order
  kLongSum,         // sums over a vocabulary of 129,280
  kBF16,            // the same as kFloat32, rounded to bfloat16 once
  kBF16Chain,       // bfloat16 roundings one after another: attention, an expert's two products
  kBF16Forms,       // the same by another form of the same map, which rounds in other places
  kBF16Weights,     // the same, and another backend rounds softmax weights to bfloat16
  kFp8Weights,      // the same, the output quantized
  kFp8CacheOutput,  // the same over an e4m3 cache
  kFp8Product,      // codes times codes, float32 sums
  kFp8ProductBF16,  // the same, rounded to bfloat16 once
  kFp8Chain,        // activations quantized on the way
  kFp8Output,       // the output itself quantized
};

struct Tolerance {
  double largest = 0.0;
  double mean_square = 0.0;  // its root
};

// One step of bfloat16 is 2^-7 of a number just above a power of two, one of e4m3 32 of 448 at the
// top of its range.
inline constexpr double kBF16Step = 0.0079;
inline constexpr double kE4m3Step = 0.0715;

// Of the CPU's result against float64 that is rounded at the same places (docs/numerics.md). So
// only numbers next to a tie differ, by one whole step; how many of them there are is what the mean
// square says: a share p of the elements gives about 0.5 sqrt(p) steps.
//  kFloat32: random errors of 2^-24 add up as the root of the number of terms: 45 * 6e-8 at 2,048
//    terms, relative to terms that are smaller than the sum's spread; measured 4.1e-7 and 3.4e-7.
//  kLongSum: 360 * 6e-8 = 2.1e-5 in a logprob of about 9.
//  kBF16: a float32 sum lies within 1e-6 of the float64 one, a tie every 2^-8: p is about 3e-4.
//  kBF16Chain: a number that fell on the other side moves those computed from it by a small part of
//    a step, so that of them more lie beyond a tie; two steps where two such meet.
//  kBF16Forms: latent attention rounds absorbed queries and weighted latents in one form, keys and
//    values in the other: four roundings of 1.1e-3 each (2^-9 over the root of 3) that sums of
//    hundreds of terms carry on, and one more of each output; measured 4.3e-3. Each form is held to
//    its own definition by kBF16Chain.
//  kFp8Product, kFp8ProductBF16: as kFloat32 and kBF16: products of two e4m3 numbers are exact
//  here. kFp8Chain: as kBF16Chain with e4m3's larger step, spread over the 128 and more terms of a
//  product. kFp8Output: bfloat16 ties that became e4m3 ties: a whole step of e4m3.
constexpr Tolerance against_float64(Precision precision) {
  switch (precision) {
    case Precision::kExact: return {0.0, 0.0};
    case Precision::kFloat32: return {1e-6, 5e-7};
    case Precision::kLongSum: return {4e-6, 3e-6};
    case Precision::kFp8Product: return against_float64(Precision::kFloat32);
    case Precision::kBF16: return {kBF16Step, 3e-4};
    case Precision::kFp8ProductBF16: return against_float64(Precision::kBF16);
    case Precision::kBF16Chain: return {2 * kBF16Step, 1e-3};
    case Precision::kBF16Forms: return {4 * kBF16Step, 6e-3};
    case Precision::kBF16Weights: return against_float64(Precision::kBF16Chain);
    case Precision::kFp8Weights: return against_float64(Precision::kFp8Output);
    case Precision::kFp8CacheOutput: return against_float64(Precision::kFp8Output);
    case Precision::kFp8Chain: return {2 * kBF16Step, 1e-3};
    case Precision::kFp8Output: return {kE4m3Step, 3e-3};
  }
  return {};
}

// Of one backend against the CPU: both lie that far from float64, and their sums run in other
// orders.
//  kFp8Product: the tensor cores of Hopper add e4m3 products with 13 bits below the largest (the
//    DeepSeek-V3 report, section 3.3.2, says 14 bits in all), and float32 takes over every 128
//    columns: 2^-13 = 1.2e-4 of a partial sum.
//  kFp8ProductBF16: so a tie is met once in 30 elements instead of once in 3,000.
//  kFp8Chain: where such an element is the largest of its group of 128, the group's scale moves by
//    up to 2^-8, and a fifteenth of its codes by a step of about 6 %: 1.6 % in one group of thirty
//    and more, 3e-3 to 5e-3 over all.
//  kBF16Weights: tensor cores take a prompt's softmax weights as bfloat16: 1.1e-3 (2^-9 over the
//    root of 3) of a sum with a few large terms. Where a rounded output's step is s, an error e
//    moves e / s of the outputs by a step: the root of e s, 2.4e-3 of bfloat16 (measured 2.4e-3),
//    1.1e-2 of e4m3 (kFp8Weights; measured 1.2e-2).
//  kFp8CacheOutput: there a GPU rounds code times scale to bfloat16 too, of keys and values, or of
//    latents, from which keys and values are made: 2.8e-3 and 4.3e-3 before the output is quantized
//    (measured), 1.4e-2 and 1.8e-2 after (measured 1.3e-2 and 1.6e-2).
constexpr Tolerance between_backends(Precision precision) {
  const Tolerance one = against_float64(precision);
  switch (precision) {
    case Precision::kBF16:
    case Precision::kFp8Output: return {one.largest, 2 * one.mean_square};
    case Precision::kBF16Forms: return one;
    case Precision::kBF16Weights: return {2 * one.largest, 3e-3};
    case Precision::kFp8Weights: return {2 * one.largest, 1.4e-2};
    case Precision::kFp8CacheOutput: return {2 * one.largest, 2e-2};
    case Precision::kFp8Product: return {5e-4, 2.5e-4};
    case Precision::kFp8ProductBF16: return {kBF16Step, 1.5e-3};
    case Precision::kFp8Chain: return {2 * one.largest, 8e-3};
    default: return {2 * one.largest, 2 * one.mean_square};
  }
}

}  // namespace fathom::testing
