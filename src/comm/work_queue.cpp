#include "comm/work_queue.hpp"

#include <algorithm>
#include <exception>
#include <utility>

namespace apb {
namespace {

constexpr int stop_tag = 1;
constexpr auto progress_interval = std::chrono::microseconds(50);

}  // namespace

WorkQueue::WorkQueue(MpiCommunicator& world, bool takes)
    : world_(world), ranks_(world.split(takes ? 1 : 0)), takers_(takes ? ranks_->size() : 0) {
  if (takers_ < 2) return;
  const MPI_Comm comm = ranks_->handle();
  const MPI_Aint bytes = ranks_->rank() == 0 ? slots * sizeof(std::int64_t) : 0;
  std::int64_t* counts = nullptr;
  check_mpi(MPI_Win_allocate(bytes, sizeof(std::int64_t), MPI_INFO_NULL, comm, &counts, &window_), "MPI_Win_allocate");
  check_mpi(MPI_Win_lock_all(0, window_), "MPI_Win_lock_all");
  if (ranks_->rank() == 0) std::fill_n(counts, slots, 0);
  check_mpi(MPI_Win_sync(window_), "MPI_Win_sync");
  ranks_->max(0);
}

WorkQueue::~WorkQueue() {
  if (window_ == MPI_WIN_NULL || std::uncaught_exceptions() > 0) return;
  MPI_Win_unlock_all(window_);
  MPI_Win_free(&window_);
}

std::optional<std::int64_t> WorkQueue::take() {
  next_progress_ = {};
  progress();
  if (stopped_) return std::nullopt;
  return fetch_and_add(next, 1);
}

std::int64_t WorkQueue::add_done(std::int64_t more) { return fetch_and_add(done, more) + more; }

/// MPI_Fetch_and_op as an operation with a request, so that waiting for it has a limit.
std::int64_t WorkQueue::fetch_and_add(Slot slot, std::int64_t value) {
  if (window_ == MPI_WIN_NULL) {
    auto& count = own_counts_.at(slot);
    return std::exchange(count, count + value);
  }
  std::int64_t before = 0;
  MPI_Request request = MPI_REQUEST_NULL;
  check_mpi(MPI_Rget_accumulate(&value, 1, MPI_INT64_T, &before, 1, MPI_INT64_T, 0, slot, 1, MPI_INT64_T, MPI_SUM,
                                window_, &request),
            "MPI_Rget_accumulate");
  world_.enter_stage("taking a document");
  world_.wait(&request);
  return before;
}

void WorkQueue::stop() {
  if (std::exchange(stopped_, true) || takers_ < 2) return;
  for (int other = 0; other < takers_; ++other) {
    if (other == ranks_->rank()) continue;
    MPI_Request request = MPI_REQUEST_NULL;
    check_mpi(MPI_Isend(nullptr, 0, MPI_BYTE, other, stop_tag, ranks_->handle(), &request), "MPI_Isend");
    check_mpi(MPI_Request_free(&request), "MPI_Request_free");
  }
}

void WorkQueue::progress() {
  const auto now = Clock::now();
  if (now < next_progress_) return;
  next_progress_ = now + progress_interval;
  world_.answer_roll_call();
  int found = 1;
  while (takers_ > 1 && found != 0) {
    MPI_Status status;
    check_mpi(MPI_Iprobe(MPI_ANY_SOURCE, stop_tag, ranks_->handle(), &found, &status), "MPI_Iprobe");
    if (found == 0) return;
    check_mpi(MPI_Recv(nullptr, 0, MPI_BYTE, status.MPI_SOURCE, stop_tag, ranks_->handle(), MPI_STATUS_IGNORE),
              "MPI_Recv");
    stopped_ = true;
  }
}

}  // namespace apb
