// Observers that time steps on the GPU: whole replays, and op by op.
#pragma once

#include <cuda_runtime_api.h>

#include <map>
#include <string>
#include <vector>

#include "observed_ops.h"

namespace fathom::bench {

// Events with times, used again after reset().
class EventPool {
 public:
  ~EventPool();
  EventPool() = default;
  EventPool(const EventPool&) = delete;
  EventPool& operator=(const EventPool&) = delete;

  // Records the next event on `stream`; its number.
  size_t record(cudaStream_t stream);
  double us_between(size_t from, size_t to) const;
  void reset() { used_ = 0; }

 private:
  std::vector<cudaEvent_t> events_;
  size_t used_ = 0;
};

// The time of each step between the end of its advance and its last kernel, and from there to the
// next step's.
class StepClock final : public StepObserver {
 public:
  explicit StepClock(cudaStream_t stream) : stream_(stream) {}
  void step_begins() override { begins_.push_back(events_.record(stream_)); }
  void step_ends() override { ends_.push_back(events_.record(stream_)); }

  // After synchronize(), of the steps from number `first` on.
  std::vector<double> steps_us(size_t first) const;
  std::vector<double> gaps_us(size_t first) const;

 private:
  cudaStream_t stream_;
  EventPool events_;
  std::vector<size_t> begins_;
  std::vector<size_t> ends_;
};

// Each op of steps that run eagerly, while the stream is held until the host has launched them all.
class OpClock final : public StepObserver {
 public:
  OpClock(cudaStream_t stream, int64_t hold_us) : stream_(stream), hold_us_(hold_us) {}
  void step_begins() override;
  void step_ends() override {}
  void op_begins() override { begin_ = events_.record(stream_); }
  void op_ends(const OpNote& note) override;

  // After synchronize(): total of each label in the last step.
  std::map<std::string, double> totals_us() const;

 private:
  struct Span {
    std::string label;
    size_t begin;
    size_t end;
  };
  cudaStream_t stream_;
  int64_t hold_us_;
  EventPool events_;
  size_t begin_ = 0;
  std::vector<Span> spans_;
};

// Captures a step that runs eagerly, counts its kernels and throws it away.
class LaunchCounter final : public StepObserver {
 public:
  explicit LaunchCounter(cudaStream_t stream) : stream_(stream) {}
  void step_begins() override;
  void step_ends() override;
  int64_t launches() const { return launches_; }

 private:
  cudaStream_t stream_;
  int64_t launches_ = 0;
};

}  // namespace fathom::bench
