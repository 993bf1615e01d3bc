#include "comm/roll_call.hpp"

#include <fmt/format.h>
#include <sched.h>

#include <algorithm>
#include <array>
#include <exception>
#include <iostream>

#include "comm/mpi_communicator.hpp"
#include "error.hpp"

namespace apb {
namespace {

constexpr auto listen_interval = std::chrono::milliseconds(10);
constexpr auto answer_time = std::chrono::seconds(2);  // behind the limit, for the last answers
// A rank that was stopped itself and goes on has not waited meanwhile.
constexpr auto longest_step = std::chrono::milliseconds(100);
// Tags of messages, which are empty otherwise.
constexpr int question = 1;
constexpr int there = 2;
constexpr int waiting = 3;

std::vector<std::string> all_hosts(MPI_Comm comm, int size) {
  std::array<char, MPI_MAX_PROCESSOR_NAME + 1> own{};
  host_name().copy(own.data(), MPI_MAX_PROCESSOR_NAME);
  std::vector<char> all(own.size() * static_cast<std::size_t>(size));
  const int length = static_cast<int>(own.size());
  check_mpi(MPI_Allgather(own.data(), length, MPI_CHAR, all.data(), length, MPI_CHAR, comm), "MPI_Allgather");
  std::vector<std::string> hosts;
  for (std::size_t at = 0; at < all.size(); at += own.size()) hosts.emplace_back(all.data() + at);
  return hosts;
}

}  // namespace

RollCall::RollCall(MPI_Comm world, double limit_seconds) : limit_seconds_(limit_seconds) {
  check_mpi(MPI_Comm_dup(world, &comm_), "MPI_Comm_dup");
  int size = 0;
  check_mpi(MPI_Comm_size(comm_, &size), "MPI_Comm_size");
  check_mpi(MPI_Comm_rank(comm_, &rank_), "MPI_Comm_rank");
  hosts_ = all_hosts(comm_, size);
  presences_.resize(hosts_.size(), Presence::unknown);
}

RollCall::~RollCall() {
  if (std::uncaught_exceptions() == 0) MPI_Comm_free(&comm_);
}

void RollCall::wait(MPI_Request* request, const std::string& stage) {
  if (limit_seconds_ == 0) {
    check_mpi(MPI_Wait(request, MPI_STATUS_IGNORE), "MPI_Wait");
    return;
  }
  const std::chrono::duration<double> limit(limit_seconds_);
  Clock::duration waited{0};
  Clock::duration next_listening = listen_interval;
  auto last = Clock::now();
  while (true) {
    int done = 0;
    check_mpi(MPI_Test(request, &done, MPI_STATUS_IGNORE), "MPI_Test");
    if (done != 0) break;
    const auto now = Clock::now();
    waited += std::min<Clock::duration>(now - last, longest_step);
    last = now;
    if (waited > limit / 2 && !asked_) ask();
    const bool lowest_has_not = waited > limit + 4 * answer_time;
    if (lowest_has_not || (waited > limit + answer_time && is_lowest_waiting())) {
      judge(stage);
      waited = next_listening = Clock::duration{0};
      asked_ = false;
    }
    if (waited > next_listening) {
      answer();
      next_listening = waited + listen_interval;
    }
    sched_yield();
  }
  if (asked_) tell_others(there);
  asked_ = false;
}

void RollCall::answer() {
  while (limit_seconds_ != 0) {
    int found = 0;
    MPI_Status status;
    check_mpi(MPI_Iprobe(MPI_ANY_SOURCE, MPI_ANY_TAG, comm_, &found, &status), "MPI_Iprobe");
    if (found == 0) return;
    const int from = status.MPI_SOURCE;
    check_mpi(MPI_Recv(nullptr, 0, MPI_BYTE, from, status.MPI_TAG, comm_, MPI_STATUS_IGNORE), "MPI_Recv");
    presences_[static_cast<std::size_t>(from)] = status.MPI_TAG == there ? Presence::there : Presence::waiting;
    if (status.MPI_TAG == question) tell(from, asked_ ? waiting : there);
  }
}

void RollCall::ask() {
  asked_ = true;
  std::fill(presences_.begin(), presences_.end(), Presence::unknown);
  presences_[static_cast<std::size_t>(rank_)] = Presence::waiting;
  tell_others(question);
}

void RollCall::tell(int rank, int message) {
  MPI_Request request = MPI_REQUEST_NULL;
  check_mpi(MPI_Isend(nullptr, 0, MPI_BYTE, rank, message, comm_, &request), "MPI_Isend");
  check_mpi(MPI_Request_free(&request), "MPI_Request_free");  // nobody waits for a rank that may be gone
}

void RollCall::tell_others(int message) {
  for (int other = 0; other < static_cast<int>(hosts_.size()); ++other) {
    if (other != rank_) tell(other, message);
  }
}

bool RollCall::is_lowest_waiting() const {
  return std::find(presences_.begin(), presences_.end(), Presence::waiting) - presences_.begin() == rank_;
}

void RollCall::judge(const std::string& stage) const {
  std::string missing;
  for (std::size_t other = 0; other < hosts_.size(); ++other) {
    if (presences_[other] != Presence::unknown) continue;
    missing += fmt::format("{}rank {} on {}", missing.empty() ? "" : ", ", other, hosts_[other]);
  }
  const bool one_computes = std::find(presences_.begin(), presences_.end(), Presence::there) != presences_.end();
  if (missing.empty() && one_computes) return;
  if (missing.empty()) missing = "every rank is there, but the network";
  std::cerr << fmt::format("apb: {} did not answer for {:g} s ({}); go on with --resume, or with a longer --timeout\n",
                           missing, limit_seconds_, stage)
            << std::flush;
  abort_all_ranks(static_cast<int>(ExitCode::rank_missing));
}

}  // namespace apb
