// Time as a dependency: whoever needs "now" is given a Clock, so that tests decide what time it is.
#pragma once

#include <atomic>
#include <cstdint>

namespace fathom {

// Any thread.
class Clock {
 public:
  virtual ~Clock() = default;
  // Monotonic microseconds from an arbitrary start: deadlines, durations.
  virtual int64_t now_us() const = 0;
  // Microseconds since 1970 UTC: what a client or a log sees. May jump.
  virtual int64_t unix_us() const = 0;
};

// The machine's clocks (CLOCK_MONOTONIC, CLOCK_REALTIME).
class SystemClock final : public Clock {
 public:
  int64_t now_us() const override;
  int64_t unix_us() const override;
};

// Moves only when told to. Any thread may read while one advances.
class ManualClock final : public Clock {
 public:
  explicit ManualClock(int64_t now_us = 0, int64_t unix_us = 1'700'000'000'000'000)
      : now_us_(now_us), unix_offset_us_(unix_us - now_us) {}

  int64_t now_us() const override { return now_us_.load(std::memory_order_relaxed); }
  int64_t unix_us() const override { return now_us() + unix_offset_us_; }
  void advance_us(int64_t delta_us) { now_us_.fetch_add(delta_us, std::memory_order_relaxed); }

 private:
  std::atomic<int64_t> now_us_;
  int64_t unix_offset_us_;
};

}  // namespace fathom
