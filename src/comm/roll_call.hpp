// Who is missing when a rank waits in vain.
#pragma once

#include <mpi.h>

#include <chrono>
#include <string>
#include <vector>

namespace apb {

/// Waits for MPI requests, no longer than a time limit. A rank for which it has passed tells the others that it is
/// there; those that wait do the same. Ranks that are not heard of then are named in one line on standard error, by
/// the lowest that is there, and all are ended. So the limit must be longer than a rank may compute on its own.
class RollCall {
 public:
  /// Collective. Seconds of 0: no limit.
  RollCall(MPI_Comm parent, double limit_seconds);
  ~RollCall();
  RollCall(const RollCall&) = delete;
  RollCall& operator=(const RollCall&) = delete;

  /// Returns when the request is done. `stage` says for people what the ranks are doing.
  void wait(MPI_Request* request, const std::string& stage);

 private:
  using Clock = std::chrono::steady_clock;

  void listen();
  void announce();
  bool is_lowest_present() const;
  [[noreturn]] void name_missing(const std::string& stage) const;

  MPI_Comm comm_ = MPI_COMM_NULL;
  int rank_ = 0;
  double limit_seconds_;
  std::vector<std::string> hosts_;  // of all ranks
  std::vector<bool> present_;       // the ranks that have announced themselves
  bool announced_ = false;          // this rank has, in this wait
};

}  // namespace apb
