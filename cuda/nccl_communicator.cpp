#include "cuda/nccl_communicator.hpp"

#include <fmt/format.h>

#include <future>
#include <iostream>
#include <utility>

#include "comm/mpi_communicator.hpp"
#include "error.hpp"

namespace apb::cuda {
namespace {

constexpr int first_events = 16;
constexpr auto watch_interval = std::chrono::milliseconds(200);

/// What the group's first rank makes up for all.
ncclUniqueId common_id(Communicator& host) {
  ncclUniqueId id{};
  agree(host, [&] {
    if (host.rank() == 0) check(ncclGetUniqueId(&id), "ncclGetUniqueId");
  });
  host.broadcast(std::as_writable_bytes(std::span(&id, 1)), 0);
  return id;
}

/// A first exchange, for which NCCL sets up what it will need in the layer loop.
void exchange_once(ncclComm_t connection, int rank, int size) {
  void* memory = nullptr;
  check(cudaMalloc(&memory, static_cast<std::size_t>(size)), "cudaMalloc");
  const DeviceMemory parts(static_cast<std::byte*>(memory));
  const Stream stream = make_stream();
  check(ncclAllGather(parts.get() + rank, parts.get(), 1, ncclInt8, connection, stream.get()), "ncclAllGather");
  check(cudaStreamSynchronize(stream.get()), "cudaStreamSynchronize");
}

ncclComm_t connect(const ncclUniqueId& id, int rank, int size, int gpu) {
  ncclComm_t connection = nullptr;
  check(cudaSetDevice(gpu), "cudaSetDevice");
  check(ncclCommInitRank(&connection, size, id, rank), "ncclCommInitRank");
  exchange_once(connection, rank, size);
  return connection;
}

/// Connects this rank in a thread of its own, which is left alone when it takes longer than the limit.
ncclComm_t connect_within(std::chrono::seconds limit, const ncclUniqueId& id, int rank, int size, int gpu) {
  std::packaged_task<ncclComm_t()> task([id, rank, size, gpu] { return connect(id, rank, size, gpu); });
  auto connected = task.get_future();
  std::thread(std::move(task)).detach();
  if (connected.wait_for(limit) == std::future_status::timeout) {
    fail(
        "NCCL did not connect the {} ranks within {} s: NCCL_DEBUG=INFO tells which network it tries, "
        "NCCL_SOCKET_IFNAME chooses another",
        size, limit.count());
  }
  return connected.get();
}

/// Of a part, which is one contiguous row.
std::size_t part_bytes(const char* what, const ConstView& parts, int rows) {
  if (parts.rows != rows || (rows > 1 && parts.stride != parts.columns)) {
    throw std::invalid_argument(fmt::format("{} wants contiguous rows, one a part", what));
  }
  return static_cast<std::size_t>(parts.columns) * size_of(parts.type);
}

/// Messages that NCCL starts together.
class Group {
 public:
  Group() { check(ncclGroupStart(), "ncclGroupStart"); }
  ~Group() noexcept(false) {
    const ncclResult_t result = ncclGroupEnd();
    if (std::uncaught_exceptions() == 0) check(result, "ncclGroupEnd");
  }
  Group(const Group&) = delete;
  Group& operator=(const Group&) = delete;
};

/// Arrived when `arrival`, recorded on NCCL's stream, has been reached.
class NcclTransfer : public Transfer {
 public:
  NcclTransfer(cudaStream_t waiting, Event arrival, std::shared_ptr<EventPool> events)
      : waiting_(waiting), arrival_(std::move(arrival)), events_(std::move(events)) {}
  ~NcclTransfer() override {
    if (!finished_) static_cast<void>(cudaStreamWaitEvent(waiting_, arrival_.get(), 0));
    events_->give_back(std::move(arrival_));
  }
  void finish() override {
    if (std::exchange(finished_, true)) return;
    check(cudaStreamWaitEvent(waiting_, arrival_.get(), 0), "cudaStreamWaitEvent");
  }

 private:
  cudaStream_t waiting_;
  Event arrival_;
  std::shared_ptr<EventPool> events_;
  bool finished_ = false;
};

}  // namespace

EventPool::EventPool(int size) {
  for (int i = 0; i < size; ++i) unused_.push_back(make_event());
}

Event EventPool::take() {
  if (unused_.empty()) return make_event();
  Event event = std::move(unused_.back());
  unused_.pop_back();
  return event;
}

NcclCommunicator::NcclCommunicator(Communicator& host, CudaDevice& device, std::chrono::seconds limit)
    : host_(host), device_(device), stream_(make_stream()), events_(std::make_shared<EventPool>(first_events)) {
  const ncclUniqueId id = common_id(host);
  agree(host, [&] { connection_.reset(connect_within(limit, id, rank(), size(), device.gpu())); });
  device.share_weights(host, [this](View data) { return start_broadcast(data); });
  watchdog_ = std::thread([this] { watch(); });
}

NcclCommunicator::~NcclCommunicator() {
  {
    const std::lock_guard lock(mutex_);
    ending_ = true;
  }
  ended_.notify_all();
  watchdog_.join();
  // After an error NCCL would wait for ranks that do not come any more.
  if (std::uncaught_exceptions() > 0) static_cast<void>(ncclCommAbort(connection_.release()));
}

std::shared_ptr<Transfer> NcclCommunicator::start_all_gather(Device& /*device*/, View parts) {
  const std::size_t bytes = part_bytes("all-gather", parts, size());
  return start([&](cudaStream_t stream) {
    check(ncclAllGather(parts.row(rank()), parts.data, bytes, ncclInt8, connection_.get(), stream), "ncclAllGather");
  });
}

std::shared_ptr<Transfer> NcclCommunicator::start_all_to_all(Device& /*device*/, ConstView send, View receive) {
  const std::size_t bytes = part_bytes("all-to-all", receive, size());
  if (part_bytes("all-to-all", send, size()) != bytes) throw std::invalid_argument("all-to-all of different sizes");
  return start([&](cudaStream_t stream) {
    const Group group;
    for (int peer = 0; peer < size(); ++peer) {
      check(ncclSend(send.row(peer), bytes, ncclInt8, peer, connection_.get(), stream), "ncclSend");
      check(ncclRecv(receive.row(peer), bytes, ncclInt8, peer, connection_.get(), stream), "ncclRecv");
    }
  });
}

std::shared_ptr<Transfer> NcclCommunicator::start_shift(Device& /*device*/, ConstView send, View receive) {
  const std::size_t bytes = part_bytes("shift", receive, 1);
  if (part_bytes("shift", send, 1) != bytes) throw std::invalid_argument("shift of different sizes");
  return start([&](cudaStream_t stream) {
    const Group group;
    check(ncclSend(send.data, bytes, ncclInt8, (rank() + 1) % size(), connection_.get(), stream), "ncclSend");
    check(ncclRecv(receive.data, bytes, ncclInt8, (rank() + size() - 1) % size(), connection_.get(), stream),
          "ncclRecv");
  });
}

std::shared_ptr<Transfer> NcclCommunicator::start_broadcast(View data) {
  const std::size_t bytes = part_bytes("broadcast", data, 1);
  return start([&](cudaStream_t stream) {
    check(ncclBroadcast(data.data, data.data, bytes, ncclInt8, 0, connection_.get(), stream), "ncclBroadcast");
  });
}

std::shared_ptr<Transfer> NcclCommunicator::start(const std::function<void(cudaStream_t)>& enqueue) {
  Event event = events_->take();
  check(cudaEventRecord(event.get(), device_.stream()), "cudaEventRecord");
  check(cudaStreamWaitEvent(stream_.get(), event.get(), 0), "cudaStreamWaitEvent");
  enqueue(stream_.get());
  check(cudaEventRecord(event.get(), stream_.get()), "cudaEventRecord");
  return std::make_shared<NcclTransfer>(device_.stream(), std::move(event), events_);
}

void NcclCommunicator::watch() {
  std::unique_lock lock(mutex_);
  while (!ended_.wait_for(lock, watch_interval, [this] { return ending_; })) {
    ncclResult_t result = ncclSuccess;
    const ncclResult_t asked = ncclCommGetAsyncError(connection_.get(), &result);
    if (asked != ncclSuccess) result = asked;
    if (result == ncclSuccess || result == ncclInProgress) continue;
    std::cerr << fmt::format("apb: [rank {}] NCCL lost the other ranks: {}; go on with --resume\n", rank(),
                             ncclGetErrorString(result))
              << std::flush;
    abort_all_ranks(static_cast<int>(ExitCode::rank_missing));
  }
}

}  // namespace apb::cuda
