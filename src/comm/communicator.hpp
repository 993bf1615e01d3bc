// How ranks talk. Device memory goes through transfers that are started and finished; host memory through plain
// collectives.
#pragma once

#include <cstddef>
#include <functional>
#include <memory>
#include <span>
#include <string>
#include <utility>
#include <vector>

#include "device/device.hpp"
#include "device/transfer.hpp"

namespace apb {

class Communicator {
 public:
  Communicator() = default;
  virtual ~Communicator() = default;
  Communicator(const Communicator&) = delete;
  Communicator& operator=(const Communicator&) = delete;

  virtual int rank() const = 0;
  virtual int size() const = 0;
  /// Among the ranks of this node.
  virtual int node_rank() const { return 0; }

  /// All ranks' parts to all ranks, in place; row r of `parts` [size, part] is rank r's. Three ranks:
  ///
  ///          BEFORE             AFTER
  ///   rank 0 [ a | . | . ]      [ a | b | c ]
  ///   rank 1 [ . | b | . ]      [ a | b | c ]
  ///   rank 2 [ . | . | c ]      [ a | b | c ]
  ///
  /// Own part: as of what is enqueued on the device so far. Other parts: valid for what is enqueued after
  /// Device::wait_for. Until then nobody touches `parts`.
  virtual std::shared_ptr<Transfer> start_all_gather(Device& device, View parts) = 0;

  /// Host memory of the root to all ranks; the same size everywhere.
  virtual void broadcast(std::span<std::byte> data, int root) = 0;
  /// Equal shares of host memory from all ranks to rank 0, in rank order; empty on the others.
  virtual std::vector<std::byte> gather(std::span<const std::byte> own) = 0;
  virtual int max(int value) = 0;

  /// For people: what the ranks do from now on. Named when one of them stops answering.
  virtual void enter_stage(std::string stage) { stage_ = std::move(stage); }
  const std::string& stage() const { return stage_; }

 private:
  std::string stage_ = "start";
};

/// The process alone: no MPI.
class SingleRankCommunicator : public Communicator {
 public:
  int rank() const override { return 0; }
  int size() const override { return 1; }
  std::shared_ptr<Transfer> start_all_gather(Device& device, View parts) override;
  void broadcast(std::span<std::byte> data, int root) override;
  std::vector<std::byte> gather(std::span<const std::byte> own) override;
  int max(int value) override { return value; }
};

/// A text of the root's to all ranks.
void broadcast_text(Communicator& communicator, std::string& text, int root);
/// One text of each rank to rank 0, in rank order; empty on the others.
std::vector<std::string> gather_texts(Communicator& communicator, const std::string& own);

/// Runs `action` on every rank; if it throws on any, all ranks throw that of the lowest such rank as CommonError. So a
/// failure of one becomes a decision of all, and nobody waits for a rank that has left.
void agree(Communicator& communicator, const std::function<void()>& action);

}  // namespace apb
