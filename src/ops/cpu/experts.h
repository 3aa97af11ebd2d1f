// Experts: the experts of a step, each on its tokens, several at a time. Owned by one call of the
// moe op, on its rank's thread.
#pragma once

#include <array>
#include <cstdint>

#include "fathom/ops.h"
#include "ops/cpu/matmul.h"

namespace fathom {

class Experts {
 public:
  // Adds to `sums` [tokens, hidden]; `rows_max` rows of experts are at work at a time.
  Experts(const Products& products, ThreadPool& pool, Arena& arena, int64_t rows_max, float* sums);
  Experts(const Experts&) = delete;
  Experts& operator=(const Experts&) = delete;

  // sums[x.index[i]] += weights[i] * expert(x[i]), or that of row i without an index; weights null:
  // 1. `inner` is what `down` takes, `act` what a linear layer's output is rounded to. A token's
  // sum is made in the order of these calls. What is named here must live until `run`.
  void add(const Rows& x, const Weight& gate_up, const Weight& down, const ActSpec& inner,
           DType act, const float* weights);
  // Ends the work added so far.
  void run();

 private:
  // One expert, and what it leaves on the way.
  struct Work {
    Rows x;
    const Weight* gate_up = nullptr;
    const Weight* down = nullptr;
    const float* weights = nullptr;
    DType act = DType::kF32;
    float* gates = nullptr;    // [rows, 2 * width]
    Act inner;                 // [rows, width]
    float* decoded = nullptr;  // `inner` as float32
    float* out = nullptr;      // [rows, hidden]

    int64_t product_cost() const;
    bool alone() const;  // large enough for all threads together
  };

  void run_one(const Work& work, bool on_all, float* scratch) const;
  void run_small(float* scratch) const;
  void add_to_sums(const Work& work) const;

  static constexpr int kWorksMax = 32;

  const Products& products_;
  ThreadPool& pool_;
  Arena& arena_;
  const int64_t mark_;
  const int64_t rows_max_;
  float* const sums_;
  std::array<Work, kWorksMax> works_;
  int count_ = 0;
  int64_t rows_ = 0;
};

}  // namespace fathom
