// The functions of NCCL that the project calls, between processes of one host.
//
// A collective is an operation of its stream that meets the other ranks when it runs. While it has not run because the
// program did not need to wait for it, a thread runs it as soon as another rank has waited for a while, as a GPU would
// have long before: so late streams cannot deadlock with what ranks do on the host.
#include <nccl.h>

#include <atomic>
#include <chrono>
#include <condition_variable>
#include <cstdint>
#include <cstring>
#include <deque>
#include <map>
#include <memory>
#include <mutex>
#include <stop_token>
#include <string>
#include <thread>
#include <tuple>
#include <utility>
#include <vector>

#include "channels.hpp"
#include "runtime.hpp"
#include "unwritten.hpp"

namespace apb::emulation {
namespace {

/// What all ranks that meet must have called alike.
struct Label {
  std::uint64_t function = 0;  // see Function
  std::uint64_t bytes = 0;     // of one rank's data
  std::int64_t root = 0;
  friend bool operator==(const Label&, const Label&) = default;
};
enum Function : std::uint64_t { all_gather, broadcast, point_to_point };
constexpr const char* function_names[] = {"ncclAllGather", "ncclBroadcast", "ncclSend/ncclRecv"};

/// Data of one collective or group: what goes out to each rank and comes in from each.
struct Part {
  int peer;
  std::byte* data;
  std::size_t bytes;
  Label label;
};
struct Exchange {
  std::string name;
  std::vector<Part> sends;
  std::vector<Part> receives;
};

/// Label, ranges of the data that nobody has written, and the data.
std::vector<std::byte> pack(ptx::Memory& memory, const Part& part) {
  const auto ranges = unwritten_ranges(memory, part.data, part.bytes);
  const std::uint64_t count = ranges.size();
  std::vector<std::byte> message;
  const auto append = [&](const void* data, std::size_t bytes) {
    const auto* begin = static_cast<const std::byte*>(data);
    message.insert(message.end(), begin, begin + bytes);
  };
  append(&part.label, sizeof part.label);
  append(&count, sizeof count);
  append(ranges.data(), ranges.size() * sizeof(ByteRange));
  append(part.data, part.bytes);
  return message;
}

void unpack(ptx::Memory& memory, const std::vector<std::byte>& message, const Part& part, int rank) {
  const std::byte* from = message.data();
  const auto take = [&](void* data, std::size_t bytes) {
    std::memcpy(data, from, bytes);
    from += bytes;
  };
  Label label;
  take(&label, sizeof label);
  if (label != part.label) {
    throw std::runtime_error("NCCL calls do not match: rank " + std::to_string(part.peer) + " calls " +
                             function_names[label.function] + " of " + std::to_string(label.bytes) + " bytes, rank " +
                             std::to_string(rank) + " " + function_names[part.label.function] + " of " +
                             std::to_string(part.label.bytes));
  }
  std::uint64_t count = 0;
  take(&count, sizeof count);
  std::vector<ByteRange> ranges(count);
  take(ranges.data(), count * sizeof(ByteRange));
  memory.mark_written(part.data, part.bytes);
  take(part.data, part.bytes);
  for (const ByteRange& range : ranges) memory.mark_unwritten(part.data + range.offset, range.bytes);
}

}  // namespace
}  // namespace apb::emulation

using namespace apb::emulation;

/// A communicator: one rank's.
struct ncclComm {
 public:
  ncclComm(const std::string& name, int rank, int size, int gpu)
      : rank_(rank), size_(size), gpu_(gpu), channels_(name, rank, size, gpu, [this](int gone) { return stop(gone); }) {
    helper_ = std::jthread([this](const std::stop_token& token) { run_what_others_wait_for(token); });
  }

  int rank() const { return rank_; }
  int size() const { return size_; }
  ncclResult_t error() const { return error_; }
  void abort() { aborted_ = true; }

  bool shares_gpu() const {
    for (int other = 0; other < size_; ++other) {
      if (other != rank_ && channels_.gpu(other) == gpu_) return true;
    }
    return false;
  }

  /// Under the runtime's lock.
  void enqueue(cudaStream_t stream, Exchange exchange) {
    const auto shared = std::make_shared<Exchange>(std::move(exchange));
    queue_.push_back(Runtime::instance().enqueue(stream, shared->name, [this, shared] { run(*shared); }));
    std::erase_if(queue_, [](const auto& operation) { return operation->done; });
  }

  void finish() {
    while (!queue_.empty()) {
      Runtime::instance().scheduler.finish(queue_.front());
      queue_.pop_front();
    }
  }

 private:
  void run(const Exchange& exchange) {
    apb::ptx::Memory& memory = Runtime::instance().machine.memory();
    channels_.announce(++begun_);
    std::vector<std::vector<std::byte>> packed;
    std::vector<Channels::Outgoing> outgoing;
    std::vector<Channels::Incoming> incoming;
    for (const Part& part : exchange.sends) packed.push_back(pack(memory, part));
    for (std::size_t i = 0; i < packed.size(); ++i) outgoing.push_back({exchange.sends[i].peer, packed[i]});
    for (const Part& part : exchange.receives) incoming.push_back({part.peer, {}});
    try {
      channels_.exchange(std::move(outgoing), incoming);
      for (std::size_t i = 0; i < incoming.size(); ++i)
        unpack(memory, incoming[i].message, exchange.receives[i], rank_);
    } catch (const Stopped&) {
      throw std::runtime_error(exchange.name + " was aborted");
    } catch (...) {
      error_ = ncclInvalidUsage;
      throw;
    }
  }

  /// Asked while this rank waits. As on hardware, a rank that is gone is an error to ask for; only abort ends the wait.
  bool stop(int gone) {
    if (gone >= 0) error_ = ncclRemoteError;
    return aborted_;
  }

  void run_what_others_wait_for(const std::stop_token& token) {
    using namespace std::chrono_literals;
    for (int rounds_behind = 0; !token.stop_requested(); std::this_thread::sleep_for(1ms)) {
      rounds_behind = channels_.most_announced() > begun_ ? rounds_behind + 1 : 0;
      if (rounds_behind < 20) continue;
      const std::unique_lock lock(Runtime::instance().mutex, std::try_to_lock);
      while (lock && !queue_.empty() && channels_.most_announced() > begun_) {
        Runtime::instance().scheduler.finish(queue_.front());
        queue_.pop_front();
      }
    }
  }

  int rank_;
  int size_;
  int gpu_;
  std::atomic<bool> aborted_ = false;
  std::atomic<ncclResult_t> error_ = ncclSuccess;
  std::atomic<std::uint64_t> begun_ = 0;
  Channels channels_;
  std::deque<OperationHandle> queue_;  // not all run
  std::jthread helper_;
};

namespace {

/// Live communicators; a handle is the pointer.
struct Communicators {
  std::mutex mutex;
  std::map<ncclComm_t, std::shared_ptr<ncclComm>> all;

  static Communicators& instance() {
    static Communicators communicators;
    return communicators;
  }
  std::shared_ptr<ncclComm> find(ncclComm_t handle) {
    const std::lock_guard lock(mutex);
    const auto found = all.find(handle);
    return found == all.end() ? nullptr : found->second;
  }
  void remove(ncclComm_t handle) {
    const std::lock_guard lock(mutex);
    all.erase(handle);
  }
};

/// What ncclGroupStart opened in this thread.
struct Group {
  int depth = 0;
  std::map<std::pair<ncclComm_t, cudaStream_t>, Exchange> exchanges;
};
thread_local Group group;

std::size_t size_of(ncclDataType_t type) {
  switch (type) {
    case ncclInt8:
    case ncclUint8:
      return 1;
    case ncclFloat16:
    case ncclBfloat16:
      return 2;
    case ncclInt32:
    case ncclUint32:
    case ncclFloat32:
      return 4;
    default:
      return 8;
  }
}

ncclResult_t enqueue(ncclComm_t handle, cudaStream_t stream, Exchange exchange) {
  const auto communicator = Communicators::instance().find(handle);
  if (!communicator) return ncclInvalidArgument;
  if (communicator->error() != ncclSuccess) return communicator->error();
  const cudaError_t error = Runtime::instance().call([&] {
    if (Runtime::instance().find(stream) == nullptr) return cudaErrorInvalidResourceHandle;
    communicator->enqueue(stream, std::move(exchange));
    return cudaSuccess;
  });
  return error == cudaSuccess ? ncclSuccess : ncclUnhandledCudaError;
}

/// All of a group's sends and receives over one communicator and stream become one operation.
ncclResult_t add_to_group(ncclComm_t handle, cudaStream_t stream, const Part* send, const Part* receive) {
  Exchange& exchange = group.exchanges[{handle, stream}];
  exchange.name = function_names[point_to_point];
  if (send != nullptr) exchange.sends.push_back(*send);
  if (receive != nullptr) exchange.receives.push_back(*receive);
  return ncclSuccess;
}

bool on_device(const void* pointer) {
  return Runtime::instance().call([&] {
    return Runtime::instance().kind_of(pointer) == MemoryKind::device ? cudaSuccess : cudaErrorInvalidValue;
  }) == cudaSuccess;
}

/// As an operation of the stream: copies what a rank gives to itself, unless it is there already.
void copy_own(void* destination, const void* source, std::size_t bytes, cudaStream_t stream) {
  if (destination != source) cudaMemcpyAsync(destination, source, bytes, cudaMemcpyDeviceToDevice, stream);
}

}  // namespace

extern "C" {

ncclResult_t ncclGetUniqueId(ncclUniqueId* id) {
  *id = {};
  const std::string name = Channels::unused_name();
  std::memcpy(id->internal, name.data(), name.size());
  return ncclSuccess;
}

ncclResult_t ncclCommInitRank(ncclComm_t* handle, int size, ncclUniqueId id, int rank) {
  if (rank < 0 || rank >= size) return ncclInvalidArgument;
  int gpu = 0;
  if (cudaGetDevice(&gpu) != cudaSuccess) return ncclUnhandledCudaError;
  try {
    auto communicator = std::make_shared<ncclComm>(id.internal, rank, size, gpu);
    if (communicator->shares_gpu()) {
      std::fprintf(stderr, "emulated NCCL: duplicate GPU: rank %d and another use GPU %d\n", rank, gpu);
      return ncclInvalidUsage;
    }
    Communicators& communicators = Communicators::instance();
    const std::lock_guard lock(communicators.mutex);
    *handle = communicator.get();
    communicators.all.emplace(*handle, std::move(communicator));
    return ncclSuccess;
  } catch (const std::exception& error) {
    std::fprintf(stderr, "emulated NCCL: %s\n", error.what());
    return ncclSystemError;
  }
}

ncclResult_t ncclCommDestroy(ncclComm_t handle) {
  const auto communicator = Communicators::instance().find(handle);
  if (!communicator) return ncclInvalidArgument;
  Communicators::instance().remove(handle);
  Runtime::instance().call([&] {
    communicator->finish();
    return cudaSuccess;
  });
  return ncclSuccess;
}

// The communicator stays in memory: an operation that is being ended may still use it.
ncclResult_t ncclCommAbort(ncclComm_t handle) {
  const auto communicator = Communicators::instance().find(handle);
  if (!communicator) return ncclInvalidArgument;
  communicator->abort();
  return ncclSuccess;
}

ncclResult_t ncclCommGetAsyncError(ncclComm_t handle, ncclResult_t* error) {
  const auto communicator = Communicators::instance().find(handle);
  if (!communicator) return ncclInvalidArgument;
  *error = communicator->error();
  return ncclSuccess;
}

ncclResult_t ncclCommCount(ncclComm_t handle, int* count) {
  const auto communicator = Communicators::instance().find(handle);
  if (!communicator) return ncclInvalidArgument;
  *count = communicator->size();
  return ncclSuccess;
}

ncclResult_t ncclCommUserRank(ncclComm_t handle, int* rank) {
  const auto communicator = Communicators::instance().find(handle);
  if (!communicator) return ncclInvalidArgument;
  *rank = communicator->rank();
  return ncclSuccess;
}

ncclResult_t ncclGroupStart() {
  ++group.depth;
  return ncclSuccess;
}

ncclResult_t ncclGroupEnd() {
  if (group.depth == 0) return ncclInvalidUsage;
  if (--group.depth > 0) return ncclSuccess;
  ncclResult_t result = ncclSuccess;
  for (auto& [where, exchange] : std::exchange(group.exchanges, {})) {
    const ncclResult_t error = enqueue(where.first, where.second, std::move(exchange));
    if (error != ncclSuccess) result = error;
  }
  return result;
}

ncclResult_t ncclSend(const void* data, std::size_t count, ncclDataType_t type, int peer, ncclComm_t handle,
                      cudaStream_t stream) {
  if (!on_device(data)) return ncclInvalidArgument;
  const std::size_t bytes = count * size_of(type);
  const Part part{peer, static_cast<std::byte*>(const_cast<void*>(data)), bytes, {point_to_point, bytes, 0}};
  ncclGroupStart();
  add_to_group(handle, stream, &part, nullptr);
  return ncclGroupEnd();
}

ncclResult_t ncclRecv(void* data, std::size_t count, ncclDataType_t type, int peer, ncclComm_t handle,
                      cudaStream_t stream) {
  if (!on_device(data)) return ncclInvalidArgument;
  const std::size_t bytes = count * size_of(type);
  const Part part{peer, static_cast<std::byte*>(data), bytes, {point_to_point, bytes, 0}};
  ncclGroupStart();
  add_to_group(handle, stream, nullptr, &part);
  return ncclGroupEnd();
}

ncclResult_t ncclAllGather(const void* own, void* all, std::size_t count, ncclDataType_t type, ncclComm_t handle,
                           cudaStream_t stream) {
  const auto communicator = Communicators::instance().find(handle);
  if (!communicator || !on_device(own) || !on_device(all)) return ncclInvalidArgument;
  const std::size_t bytes = count * size_of(type);
  auto* const parts = static_cast<std::byte*>(all);
  const auto part_of = [&](int rank) { return parts + static_cast<std::size_t>(rank) * bytes; };
  copy_own(part_of(communicator->rank()), own, bytes, stream);
  Exchange exchange{.name = function_names[all_gather]};
  for (int peer = 0; peer < communicator->size(); ++peer) {
    if (peer == communicator->rank()) continue;
    exchange.sends.push_back({peer, part_of(communicator->rank()), bytes, {all_gather, bytes, 0}});
    exchange.receives.push_back({peer, part_of(peer), bytes, {all_gather, bytes, 0}});
  }
  return enqueue(handle, stream, std::move(exchange));
}

ncclResult_t ncclBroadcast(const void* source, void* destination, std::size_t count, ncclDataType_t type, int root,
                           ncclComm_t handle, cudaStream_t stream) {
  const auto communicator = Communicators::instance().find(handle);
  if (!communicator || !on_device(destination) || root < 0 || root >= communicator->size()) return ncclInvalidArgument;
  const std::size_t bytes = count * size_of(type);
  auto* const data = static_cast<std::byte*>(destination);
  Exchange exchange{.name = function_names[broadcast]};
  if (communicator->rank() == root) {
    copy_own(destination, source, bytes, stream);
    for (int peer = 0; peer < communicator->size(); ++peer) {
      if (peer != root) exchange.sends.push_back({peer, data, bytes, {broadcast, bytes, root}});
    }
  } else {
    exchange.receives.push_back({root, data, bytes, {broadcast, bytes, root}});
  }
  return enqueue(handle, stream, std::move(exchange));
}

const char* ncclGetErrorString(ncclResult_t result) {
  switch (result) {
    case ncclSuccess:
      return "no error";
    case ncclUnhandledCudaError:
      return "unhandled cuda error";
    case ncclSystemError:
      return "unhandled system error";
    case ncclInvalidArgument:
      return "invalid argument";
    case ncclInvalidUsage:
      return "invalid usage";
    case ncclRemoteError:
      return "remote process exited or there was a network error";
    default:
      return "unknown result code";
  }
}

const char* ncclGetLastError(ncclComm_t /*handle*/) { return ""; }
}
