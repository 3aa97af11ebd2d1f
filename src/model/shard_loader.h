// ShardLoader: reads this rank's slices of a checkpoint into the backend's memory, with errors that
// name the tensor. Lives for one load, on the loading thread.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "fathom/comm.h"
#include "fathom/model.h"
#include "model/rope_tables.h"

namespace fathom {

// Rows and columns of one stored matrix; an empty span means all.
struct WeightSlice {
  std::string name;
  Span rows;
  Span columns;
};

// Elements of one stored vector.
struct VectorSlice {
  std::string name;
  Span elements;
};

class ShardLoader {
 public:
  ShardLoader(const WeightSource& source, Ops& ops, const Groups& groups,
              const ModelOptions& options, int64_t bytes_total)
      : source_(source),
        ops_(ops),
        options_(options),
        tp_rank_(Groups::rank_of(groups.tp)),
        tp_size_(Groups::size_of(groups.tp)),
        bytes_total_(bytes_total) {}

  Ops& ops() const { return ops_; }
  int32_t tp_rank() const { return tp_rank_; }
  int32_t tp_size() const { return tp_size_; }
  // This rank's part of n equal things; tp_size divides n (checked before loading).
  Span share(int64_t n) const { return {n * tp_rank_ / tp_size_, n * (tp_rank_ + 1) / tp_size_}; }

  // Slices below each other as one linear layer.
  Result<Weight> linear(const std::vector<WeightSlice>& slices);
  // Its packed copy too, where the options ask for that.
  Status pack(const Weight& weight, bool gated = false);
  Result<MlaUpProjection> kv_b(const WeightSlice& slice, int32_t heads, int32_t nope_dims,
                               int32_t value_dims);
  // A whole tensor as float32.
  Result<Tensor> floats(const std::string& name);
  // Slices behind each other as float32.
  Result<Tensor> floats(const std::vector<VectorSlice>& slices);
  // Rows of a matrix in bfloat16 or float32, as stored.
  Result<Tensor> table(const WeightSlice& slice);
  // Tables of the positions that the options ask for.
  Result<RopeTable> rope(const RopeConfig& config);

 private:
  Result<HostWeight> read(const WeightSlice& slice);
  void count(int64_t bytes);

  const WeightSource& source_;
  Ops& ops_;
  const ModelOptions& options_;
  const int32_t tp_rank_;
  const int32_t tp_size_;
  const int64_t bytes_total_;
  int64_t bytes_done_ = 0;
};

}  // namespace fathom
