// What the op benchmark runs on: makes Ops, measures the memory's bandwidth, times rounds of calls.
// One thread.
#pragma once

#include <functional>
#include <memory>
#include <string>
#include <vector>

#include "fathom/ops.h"
#include "ops/op_compare.h"

namespace fathom::bench {

// Bytes per second; a copy counts what it reads and what it writes.
struct Bandwidth {
  double read = 0.0;
  double copy = 0.0;
};

class Device {
 public:
  virtual ~Device() = default;

  virtual std::string name() const = 0;
  // Of buffers far larger than any cache, filled with random numbers; median of 20.
  virtual Result<Bandwidth> measure_bandwidth() = 0;
  virtual Result<std::unique_ptr<Ops>> make_ops(Numerics numerics, int64_t arena_bytes) = 0;
  // Microseconds of each of `rounds` runs of `body`, after three that warm up. A GPU captures the
  // body once and replays it, with an event on either side.
  virtual Result<std::vector<double>> time_rounds(Ops& ops, const std::function<void()>& body,
                                                  int32_t rounds) = 0;
  virtual testing::CopyToHost copy_to_host() const = 0;
};

std::unique_ptr<Device> make_cpu_device(int32_t threads);
Result<std::unique_ptr<Device>> make_cuda_device();

double median(std::vector<double> values);

}  // namespace fathom::bench
