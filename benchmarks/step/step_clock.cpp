// Events around steps and ops.
#include "step_clock.h"

#include "random_fill.h"

namespace fathom::bench {

EventPool::~EventPool() {
  for (cudaEvent_t event : events_) cudaEventDestroy(event);
}

size_t EventPool::record(cudaStream_t stream) {
  if (used_ == events_.size()) {
    cudaEvent_t event = nullptr;
    FATHOM_CHECK(cudaEventCreate(&event) == cudaSuccess, "no CUDA event");
    events_.push_back(event);
  }
  FATHOM_CHECK(cudaEventRecord(events_[used_], stream) == cudaSuccess, "no CUDA event");
  return used_++;
}

double EventPool::us_between(size_t from, size_t to) const {
  float ms = 0.0F;
  FATHOM_CHECK(cudaEventElapsedTime(&ms, events_[from], events_[to]) == cudaSuccess,
               "events were not recorded");
  return 1e3 * static_cast<double>(ms);
}

std::vector<double> StepClock::steps_us(size_t first) const {
  std::vector<double> all;
  for (size_t i = first; i < ends_.size(); ++i) {
    all.push_back(events_.us_between(begins_[i], ends_[i]));
  }
  return all;
}

std::vector<double> StepClock::gaps_us(size_t first) const {
  std::vector<double> all;
  for (size_t i = first + 1; i < begins_.size(); ++i) {
    all.push_back(events_.us_between(ends_[i - 1], begins_[i]));
  }
  return all;
}

void OpClock::step_begins() {
  events_.reset();
  spans_.clear();
  hold(stream_, hold_us_);
}

void OpClock::op_ends(const OpNote& note) {
  const size_t end = events_.record(stream_);
  spans_.push_back({note.label, begin_, end});
}

std::map<std::string, double> OpClock::totals_us() const {
  std::map<std::string, double> totals;
  for (const Span& span : spans_) totals[span.label] += events_.us_between(span.begin, span.end);
  return totals;
}

void LaunchCounter::step_begins() {
  FATHOM_CHECK(cudaStreamBeginCapture(stream_, cudaStreamCaptureModeThreadLocal) == cudaSuccess,
               "a step cannot be captured");
}

void LaunchCounter::step_ends() {
  cudaGraph_t graph = nullptr;
  FATHOM_CHECK(cudaStreamEndCapture(stream_, &graph) == cudaSuccess, "a step cannot be captured");
  size_t count = 0;
  FATHOM_CHECK(cudaGraphGetNodes(graph, nullptr, &count) == cudaSuccess, "a graph has no nodes");
  launches_ = static_cast<int64_t>(count);
  cudaGraphDestroy(graph);
}

}  // namespace fathom::bench
