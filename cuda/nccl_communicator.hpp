// Ranks that move GPU memory by NCCL, and host memory as the communicator does that they were made from.
#pragma once

#include <chrono>
#include <condition_variable>
#include <functional>
#include <memory>
#include <mutex>
#include <thread>
#include <vector>

#include "comm/communicator.hpp"
#include "cuda/cuda_device.hpp"
#include "cuda/handles.hpp"

namespace apb::cuda {

/// Events that transfers borrow, so that none is made in the layer loop.
class EventPool {
 public:
  explicit EventPool(int size);
  Event take();
  void give_back(Event event) { unused_.push_back(std::move(event)); }

 private:
  std::vector<Event> unused_;
};

class NcclCommunicator : public Communicator {
 public:
  /// Collective. `host` and `device` must outlive this. Throws Error on all ranks when they are not connected within
  /// the time limit.
  NcclCommunicator(Communicator& host, CudaDevice& device, std::chrono::seconds limit);
  ~NcclCommunicator() override;

  int rank() const override { return host_.rank(); }
  int size() const override { return host_.size(); }

  // On a stream of their own, ordered with the device's by events: the host does not wait.
  std::shared_ptr<Transfer> start_all_gather(Device& device, View parts) override;
  std::shared_ptr<Transfer> start_all_to_all(Device& device, ConstView send, View receive) override;
  std::shared_ptr<Transfer> start_shift(Device& device, ConstView send, View receive) override;
  /// One row of the first rank's to all.
  std::shared_ptr<Transfer> start_broadcast(View data);

  void broadcast(std::span<std::byte> data, int root) override { host_.broadcast(data, root); }
  std::vector<std::byte> gather(std::span<const std::byte> own) override { return host_.gather(own); }
  int max(int value) override { return host_.max(value); }
  std::shared_ptr<NodeMemory> node_memory() override { return host_.node_memory(); }
  void enter_stage(std::string stage) override { host_.enter_stage(std::move(stage)); }

 private:
  using Connection = std::unique_ptr<std::remove_pointer_t<ncclComm_t>, Destroyer<ncclCommDestroy>>;

  /// Enqueues NCCL's operations on its stream, behind what the device has been given so far.
  std::shared_ptr<Transfer> start(const std::function<void(cudaStream_t)>& enqueue);
  /// Ends the run when NCCL finds that something has gone wrong, which the ranks that wait would never learn.
  void watch();

  Communicator& host_;
  CudaDevice& device_;
  Stream stream_;
  std::shared_ptr<EventPool> events_;
  Connection connection_;

  std::mutex mutex_;
  std::condition_variable ended_;
  bool ending_ = false;
  std::thread watchdog_;
};

}  // namespace apb::cuda
