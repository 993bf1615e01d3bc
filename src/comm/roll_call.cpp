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
constexpr auto answer_time = std::chrono::seconds(2);  // for waiting ranks to announce themselves
// A rank that was stopped itself and goes on has not waited meanwhile.
constexpr auto longest_step = std::chrono::milliseconds(100);
constexpr int here = 1;  // the message's tag: it is empty otherwise

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

RollCall::RollCall(MPI_Comm parent, double limit_seconds) : limit_seconds_(limit_seconds) {
  check_mpi(MPI_Comm_dup(parent, &comm_), "MPI_Comm_dup");
  int size = 0;
  check_mpi(MPI_Comm_size(comm_, &size), "MPI_Comm_size");
  check_mpi(MPI_Comm_rank(comm_, &rank_), "MPI_Comm_rank");
  hosts_ = all_hosts(comm_, size);
  present_.resize(hosts_.size());
}

RollCall::~RollCall() {
  if (std::uncaught_exceptions() == 0) MPI_Comm_free(&comm_);
}

void RollCall::wait(MPI_Request* request, const std::string& stage) {
  if (limit_seconds_ == 0) {
    check_mpi(MPI_Wait(request, MPI_STATUS_IGNORE), "MPI_Wait");
    return;
  }
  announced_ = false;
  const std::chrono::duration<double> limit(limit_seconds_);
  Clock::duration waited{0};
  Clock::duration next_listening = listen_interval;
  auto last = Clock::now();
  while (true) {
    int done = 0;
    check_mpi(MPI_Test(request, &done, MPI_STATUS_IGNORE), "MPI_Test");
    if (done != 0) return;
    const auto now = Clock::now();
    waited += std::min<Clock::duration>(now - last, longest_step);
    last = now;
    if (waited > limit) announce();
    if (waited > limit + answer_time && is_lowest_present()) name_missing(stage);
    if (waited > limit + 4 * answer_time) name_missing(stage);  // the lowest has not done it
    if (waited > next_listening) {
      listen();
      next_listening = waited + listen_interval;
    }
    sched_yield();
  }
}

/// Notes who has announced itself; whoever has may be about to end the run, so this rank does the same.
void RollCall::listen() {
  while (true) {
    int found = 0;
    MPI_Status status;
    check_mpi(MPI_Iprobe(MPI_ANY_SOURCE, here, comm_, &found, &status), "MPI_Iprobe");
    if (found == 0) return;
    check_mpi(MPI_Recv(nullptr, 0, MPI_BYTE, status.MPI_SOURCE, here, comm_, MPI_STATUS_IGNORE), "MPI_Recv");
    present_[static_cast<std::size_t>(status.MPI_SOURCE)] = true;
    announce();
  }
}

void RollCall::announce() {
  if (announced_) return;
  announced_ = true;
  present_[static_cast<std::size_t>(rank_)] = true;
  for (int other = 0; other < static_cast<int>(hosts_.size()); ++other) {
    if (other == rank_) continue;
    MPI_Request request = MPI_REQUEST_NULL;
    check_mpi(MPI_Isend(nullptr, 0, MPI_BYTE, other, here, comm_, &request), "MPI_Isend");
    check_mpi(MPI_Request_free(&request), "MPI_Request_free");  // nobody waits for a rank that may be gone
  }
}

bool RollCall::is_lowest_present() const {
  for (int other = 0; other < rank_; ++other) {
    if (present_[static_cast<std::size_t>(other)]) return false;
  }
  return true;
}

void RollCall::name_missing(const std::string& stage) const {
  std::string missing;
  for (std::size_t other = 0; other < hosts_.size(); ++other) {
    if (!present_[other]) missing += fmt::format("{}rank {} on {}", missing.empty() ? "" : ", ", other, hosts_[other]);
  }
  if (missing.empty()) missing = "every rank is there, but the network";
  std::cerr << fmt::format("apb: {} did not answer for {:g} s ({}); go on with --resume, or with a longer --timeout\n",
                           missing, limit_seconds_, stage)
            << std::flush;
  abort_all_ranks(static_cast<int>(ExitCode::rank_missing));
}

}  // namespace apb
