#include "comm/mpi_communicator.hpp"

#include <algorithm>
#include <array>
#include <climits>
#include <cstdlib>
#include <exception>
#include <utility>

#include "comm/mpi_node_memory.hpp"
#include "error.hpp"

namespace apb {
namespace {

/// MPI counts are int.
int mpi_count(std::size_t count) {
  if (count > INT_MAX)
    fail("a message of {} elements exceeds MPI's limit of {}: use more ranks or a shorter passing length", count,
         INT_MAX);
  return static_cast<int>(count);
}

/// Elements of a part, which is one contiguous row of 4-byte elements.
int part_count(const char* what, ConstView parts, std::int64_t rows) {
  if (parts.rows != rows || parts.stride != parts.columns || size_of(parts.type) != 4) {
    throw std::invalid_argument(std::string(what) + " wants contiguous rows of 4-byte elements, one a part");
  }
  return mpi_count(static_cast<std::size_t>(parts.columns));
}

constexpr int shift_tag = 1;

/// MPI looks at what is under way no more often than this.
constexpr auto progress_interval = std::chrono::microseconds(50);

}  // namespace

void check_mpi(int code, const char* call) {
  if (code == MPI_SUCCESS) return;
  std::array<char, MPI_MAX_ERROR_STRING> text{};
  int length = 0;
  MPI_Error_string(code, text.data(), &length);
  fail("{} failed: {}", call, text.data());
}

void abort_all_ranks(int exit_code) {
  MPI_Abort(MPI_COMM_WORLD, exit_code);
  std::abort();
}

MpiSession::MpiSession(int* argc, char*** argv) {
  int provided = 0;
  check_mpi(MPI_Init_thread(argc, argv, MPI_THREAD_FUNNELED, &provided), "MPI_Init_thread");
  check_mpi(MPI_Comm_set_errhandler(MPI_COMM_WORLD, MPI_ERRORS_RETURN), "MPI_Comm_set_errhandler");
}

MpiSession::~MpiSession() {
  if (std::uncaught_exceptions() == 0) MPI_Finalize();
}

namespace {

MPI_Comm duplicate(MPI_Comm parent) {
  MPI_Comm comm = MPI_COMM_NULL;
  check_mpi(MPI_Comm_dup(parent, &comm), "MPI_Comm_dup");
  return comm;
}

}  // namespace

MpiCommunicator::MpiCommunicator(MPI_Comm parent, double limit_seconds)
    : MpiCommunicator(duplicate(parent), std::make_shared<RollCall>(parent, limit_seconds)) {}

MpiCommunicator::MpiCommunicator(MPI_Comm comm, std::shared_ptr<RollCall> roll_call)
    : roll_call_(std::move(roll_call)), comm_(comm) {
  check_mpi(MPI_Comm_set_errhandler(comm_, MPI_ERRORS_RETURN), "MPI_Comm_set_errhandler");
  check_mpi(MPI_Comm_rank(comm_, &rank_), "MPI_Comm_rank");
  check_mpi(MPI_Comm_size(comm_, &size_), "MPI_Comm_size");
}

MpiCommunicator::~MpiCommunicator() {
  if (std::uncaught_exceptions() == 0) MPI_Comm_free(&comm_);
}

MpiTransfer::~MpiTransfer() {
  for (auto& request : requests_) {
    if (request != MPI_REQUEST_NULL) MPI_Wait(&request, MPI_STATUS_IGNORE);
  }
  communicator_.forget(*this);
}

void MpiTransfer::finish() { communicator_.finish(*this); }

std::shared_ptr<MpiTransfer> MpiCommunicator::begin_transfer() {
  auto transfer = std::allocate_shared<MpiTransfer>(std::pmr::polymorphic_allocator<MpiTransfer>(&transfers_), *this);
  under_way_.push_back(transfer.get());
  return transfer;
}

void MpiCommunicator::finish(MpiTransfer& transfer) {
  if (std::find(under_way_.begin(), under_way_.end(), &transfer) == under_way_.end()) return;
  for (auto& request : transfer.requests_) {
    if (request != MPI_REQUEST_NULL) wait(&request);
  }
  count_since(transfer.start_);
  forget(transfer);
}

bool MpiCommunicator::has_ended(MpiTransfer& transfer) {
  int ended = 0;
  check_mpi(
      MPI_Testall(static_cast<int>(transfer.requests_.size()), transfer.requests_.data(), &ended, MPI_STATUSES_IGNORE),
      "MPI_Testall");
  if (ended != 0) count_since(transfer.start_);
  return ended != 0;
}

bool MpiCommunicator::progress() {
  if (under_way_.empty()) return false;
  if (Clock::now() < next_progress_) return true;
  std::erase_if(under_way_, [this](MpiTransfer* transfer) { return has_ended(*transfer); });
  next_progress_ = Clock::now() + progress_interval;
  return !under_way_.empty();
}

std::shared_ptr<Transfer> MpiCommunicator::start_all_gather(Device& device, View parts) {
  const int count = part_count("all-gather", parts, size_);
  device.synchronize();  // the own part must be in memory
  auto transfer = begin_transfer();
  check_mpi(MPI_Iallgather(MPI_IN_PLACE, 0, MPI_DATATYPE_NULL, parts.data, count, MPI_INT32_T, comm_,
                           transfer->requests_.data()),
            "MPI_Iallgather");
  return transfer;
}

std::shared_ptr<Transfer> MpiCommunicator::start_all_to_all(Device& device, ConstView send, View receive) {
  const int count = part_count("all-to-all", send, size_);
  if (part_count("all-to-all", receive, size_) != count) throw std::invalid_argument("all-to-all of unequal parts");
  device.synchronize();
  auto transfer = begin_transfer();
  check_mpi(
      MPI_Ialltoall(send.data, count, MPI_INT32_T, receive.data, count, MPI_INT32_T, comm_, transfer->requests_.data()),
      "MPI_Ialltoall");
  return transfer;
}

std::shared_ptr<Transfer> MpiCommunicator::start_shift(Device& device, ConstView send, View receive) {
  const int count = part_count("shift", send, 1);
  if (part_count("shift", receive, 1) != count) throw std::invalid_argument("shift of unequal parts");
  device.synchronize();
  auto transfer = begin_transfer();
  const int before = (rank_ + size_ - 1) % size_;
  const int next = (rank_ + 1) % size_;
  auto& [received, sent] = transfer->requests_;
  check_mpi(MPI_Irecv(receive.data, count, MPI_INT32_T, before, shift_tag, comm_, &received), "MPI_Irecv");
  check_mpi(MPI_Isend(send.data, count, MPI_INT32_T, next, shift_tag, comm_, &sent), "MPI_Isend");
  return transfer;
}

void MpiCommunicator::finish(MPI_Request request, Clock::time_point start) {
  wait(&request);
  count_since(start);
}

void MpiCommunicator::broadcast(std::span<std::byte> data, int root) {
  const auto start = Clock::now();
  MPI_Request request = MPI_REQUEST_NULL;
  check_mpi(MPI_Ibcast(data.data(), mpi_count(data.size()), MPI_BYTE, root, comm_, &request), "MPI_Ibcast");
  finish(request, start);
}

std::vector<std::byte> MpiCommunicator::gather(std::span<const std::byte> own) {
  const auto start = Clock::now();
  std::vector<std::byte> all(rank_ == 0 ? own.size() * static_cast<std::size_t>(size_) : 0);
  const int count = mpi_count(own.size());
  MPI_Request request = MPI_REQUEST_NULL;
  check_mpi(MPI_Igather(own.data(), count, MPI_BYTE, all.data(), count, MPI_BYTE, 0, comm_, &request), "MPI_Igather");
  finish(request, start);
  return all;
}

int MpiCommunicator::max(int value) {
  const auto start = Clock::now();
  MPI_Request request = MPI_REQUEST_NULL;
  check_mpi(MPI_Iallreduce(MPI_IN_PLACE, &value, 1, MPI_INT, MPI_MAX, comm_, &request), "MPI_Iallreduce");
  finish(request, start);
  return value;
}

std::unique_ptr<MpiCommunicator> MpiCommunicator::split(int part) {
  max(0);  // all are there: MPI would wait for ever for one that is not
  MPI_Comm comm = MPI_COMM_NULL;
  check_mpi(MPI_Comm_split(comm_, part, rank_, &comm), "MPI_Comm_split");
  return std::unique_ptr<MpiCommunicator>(new MpiCommunicator(comm, roll_call_));
}

std::shared_ptr<NodeMemory> MpiCommunicator::node_memory() {
  max(0);  // all are there: MPI would wait for ever for one that is not
  MPI_Comm node = MPI_COMM_NULL;
  check_mpi(MPI_Comm_split_type(comm_, MPI_COMM_TYPE_SHARED, 0, MPI_INFO_NULL, &node), "MPI_Comm_split_type");
  auto memory = std::make_shared<MpiNodeMemory>(node, [this](MPI_Request* request) { wait(request); });
  return memory->size() > 1 ? memory : nullptr;
}

std::string host_name() {
  std::array<char, MPI_MAX_PROCESSOR_NAME + 1> name{};
  int length = 0;
  check_mpi(MPI_Get_processor_name(name.data(), &length), "MPI_Get_processor_name");
  return {name.data(), static_cast<std::size_t>(length)};
}

}  // namespace apb
