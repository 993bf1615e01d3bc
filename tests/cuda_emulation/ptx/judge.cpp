#include "ptx/judge.hpp"

#include <fmt/format.h>

#include <algorithm>

namespace apb::ptx {
namespace {

Stamp time_of(Stamp stamp) { return (stamp >> time_shift) & time_mask; }
std::uint32_t block_of(Stamp stamp) { return static_cast<std::uint32_t>((stamp >> block_shift) & block_mask); }
unsigned thread_of(Stamp stamp) { return static_cast<unsigned>(stamp & thread_mask); }

Stamp next_time(Block& block) {
  if (++block.time >= pending_time) throw Unsupported("a block with more than a million barriers");
  return block.time;
}

}  // namespace

Judge::Judge(Warp& warp, bool global)
    : warp_(warp),
      global_(global),
      shift_(global ? warp.block->launch->program->global_cell_shift : warp.block->launch->program->shared_cell_shift),
      base_(global ? warp.block->global_base : warp.block->shared_base),
      ordered_((warp.block->ordered_time + 1) << time_shift),
      launch_base_(base_ >> launch_shift << launch_shift) {}

bool Judge::ordered_lane(unsigned other, Stamp time, int lane) const {
  if (time <= warp_.synced) return true;
  return !warp_.lanes_seen.empty() && time <= warp_.lanes_seen[static_cast<std::size_t>(lane) * lanes + other];
}

bool Judge::ordered_block(std::uint32_t other, Stamp time) const {
  const auto found = warp_.block->blocks_seen.find(other);
  return found != warp_.block->blocks_seen.end() && time <= found->second;
}

void Judge::check_writer(Stamp writer, int lane, bool writes, bool atomic) const {
  if (global_ && block_of(writer) != warp_.block->number) {
    if (atomic && (writer & atomic_bit) != 0) return;
    if (!ordered_block(block_of(writer), time_of(writer))) race(writer, lane, writes, true);
    return;
  }
  if (atomic && (writer & atomic_bit) != 0) return;
  const unsigned thread = thread_of(writer) & 1023U;
  const Stamp time = time_of(writer);
  if (time == pending_time) race(writer, lane, writes, true);
  if (thread / 32 == warp_.index) {
    if (thread % 32 != static_cast<unsigned>(lane) && !ordered_lane(thread % 32, time, lane)) {
      race(writer, lane, writes, true);
    }
  } else if (time > warp_.seen[thread / 32]) {
    race(writer, lane, writes, true);
  }
}

void Judge::check_readers(Stamp readers, int lane) const {
  const Stamp time = time_of(readers);
  if (global_ && block_of(readers) != warp_.block->number) {
    const auto block = block_of(readers);
    if (block == many_blocks && warp_.block->launch->program->fences) return;
    if (!ordered_block(block, time)) race(readers, lane, true, false);
    return;
  }
  const unsigned thread = thread_of(readers);
  bool ordered = true;
  if (thread == many_warps) {
    for (std::size_t w = 0; w < warp_.block->warps.size(); ++w) {
      ordered = ordered && (w == warp_.index ? time <= warp_.synced : time <= warp_.seen[w]);
    }
  } else if (thread >= many_lanes) {
    ordered = thread - many_lanes == warp_.index ? time <= warp_.synced : time <= warp_.seen[thread - many_lanes];
  } else if (thread / 32 == warp_.index) {
    ordered = thread % 32 == static_cast<unsigned>(lane) || ordered_lane(thread % 32, time, lane);
  } else {
    ordered = time <= warp_.seen[thread / 32];
  }
  if (!ordered) race(readers, lane, true, false);
}

void Judge::add_reader(Stamp& readers, Stamp mine) const {
  const auto replace = [&](Stamp of_block, Stamp thread) {
    readers =
        launch_base_ | (of_block << block_shift) | (std::max(time_of(readers), warp_.time) << time_shift) | thread;
  };
  if (block_of(readers) != block_of(mine)) return replace(many_blocks, many_warps);
  const Stamp block = block_of(mine);
  const unsigned old = thread_of(readers);
  const unsigned me = thread_of(mine);
  if (old == me) return replace(block, me);
  const unsigned old_warp = old < many_lanes ? old / 32 : old - many_lanes;
  replace(block, old != many_warps && old_warp == warp_.index ? many_lanes + warp_.index : many_warps);
}

void Judge::read(const Cells& cells, std::uint64_t offset, std::size_t bytes, int lane) {
  const auto end = (offset + bytes - 1) >> shift_;
  const Stamp mine = stamp(lane);
  Stamp* writers = cells.writers.as<Stamp>();
  Stamp* readers = cells.readers.as<Stamp>();
  for (auto cell = offset >> shift_; cell <= end; ++cell) {
    const Stamp writer = writers[cell];
    if (!settled(writer)) {
      if (unwritten(writer)) report_unwritten(cell, lane);
      check_writer(writer, lane, false, false);
    }
    Stamp& reader = readers[cell];
    if (reader == mine) continue;
    if (reader < launch_base_ || settled(reader)) {
      reader = mine;
    } else {
      add_reader(reader, mine);
    }
  }
}

void Judge::read_together(const Cells& cells, std::uint64_t offset, std::size_t bytes, int lane) {
  const auto end = (offset + bytes - 1) >> shift_;
  const Stamp mine = base_ | (warp_.time << time_shift) | (many_lanes + warp_.index);
  Stamp* writers = cells.writers.as<Stamp>();
  Stamp* readers = cells.readers.as<Stamp>();
  for (auto cell = offset >> shift_; cell <= end; ++cell) {
    const Stamp writer = writers[cell];
    if (!settled(writer)) {
      if (unwritten(writer)) report_unwritten(cell, lane);
      const unsigned thread = thread_of(writer) & 1023U;
      // Every lane of the warp reads, also those that did not write it.
      if (thread / 32 == warp_.index && time_of(writer) > warp_.synced) race(writer, lane, false, true);
      check_writer(writer, lane, false, false);
    }
    Stamp& reader = readers[cell];
    if (reader == mine) continue;
    if (reader < launch_base_ || settled(reader)) {
      reader = mine;
    } else {
      add_reader(reader, mine);
    }
  }
}

void Judge::write(const Cells& cells, std::uint64_t offset, std::size_t bytes, int lane) {
  const auto end = (offset + bytes - 1) >> shift_;
  const Stamp mine = stamp(lane);
  Stamp* writers = cells.writers.as<Stamp>();
  Stamp* readers = cells.readers.as<Stamp>();
  for (auto cell = offset >> shift_; cell <= end; ++cell) {
    const Stamp writer = writers[cell];
    if (!settled(writer) && !unwritten(writer)) check_writer(writer, lane, true, false);
    const Stamp reader = readers[cell];
    if (reader >= launch_base_ && !settled(reader)) check_readers(reader, lane);
    writers[cell] = mine;
    readers[cell] = 0;
  }
}

void Judge::update(const Cells& cells, std::uint64_t offset, std::size_t bytes, int lane, bool reads) {
  const auto end = (offset + bytes - 1) >> shift_;
  const Stamp mine = stamp(lane) | atomic_bit;
  Stamp* writers = cells.writers.as<Stamp>();
  Stamp* readers = cells.readers.as<Stamp>();
  for (auto cell = offset >> shift_; cell <= end; ++cell) {
    const Stamp writer = writers[cell];
    if (unwritten(writer)) {
      if (reads) report_unwritten(cell, lane);
    } else if (!settled(writer)) {
      check_writer(writer, lane, true, true);
    }
    const Stamp reader = readers[cell];
    if (reader >= launch_base_ && !settled(reader)) check_readers(reader, lane);
    writers[cell] = mine;
    readers[cell] = 0;
  }
}

void Judge::read_strong(const Cells& cells, std::uint64_t offset, std::size_t bytes, int lane) {
  const auto end = (offset + bytes - 1) >> shift_;
  for (auto cell = offset >> shift_; cell <= end; ++cell) {
    const Stamp writer = cells.writers.as<Stamp>()[cell];
    if (settled(writer)) continue;
    if (unwritten(writer)) report_unwritten(cell, lane);
    check_writer(writer, lane, false, true);
  }
}

void Judge::write_pending(const Cells& cells, std::uint64_t offset, std::size_t bytes, int lane) {
  write(cells, offset, bytes, lane);
  const auto end = (offset + bytes - 1) >> shift_;
  const Stamp mine = stamp(lane) | (pending_time << time_shift);
  for (auto cell = offset >> shift_; cell <= end; ++cell) cells.writers.as<Stamp>()[cell] = mine;
}

void Judge::land(const Cells& cells, std::uint64_t offset, std::size_t bytes, int lane) {
  const auto end = (offset + bytes - 1) >> shift_;
  const Stamp mine = stamp(lane);
  for (auto cell = offset >> shift_; cell <= end; ++cell) cells.writers.as<Stamp>()[cell] = mine;
}

void Judge::report_unwritten(std::uint64_t cell, int lane) const {
  violate(warp_, Fault::uninitialised_memory, lane,
          fmt::format("reads shared memory at byte {} that was never written", cell << shift_));
}

void Judge::race(Stamp other, int lane, bool writes, bool other_writes) const {
  const Launch& launch = *warp_.block->launch;
  const unsigned thread = thread_of(other);
  std::string who;
  if (block_of(other) == many_blocks && global_) {
    who = "several blocks";
  } else {
    const std::uint32_t block = global_ ? block_of(other) : warp_.block->number;
    if (!other_writes && thread == many_warps) {
      who = "several warps of the block";
    } else if (!other_writes && thread >= many_lanes) {
      who = fmt::format("several lanes of warp {} of the block", thread - many_lanes);
    } else {
      who = name_thread(launch, block, thread & 1023U);
    }
  }
  const bool pending = other_writes && time_of(other) == pending_time;
  violate(warp_, Fault::race, lane,
          fmt::format("{} {} memory that {} {}{}, and nothing orders the two", writes ? "writes" : "reads",
                      global_ ? "global" : "shared", who, other_writes ? "writes" : "reads",
                      pending ? " by a cp.async that has not been waited for" : ""));
}

void arrive(Warp& warp) {
  warp.block->arrivals.push_back({warp.barrier, warp.index, warp.time, warp.seen});
  warp.time = next_time(*warp.block);
}

void order_by_barrier(Block& block, const std::vector<Warp*>& warps, unsigned barrier) {
  const Stamp now = block.time;
  std::size_t alive = 0;
  for (const auto& warp : block.warps) alive += warp.state != WarpState::done;
  if (warps.size() == alive && block.arrivals.empty()) {
    block.ordered_time = now;
    const Stamp next = next_time(block);
    for (auto* warp : warps) {
      warp->time = next;
      warp->synced = now;
    }
    return;
  }
  std::array<Stamp, lanes> all{};
  for (const auto* warp : warps) {
    for (std::size_t w = 0; w < all.size(); ++w) all[w] = std::max(all[w], warp->seen[w]);
  }
  for (const auto& arrival : block.arrivals) {
    if (arrival.barrier != barrier) continue;
    for (std::size_t w = 0; w < all.size(); ++w) all[w] = std::max(all[w], arrival.seen[w]);
    all[arrival.warp] = std::max(all[arrival.warp], arrival.time);
  }
  std::erase_if(block.arrivals, [&](const Arrival& arrival) { return arrival.barrier == barrier; });
  for (const auto* warp : warps) all[warp->index] = now;
  const Stamp next = next_time(block);
  for (auto* warp : warps) {
    warp->seen = all;
    warp->synced = now;
    warp->time = next;
  }
}

void order_by_warp_barrier(Warp& warp, std::uint32_t members) {
  const Stamp now = warp.time;
  warp.time = next_time(*warp.block);
  if ((warp.alive & ~members) == 0) {
    warp.synced = now;
    return;
  }
  constexpr std::size_t n = lanes;
  if (warp.lanes_seen.empty()) warp.lanes_seen.assign(n * n, 0);
  std::array<Stamp, n> all{};
  for_lanes(members, [&](int lane) {
    for (std::size_t k = 0; k < n; ++k)
      all[k] = std::max(all[k], warp.lanes_seen[static_cast<std::size_t>(lane) * n + k]);
  });
  for_lanes(members, [&](int lane) { all[static_cast<std::size_t>(lane)] = now; });
  for_lanes(members, [&](int lane) {
    std::copy(all.begin(), all.end(), warp.lanes_seen.begin() + static_cast<std::ptrdiff_t>(lane) * lanes);
  });
}

void order_by_atomic(Warp& warp, std::uint64_t address, bool acquire, bool release) {
  Block& block = *warp.block;
  auto& published = block.launch->published[address];
  if (acquire) {
    for (const auto& [other, time] : published) {
      if (other == block.number) continue;
      auto& seen = block.blocks_seen[other];
      seen = std::max(seen, time);
    }
  }
  if (!release) return;
  for (const auto& [other, time] : block.blocks_seen) {
    auto& known = published[other];
    known = std::max(known, time);
  }
  published[block.number] = block.time;
  warp.time = next_time(block);
}

}  // namespace apb::ptx
