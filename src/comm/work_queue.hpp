// Numbers that several ranks take from one counter, each number once.
#pragma once

#include <mpi.h>

#include <array>
#include <chrono>
#include <cstdint>
#include <memory>
#include <optional>

#include "comm/mpi_communicator.hpp"

namespace apb {

/// The counter lies in the memory of the first rank and is reached by one-sided operations. Some networks need that
/// rank's help for them, so it must be in MPI now and then, or call progress().
class WorkQueue {
 public:
  /// Collective over `world`, which must outlive this. Those ranks take numbers that say so, the first one among them.
  WorkQueue(MpiCommunicator& world, bool takes);
  ~WorkQueue();
  WorkQueue(const WorkQueue&) = delete;
  WorkQueue& operator=(const WorkQueue&) = delete;

  /// How many ranks take numbers.
  int takers() const { return takers_; }

  /// The next number, from 0 on; nothing when stop() has been called and this rank knows. Waits for the first rank's
  /// help, under the time limit.
  std::optional<std::int64_t> take();

  /// Counts what is done, over all takers; how much that is now.
  std::int64_t add_done(std::int64_t more);

  /// Tells all takers to stop.
  void stop();
  /// Whether one of them has done so, as far as this rank knows.
  bool stopped() const { return stopped_; }

  /// Helps others to take numbers, and hears of stop(); costs little when it is called too often.
  void progress();

 private:
  using Clock = std::chrono::steady_clock;
  enum Slot : int { next, done, slots };

  std::int64_t fetch_and_add(Slot slot, std::int64_t value);

  MpiCommunicator& world_;
  std::unique_ptr<MpiCommunicator> ranks_;  // the takers, or the others
  int takers_ = 0;                          // on those that take
  bool stopped_ = false;
  MPI_Win window_ = MPI_WIN_NULL;                 // none where one rank takes all
  std::array<std::int64_t, slots> own_counts_{};  // then
  Clock::time_point next_progress_{};
};

}  // namespace apb
