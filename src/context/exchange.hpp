// The layer's one all-gather: every rank's anchor slice and the entries that its blocks pass on, read in place.
//
// One part a rank, each of [anchor slice | slot of own block 0 | slot of own block 1 | ...], slots of fixed capacity:
//
//   rank 0                       rank 1                       (R = 2, B = 4, zigzag)
//   [ anchor 0 | b0 | b3 ]       [ anchor 1 | b1 | b2 ]
//
// Block h sees anchor 0, anchor 1, ... and the slots of blocks 0 .. h-1: a prefix of one table in that order.
#pragma once

#include <memory>
#include <span>
#include <vector>

#include "comm/communicator.hpp"
#include "context/partition.hpp"
#include "device/device.hpp"

namespace apb {

class Exchange {
 public:
  Exchange(Device& device, Communicator& communicator, const HeadShape& shape, const Partition& partition);

  /// Where this rank's anchor slice goes.
  Slot anchor_slot() const { return anchor_slot_; }
  /// Where an own block's passing entries go.
  Slot passing_slot(int block) const;
  /// What every row of a block sees before its own block.
  std::span<const SlotRange> visible_to_block(int block) const;
  /// What every row of this rank's anchor slice sees before its own slice.
  std::span<const SlotRange> visible_to_anchor() const;

  /// Sends what has been stored so far; null when there is nothing to exchange.
  std::shared_ptr<Transfer> start();

 private:
  bool is_sharded() const { return partition_.anchor_placement == AnchorPlacement::sharded; }
  Slot slot_of(int rank, int block_index) const;

  Device& device_;
  Communicator& communicator_;
  const Partition& partition_;
  std::size_t anchor_bytes_;   // of the anchor slice in a part, 0 when replicated
  std::size_t passing_bytes_;  // of one passing slot
  std::size_t part_bytes_;
  Buffer parts_;
  Buffer replicated_anchor_;
  Slot anchor_slot_;
  std::vector<SlotRange> visible_;  // anchor slices, then passing slots in block order
  int anchor_slices_ = 0;
};

}  // namespace apb
