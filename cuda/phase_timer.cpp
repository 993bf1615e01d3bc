#include "cuda/phase_timer.hpp"

#include <utility>

namespace apb::cuda {
namespace {

constexpr int first_events = 4096;  // more are made as they are needed

}  // namespace

PhaseTimer::PhaseTimer(cudaStream_t stream) : stream_(stream) {
  for (int i = 0; i < first_events; ++i) unused_.push_back(make_timed_event());
  mark(Phase::other);
}

void PhaseTimer::mark(Phase phase) {
  Event event = unused_event();
  check(cudaEventRecord(event.get(), stream_), "cudaEventRecord");
  marks_.push_back({std::move(event), phase});
}

void PhaseTimer::collect() {
  for (std::size_t i = 0; i + 1 < marks_.size(); ++i) {
    float milliseconds = 0.0F;
    check(cudaEventElapsedTime(&milliseconds, marks_[i].event.get(), marks_[i + 1].event.get()),
          "cudaEventElapsedTime");
    seconds_[static_cast<std::size_t>(marks_[i].phase)] += static_cast<double>(milliseconds) / 1000.0;
    unused_.push_back(std::move(marks_[i].event));
  }
  marks_.erase(marks_.begin(), marks_.end() - 1);
}

PhaseSeconds PhaseTimer::take() {
  mark(marks_.back().phase);
  check(cudaEventSynchronize(marks_.back().event.get()), "cudaEventSynchronize");
  collect();
  return std::exchange(seconds_, {});
}

Event PhaseTimer::unused_event() {
  if (unused_.empty()) return make_timed_event();
  Event event = std::move(unused_.back());
  unused_.pop_back();
  return event;
}

}  // namespace apb::cuda
