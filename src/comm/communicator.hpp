// How ranks talk. Device memory goes through transfers that are started and finished; host memory through plain
// collectives.
#pragma once

#include <fmt/format.h>

#include <cstddef>
#include <functional>
#include <iterator>
#include <memory>
#include <span>
#include <string>
#include <utility>
#include <vector>

#include "comm/node_memory.hpp"
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

  /// Part r of `send` [size, part] to rank r, whose part for this rank goes to row r of `receive`; the same size
  /// everywhere. Ordered with the device's operations as start_all_gather is.
  ///
  ///          SEND               RECEIVE
  ///   rank 0 [ a | b | c ]      [ a | d | g ]
  ///   rank 1 [ d | e | f ]      [ b | e | h ]
  ///   rank 2 [ g | h | i ]      [ c | f | i ]
  virtual std::shared_ptr<Transfer> start_all_to_all(Device& device, ConstView send, View receive) = 0;

  /// `send` to the next rank (the last's is rank 0), `receive` from the one before; one row each, the same size
  /// everywhere. Ordered as start_all_gather is; `send` may be read meanwhile.
  virtual std::shared_ptr<Transfer> start_shift(Device& device, ConstView send, View receive) = 0;

  /// Host memory of the root to all ranks; the same size everywhere.
  virtual void broadcast(std::span<std::byte> data, int root) = 0;
  /// Equal shares of host memory from all ranks to rank 0, in rank order; empty on the others.
  virtual std::vector<std::byte> gather(std::span<const std::byte> own) = 0;
  virtual int max(int value) = 0;

  /// Collective: what the ranks of this rank's node share; nothing where it is there alone.
  virtual std::shared_ptr<NodeMemory> node_memory() = 0;

  /// This rank's clock, for durations, and the same without what it waited for other ranks where those are emulated.
  virtual double seconds() const;
  virtual double busy_seconds() const { return seconds(); }

  /// For people: what the ranks do from now on. Named when one of them stops answering.
  template <typename... Arguments>
  void enter_stage(fmt::format_string<Arguments...> format, Arguments&&... arguments) {
    stage_.clear();  // keeps its memory: this is called in the layer loop
    fmt::format_to(std::back_inserter(stage_), format, std::forward<Arguments>(arguments)...);
    stage_entered();
  }
  const std::string& stage() const { return stage_; }

 protected:
  virtual void stage_entered() {}

 private:
  std::string stage_ = "start";
};

/// The process alone: no MPI.
class SingleRankCommunicator : public Communicator {
 public:
  SingleRankCommunicator();
  int rank() const override { return 0; }
  int size() const override { return 1; }
  std::shared_ptr<Transfer> start_all_gather(Device& device, View parts) override;
  std::shared_ptr<Transfer> start_all_to_all(Device& device, ConstView send, View receive) override;
  std::shared_ptr<Transfer> start_shift(Device& device, ConstView send, View receive) override;
  void broadcast(std::span<std::byte> data, int root) override;
  std::vector<std::byte> gather(std::span<const std::byte> own) override;
  int max(int value) override { return value; }
  std::shared_ptr<NodeMemory> node_memory() override { return nullptr; }

 private:
  std::shared_ptr<Transfer> finished_;  // the same for all: nothing is under way
};

/// A text of the root's to all ranks.
void broadcast_text(Communicator& communicator, std::string& text, int root);
/// One text of each rank to rank 0, in rank order; empty on the others.
std::vector<std::string> gather_texts(Communicator& communicator, const std::string& own);

/// Runs `action` on every rank; if it throws on any, all ranks throw that of the lowest such rank as CommonError. So a
/// failure of one becomes a decision of all, and nobody waits for a rank that has left.
void agree(Communicator& communicator, const std::function<void()>& action);

}  // namespace apb
