// The judge: checks every access against the shadow state, and records it there.
#pragma once

#include <string>

#include "ptx/block.hpp"

namespace apb::ptx {

/// How one warp's operation sees the cells of one space.
class Judge {
 public:
  /// `global`: of an allocation, else of the block's shared memory.
  Judge(Warp& warp, bool global);

  void read(const Cells& cells, std::uint64_t offset, std::size_t bytes, int lane);
  /// Read by all lanes of the warp; `lane` gave the address.
  void read_together(const Cells& cells, std::uint64_t offset, std::size_t bytes, int lane);
  void write(const Cells& cells, std::uint64_t offset, std::size_t bytes, int lane);
  /// Atomic; `reads`: what is there must have been written.
  void update(const Cells& cells, std::uint64_t offset, std::size_t bytes, int lane, bool reads);
  void read_strong(const Cells& cells, std::uint64_t offset, std::size_t bytes, int lane);
  /// A write that goes on until land().
  void write_pending(const Cells& cells, std::uint64_t offset, std::size_t bytes, int lane);
  void land(const Cells& cells, std::uint64_t offset, std::size_t bytes, int lane);

 private:
  Stamp stamp(int lane) const { return base_ | (warp_.time << time_shift) | (warp_.index * 32U + unsigned(lane)); }
  bool settled(Stamp stamp) const { return stamp - base_ < ordered_ || (global_ && stamp < launch_base_); }
  bool unwritten(Stamp stamp) const { return !global_ && stamp < launch_base_; }
  void check_writer(Stamp writer, int lane, bool writes, bool atomic) const;
  void check_readers(Stamp readers, int lane) const;
  void add_reader(Stamp& readers, Stamp mine) const;
  bool ordered_lane(unsigned other, Stamp time, int lane) const;
  bool ordered_block(std::uint32_t other, Stamp time) const;
  [[noreturn]] void report_unwritten(std::uint64_t cell, int lane) const;
  [[noreturn]] void race(Stamp other, int lane, bool writes, bool other_writes) const;

  Warp& warp_;
  bool global_;
  int shift_;
  Stamp base_, ordered_, launch_base_;
};

/// All that these warps, and those that arrived at the barrier without waiting, did before is ordered before what these
/// warps do now.
void order_by_barrier(Block& block, const std::vector<Warp*>& warps, unsigned barrier);
/// Arrives at the warp's barrier without waiting.
void arrive(Warp& warp);
/// Likewise for lanes of a warp.
void order_by_warp_barrier(Warp& warp, std::uint32_t members);
/// An atomic (or acquiring, releasing) access orders this block after those that released at the address, and
/// publishes.
void order_by_atomic(Warp& warp, std::uint64_t address, bool acquire, bool release);

}  // namespace apb::ptx
