// Comm: the collectives of one group of ranks. One object per rank and group; called by that rank's
// thread only. Every rank of a group makes the same calls in the same order. A group of one does
// nothing.
#pragma once

#include <cstdint>

#include "fathom/status.h"
#include "fathom/tensor.h"

namespace fathom {

class Comm {
 public:
  virtual ~Comm() = default;

  virtual int32_t rank() const = 0;
  virtual int32_t size() const = 0;

  // In place; float32 or bfloat16; sums in rank order, so every rank holds the same bits.
  virtual Status all_reduce_sum(const Tensor& tensor) = 0;
  // out is [size * part rows, ...] in rank order along dimension 0.
  virtual Status all_gather(const Tensor& part, const Tensor& out) = 0;
  virtual Status broadcast(const Tensor& tensor, int32_t root) = 0;
  virtual Status send(const Tensor& tensor, int32_t peer) = 0;
  virtual Status receive(const Tensor& tensor, int32_t peer) = 0;

  // Makes every pending and later call of every rank return kUnavailable. Any thread.
  virtual void abort() = 0;
};

// The groups that one rank belongs to. Pointers outlive the model; null means a group of one.
struct Groups {
  Comm* tp = nullptr;     // tensor parallel (also holds whole experts per rank)
  Comm* pp = nullptr;     // pipeline: one rank per stage, in stage order
  Comm* world = nullptr;  // all ranks

  static int32_t rank_of(const Comm* c) { return c == nullptr ? 0 : c->rank(); }
  static int32_t size_of(const Comm* c) { return c == nullptr ? 1 : c->size(); }
};

}  // namespace fathom
