// Who is missing when a rank waits in vain.
#pragma once

#include <mpi.h>

#include <chrono>
#include <string>
#include <vector>

namespace apb {

/// Waits for MPI requests, no longer than a time limit. A rank for which half of it has passed asks all others whether
/// they are there; those that wait answer, and those that compute whenever they call answer(). Ranks that have not done
/// so when the limit has passed are named in one line on standard error, by the lowest that waits for so long, and all
/// are ended; while some rank says that it computes, the wait goes on. So the limit must be longer than a rank may
/// be busy without a call of answer().
class RollCall {
 public:
  /// Collective over all ranks of the program. Seconds of 0: no limit.
  RollCall(MPI_Comm world, double limit_seconds);
  ~RollCall();
  RollCall(const RollCall&) = delete;
  RollCall& operator=(const RollCall&) = delete;

  /// Returns when the request, of any communicator, is done. `stage` says for people what the ranks are doing.
  void wait(MPI_Request* request, const std::string& stage);

  /// Tells ranks that ask that this one is there.
  void answer();

 private:
  using Clock = std::chrono::steady_clock;
  enum class Presence : char { unknown, there, waiting };  // waiting: so long that it has asked itself

  void ask();
  void tell(int rank, int message);
  void tell_others(int message);
  bool is_lowest_waiting() const;
  /// Ends all ranks when one is missing or all wait; returns when one computes.
  void judge(const std::string& stage) const;

  MPI_Comm comm_ = MPI_COMM_NULL;
  int rank_ = 0;
  double limit_seconds_;
  std::vector<std::string> hosts_;   // of all ranks
  std::vector<Presence> presences_;  // of all ranks, since this one has asked
  bool asked_ = false;               // in this wait
};

}  // namespace apb
