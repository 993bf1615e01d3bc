// Ranks as MPI processes; device memory must be host memory (the CPU device).
#pragma once

#include <mpi.h>

#include <array>
#include <chrono>
#include <memory>
#include <memory_resource>
#include <utility>
#include <vector>

#include "comm/communicator.hpp"
#include "comm/roll_call.hpp"

namespace apb {

/// MPI from construction to destruction. When an exception ends the program on this rank alone, MPI is aborted by main
/// instead, since MPI_Finalize would wait for ranks that wait for this one.
class MpiSession {
 public:
  MpiSession(int* argc, char*** argv);
  ~MpiSession();
  MpiSession(const MpiSession&) = delete;
  MpiSession& operator=(const MpiSession&) = delete;
};

/// Throws Error with MPI's own text when `code` is not MPI_SUCCESS.
void check_mpi(int code, const char* call);

/// Ends all ranks at once with this exit code.
[[noreturn]] void abort_all_ranks(int exit_code);

class MpiCommunicator;

/// One or two messages that belong together.
class MpiTransfer : public Transfer {
 public:
  explicit MpiTransfer(MpiCommunicator& communicator) : communicator_(communicator) {}
  ~MpiTransfer() override;
  void finish() override;

 private:
  friend class MpiCommunicator;
  MpiCommunicator& communicator_;
  std::array<MPI_Request, 2> requests_{MPI_REQUEST_NULL, MPI_REQUEST_NULL};
  std::chrono::steady_clock::time_point start_ = std::chrono::steady_clock::now();
};

class MpiCommunicator : public Communicator {
 public:
  /// Takes a duplicate of `parent`. When a rank waits for others longer than the limit, the run is ended with a line
  /// that names them; 0: no limit.
  explicit MpiCommunicator(MPI_Comm parent, double limit_seconds = 0);
  ~MpiCommunicator() override;

  int rank() const override { return rank_; }
  int size() const override { return size_; }
  std::shared_ptr<Transfer> start_all_gather(Device& device, View parts) override;
  std::shared_ptr<Transfer> start_all_to_all(Device& device, ConstView send, View receive) override;
  std::shared_ptr<Transfer> start_shift(Device& device, ConstView send, View receive) override;
  void broadcast(std::span<std::byte> data, int root) override;
  std::vector<std::byte> gather(std::span<const std::byte> own) override;
  int max(int value) override;
  bool progress() override;
  /// Transfers whose end has not been noticed.
  std::size_t under_way() const { return under_way_.size(); }
  double take_message_seconds() override { return std::exchange(message_seconds_, 0.0); }
  std::shared_ptr<NodeMemory> node_memory() override;

  /// Collective: a communicator of the ranks that name the same part, in the same order. It shares the time limit,
  /// under which any rank of the program may be found missing.
  std::unique_ptr<MpiCommunicator> split(int part);

  /// Returns when the request is done.
  void wait(MPI_Request* request) { roll_call_->wait(request, stage()); }
  /// Tells ranks that wait for long that this one is there; for now and then in long work.
  void answer_roll_call() { roll_call_->answer(); }
  /// For what the ranks do with MPI besides.
  MPI_Comm handle() const { return comm_; }

 private:
  friend class MpiTransfer;
  using Clock = std::chrono::steady_clock;

  std::shared_ptr<MpiTransfer> begin_transfer();
  /// Waits for what has not ended.
  void finish(MpiTransfer& transfer);
  bool has_ended(MpiTransfer& transfer);
  void forget(const MpiTransfer& transfer) { std::erase(under_way_, &transfer); }
  /// Waits for what was started at `start`.
  void finish(MPI_Request request, Clock::time_point start);
  void count_since(Clock::time_point start) {
    message_seconds_ += std::chrono::duration<double>(Clock::now() - start).count();
  }

  /// Takes over `comm`.
  MpiCommunicator(MPI_Comm comm, std::shared_ptr<RollCall> roll_call);

  std::shared_ptr<RollCall> roll_call_;               // of all ranks of the program
  std::pmr::unsynchronized_pool_resource transfers_;  // their memory is used again: they are begun in the layer loop
  std::vector<MpiTransfer*> under_way_;
  Clock::time_point next_progress_{};
  double message_seconds_ = 0.0;
  MPI_Comm comm_ = MPI_COMM_NULL;
  int rank_ = 0;
  int size_ = 1;
};

/// Name of this rank's host.
std::string host_name();

}  // namespace apb
