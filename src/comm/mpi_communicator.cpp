#include "comm/mpi_communicator.hpp"

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

/// One or two requests that belong together.
class MpiTransfer : public Transfer {
 public:
  explicit MpiTransfer(MpiCommunicator& communicator) : communicator_(communicator) {}
  ~MpiTransfer() override {
    for (auto& request : requests_) {
      if (request != MPI_REQUEST_NULL) MPI_Wait(&request, MPI_STATUS_IGNORE);
    }
  }
  void finish() override {
    for (auto& request : requests_) {
      if (request != MPI_REQUEST_NULL) communicator_.wait(&request);
    }
  }
  MPI_Request* request(std::size_t index = 0) { return &requests_.at(index); }

 private:
  MpiCommunicator& communicator_;
  std::array<MPI_Request, 2> requests_{MPI_REQUEST_NULL, MPI_REQUEST_NULL};
};

using TransferAllocator = std::pmr::polymorphic_allocator<MpiTransfer>;

/// Elements of a part, which is one contiguous row of 4-byte elements.
int part_count(const char* what, ConstView parts, std::int64_t rows) {
  if (parts.rows != rows || parts.stride != parts.columns || size_of(parts.type) != 4) {
    throw std::invalid_argument(std::string(what) + " wants contiguous rows of 4-byte elements, one a part");
  }
  return mpi_count(static_cast<std::size_t>(parts.columns));
}

constexpr int shift_tag = 1;

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

std::shared_ptr<Transfer> MpiCommunicator::start_all_gather(Device& device, View parts) {
  const int count = part_count("all-gather", parts, size_);
  device.synchronize();  // the own part must be in memory
  auto transfer = std::allocate_shared<MpiTransfer>(TransferAllocator(&transfers_), *this);
  check_mpi(
      MPI_Iallgather(MPI_IN_PLACE, 0, MPI_DATATYPE_NULL, parts.data, count, MPI_INT32_T, comm_, transfer->request()),
      "MPI_Iallgather");
  return transfer;
}

std::shared_ptr<Transfer> MpiCommunicator::start_all_to_all(Device& device, ConstView send, View receive) {
  const int count = part_count("all-to-all", send, size_);
  if (part_count("all-to-all", receive, size_) != count) throw std::invalid_argument("all-to-all of unequal parts");
  device.synchronize();
  auto transfer = std::allocate_shared<MpiTransfer>(TransferAllocator(&transfers_), *this);
  check_mpi(MPI_Ialltoall(send.data, count, MPI_INT32_T, receive.data, count, MPI_INT32_T, comm_, transfer->request()),
            "MPI_Ialltoall");
  return transfer;
}

std::shared_ptr<Transfer> MpiCommunicator::start_shift(Device& device, ConstView send, View receive) {
  const int count = part_count("shift", send, 1);
  if (part_count("shift", receive, 1) != count) throw std::invalid_argument("shift of unequal parts");
  device.synchronize();
  auto transfer = std::allocate_shared<MpiTransfer>(TransferAllocator(&transfers_), *this);
  const int before = (rank_ + size_ - 1) % size_;
  const int next = (rank_ + 1) % size_;
  check_mpi(MPI_Irecv(receive.data, count, MPI_INT32_T, before, shift_tag, comm_, transfer->request(0)), "MPI_Irecv");
  check_mpi(MPI_Isend(send.data, count, MPI_INT32_T, next, shift_tag, comm_, transfer->request(1)), "MPI_Isend");
  return transfer;
}

void MpiCommunicator::broadcast(std::span<std::byte> data, int root) {
  MPI_Request request = MPI_REQUEST_NULL;
  check_mpi(MPI_Ibcast(data.data(), mpi_count(data.size()), MPI_BYTE, root, comm_, &request), "MPI_Ibcast");
  wait(&request);
}

std::vector<std::byte> MpiCommunicator::gather(std::span<const std::byte> own) {
  std::vector<std::byte> all(rank_ == 0 ? own.size() * static_cast<std::size_t>(size_) : 0);
  const int count = mpi_count(own.size());
  MPI_Request request = MPI_REQUEST_NULL;
  check_mpi(MPI_Igather(own.data(), count, MPI_BYTE, all.data(), count, MPI_BYTE, 0, comm_, &request), "MPI_Igather");
  wait(&request);
  return all;
}

int MpiCommunicator::max(int value) {
  MPI_Request request = MPI_REQUEST_NULL;
  check_mpi(MPI_Iallreduce(MPI_IN_PLACE, &value, 1, MPI_INT, MPI_MAX, comm_, &request), "MPI_Iallreduce");
  wait(&request);
  return value;
}

std::unique_ptr<MpiCommunicator> MpiCommunicator::split(int part) {
  max(0);  // all are there: MPI would wait for ever for one that is not
  MPI_Comm comm = MPI_COMM_NULL;
  check_mpi(MPI_Comm_split(comm_, part, rank_, &comm), "MPI_Comm_split");
  return std::unique_ptr<MpiCommunicator>(new MpiCommunicator(comm, roll_call_));
}

std::shared_ptr<NodeMemory> MpiCommunicator::node_memory() {
  auto memory = std::make_shared<MpiNodeMemory>(comm_, [this] { max(0); });
  return memory->size() > 1 ? memory : nullptr;
}

std::string host_name() {
  std::array<char, MPI_MAX_PROCESSOR_NAME + 1> name{};
  int length = 0;
  check_mpi(MPI_Get_processor_name(name.data(), &length), "MPI_Get_processor_name");
  return {name.data(), static_cast<std::size_t>(length)};
}

}  // namespace apb
