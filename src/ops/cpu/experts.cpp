// Experts of few rows are shared out among the threads, each whole; one of many rows has all
// threads for its products. The sums come afterwards, in the order in which the experts were added.
#include "ops/cpu/experts.h"

#include <algorithm>

#include "ops/cpu/activation.h"
#include "ops/cpu/simd.h"

namespace fathom {

int64_t Experts::Work::product_cost() const {
  return Products::cost(x.count, *gate_up) + Products::cost(x.count, *down);
}

bool Experts::Work::alone() const {
  return Products::cost(x.count, *gate_up) >= ThreadPool::kCostMin;
}

Experts::Experts(const Products& products, ThreadPool& pool, Arena& arena, int64_t rows_max,
                 float* sums)
    : products_(products),
      pool_(pool),
      arena_(arena),
      mark_(arena.used()),
      rows_max_(rows_max),
      sums_(sums) {}

void Experts::add(const Rows& x, const Weight& gate_up, const Weight& down, const ActSpec& inner,
                  DType act, const float* weights) {
  if (count_ == kWorksMax || rows_ + x.count > rows_max_) run();
  const auto floats = [&](int64_t n) { return arena_.take(DType::kF32, {n}).as<float>(); };
  Work& work = works_[count_++];
  work.x = x;
  work.gate_up = &gate_up;
  work.down = &down;
  work.weights = weights;
  work.act = act;
  work.gates = floats(x.count * gate_up.out());
  work.inner = make_act(x.count, gate_up.out() / 2, inner, arena_);
  work.decoded = floats(x.count * down.in());
  work.out = floats(x.count * down.out());
  rows_ += x.count;
  if (pool_.size() == 1) run();  // its rows are still near
}

void Experts::run_one(const Work& work, bool on_all, float* scratch) const {
  const auto product = [&](const Rows& x, const Weight& weight, float* out) {
    if (on_all)
      products_.matmul(x, weight, out, weight.out(), pool_, scratch);
    else
      products_.matmul_part(x, weight, 0, weight.out(), out, weight.out(), scratch);
    round_floats(out, x.count * weight.out(), work.act);
  };
  const int64_t width = work.gate_up->out() / 2;
  product(work.x, *work.gate_up, work.gates);
  gate_rows(work.gates, work.x.count, width);
  for (int64_t i = 0; i < work.x.count; ++i) write_row(work.gates + i * 2 * width, work.inner, i);
  product(read_rows(work.inner, work.decoded), *work.down, work.out);
}

// Works that are not alone. The last is begun first: the shared expert has the most rows.
void Experts::run_small(float* scratch) const {
  int64_t total = 0;
  int64_t each = 0;  // floats of a thread's scratch
  for (int i = 0; i < count_; ++i) {
    const Work& work = works_[i];
    if (work.alone()) continue;
    total += work.product_cost();
    each = std::max({each, products_.scratch_floats(*work.gate_up, 1),
                     products_.scratch_floats(*work.down, 1)});
  }
  const auto body = [&](int64_t piece, int32_t worker) {
    const Work& work = works_[count_ - 1 - piece];
    if (!work.alone()) run_one(work, false, scratch + worker * each);
  };
  if (total < ThreadPool::kCostMin) {
    for (int64_t piece = 0; piece < count_; ++piece) body(piece, 0);
  } else {
    pool_.share(count_, body);
  }
}

void Experts::add_to_sums(const Work& work) const {
  const int64_t hidden = work.down->out();
  for (int64_t i = 0; i < work.x.count; ++i) {
    float* to = sums_ + (work.x.index == nullptr ? i : work.x.index[i]) * hidden;
    simd::add_scaled(work.weights == nullptr ? 1.0F : work.weights[i], work.out + i * hidden,
                     hidden, to);
  }
}

void Experts::run() {
  if (count_ == 0) return;
  int64_t most = 0;
  for (int i = 0; i < count_; ++i) {
    most = std::max({most, products_.scratch_floats(*works_[i].gate_up, pool_.size()),
                     products_.scratch_floats(*works_[i].down, pool_.size())});
  }
  float* scratch = arena_.take(DType::kF32, {most}).as<float>();
  for (int i = 0; i < count_; ++i) {
    if (works_[i].alone()) run_one(works_[i], true, scratch);
  }
  run_small(scratch);
  for (int i = 0; i < count_; ++i) add_to_sums(works_[i]);
  arena_.rewind(mark_);
  count_ = 0;
  rows_ = 0;
}

}  // namespace fathom
