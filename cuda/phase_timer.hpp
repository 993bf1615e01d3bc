// Seconds per phase as the GPU sees them: an event at each mark, read when the stream has come to rest.
#pragma once

#include <vector>

#include "cuda/handles.hpp"
#include "phases.hpp"

namespace apb::cuda {

class PhaseTimer {
 public:
  explicit PhaseTimer(cudaStream_t stream);

  /// Time from here to the next mark counts to `phase`.
  void mark(Phase phase);
  /// Adds up what lies between the marks so far; everything in the stream has run.
  void collect();
  /// Seconds per phase since the last call; everything in the stream has run.
  PhaseSeconds take();

 private:
  struct Mark {
    Event event;
    Phase phase;
  };
  Event unused_event();

  cudaStream_t stream_;
  std::vector<Event> unused_;
  std::vector<Mark> marks_;  // at least one: the last that was collected
  PhaseSeconds seconds_{};
};

}  // namespace apb::cuda
