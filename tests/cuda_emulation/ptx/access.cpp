#include "ptx/access.hpp"

#include <fmt/format.h>

#include <algorithm>
#include <cstring>
#include <limits>

#include "ptx/judge.hpp"

namespace apb::ptx {
namespace {

const char* verb(AccessKind kind) {
  switch (kind) {
    case AccessKind::write:
    case AccessKind::write_strong:
    case AccessKind::copy_out:
      return "writes";
    case AccessKind::update:
      return "updates";
    default:
      return "reads";
  }
}

bool stores(AccessKind kind) { return kind == AccessKind::write || kind == AccessKind::write_strong; }

std::size_t at(int lane) { return static_cast<std::size_t>(lane); }

void check_alignment(Warp& warp, const Access& access, const char* space) {
  if (access.bytes <= 1 || (access.bytes & (access.bytes - 1)) != 0) return;
  std::uint64_t low = 0;
  for (int lane = 0; lane < lanes; ++lane) low |= ((access.mask >> lane) & 1U) != 0 ? access.address[at(lane)] : 0;
  if ((low & (access.bytes - 1)) == 0) return;
  for_lanes(access.mask, [&](int lane) {
    const auto address = access.address[at(lane)];
    if ((address & (access.bytes - 1)) == 0) return;
    violate(warp, Fault::misaligned, lane,
            fmt::format("{} {} bytes of {} memory at {:#x}, which is not a multiple of {}", verb(access.kind),
                        access.bytes, space, address, access.bytes));
  });
}

bool all_written(const std::byte* flags, std::size_t bytes) {
  std::size_t i = 0;
  constexpr std::uint64_t ones = 0x0101010101010101;
  for (; i + 8 <= bytes; i += 8) {
    std::uint64_t eight = 0;
    std::memcpy(&eight, flags + i, 8);
    if (eight != ones) return false;
  }
  for (; i < bytes; ++i) {
    if (flags[i] == std::byte{0}) return false;
  }
  return true;
}

/// Lets the judge look at one lane's access to cells.
void judge_lane(Judge& judge, const Cells& cells, std::uint64_t offset, const Access& access, int lane) {
  switch (access.kind) {
    case AccessKind::read:
    case AccessKind::copy_in:
      if (access.strong) return judge.read_strong(cells, offset, access.bytes, lane);
      return judge.read(cells, offset, access.bytes, lane);
    case AccessKind::read_together:
      return judge.read_together(cells, offset, access.bytes, lane);
    case AccessKind::write:
      return judge.write(cells, offset, access.bytes, lane);
    case AccessKind::write_strong:
    case AccessKind::update:
      return judge.update(cells, offset, access.bytes, lane, access.kind == AccessKind::update);
    case AccessKind::copy_out:
      return judge.write_pending(cells, offset, access.bytes, lane);
  }
}

void locate_shared(Warp& warp, Access& access) {
  Block& block = *warp.block;
  const auto size = block.launch->shared_bytes;
  check_alignment(warp, access, "shared");
  Judge judge(warp, false);
  for_lanes(access.mask, [&](int lane) {
    const auto offset = access.address[at(lane)];
    if (offset + access.bytes > size || offset > size) {
      violate(
          warp, Fault::out_of_bounds, lane,
          fmt::format("{} {} bytes at {} of {} bytes of shared memory", verb(access.kind), access.bytes, offset, size));
    }
    judge_lane(judge, block.shared_cells, offset, access, lane);
    access.host[at(lane)] = block.shared.bytes_at(offset);
  });
  Counters& counters = *block.launch->counters;
  switch (access.kind) {
    case AccessKind::write:
    case AccessKind::write_strong:
      return count_shared(counters.shared_store, access);
    case AccessKind::update:
      return count_shared(counters.shared_atomic, access);
    case AccessKind::copy_out:
      return count_shared(counters.shared_cp_async, access);
    case AccessKind::read_together:
      return count_shared(counters.ldmatrix, access);
    default:
      return count_shared(counters.shared_load, access);
  }
}

[[noreturn]] void report_outside(Warp& warp, const Access& access, int lane, const Allocation* near) {
  const auto address = access.address[at(lane)];
  std::string where = "which no allocation holds";
  if (near != nullptr) {
    where = fmt::format("{} bytes past the start of an allocation of {} bytes",
                        static_cast<std::int64_t>(address - near->address), near->bytes);
  }
  violate(warp, Fault::out_of_bounds, lane,
          fmt::format("{} {} bytes of global memory at {:#x}, {}", verb(access.kind), access.bytes, address, where));
}

void locate_global(Warp& warp, Access& access) {
  Launch& launch = *warp.block->launch;
  check_alignment(warp, access, "global");
  Judge judge(warp, true);
  Allocation*& last = launch.last_allocation[warp.pc];
  for_lanes(access.mask, [&](int lane) {
    const auto address = access.address[at(lane)];
    if (last == nullptr || !last->holds(address, access.bytes)) {
      Allocation* found = launch.memory->find(address);
      if (found == nullptr || !found->holds(address, access.bytes)) report_outside(warp, access, lane, found);
      last = found;
    }
    const Allocation& allocation = *last;
    const auto offset = address - allocation.address;
    std::byte* flags = allocation.written.bytes_at(offset);
    const bool writes = stores(access.kind);
    if (!writes && !all_written(flags, access.bytes)) {
      violate(
          warp, Fault::uninitialised_memory, lane,
          fmt::format("{} {} bytes of global memory at byte {} of an allocation of {} bytes, which were never written",
                      verb(access.kind), access.bytes, offset, allocation.bytes));
    }
    judge_lane(judge, allocation.cells, offset, access, lane);
    if (writes) std::memset(flags, 1, access.bytes);
    access.host[at(lane)] = reinterpret_cast<std::byte*>(address);
  });
  Counters& counters = *launch.counters;
  switch (access.kind) {
    case AccessKind::write:
    case AccessKind::write_strong:
      return count_global(counters.global_store, access);
    case AccessKind::update:
      return count_global(counters.global_atomic, access);
    case AccessKind::copy_in:
      return count_global(counters.global_cp_async, access);
    default:
      return count_global(counters.global_load, access);
  }
}

void locate_local(Warp& warp, Access& access) {
  const Block& block = *warp.block;
  const auto size = block.launch->program->local_bytes;
  check_alignment(warp, access, "local");
  for_lanes(access.mask, [&](int lane) {
    const auto offset = access.address[at(lane)];
    if (offset + access.bytes > size || offset > size) {
      violate(
          warp, Fault::out_of_bounds, lane,
          fmt::format("{} {} bytes at {} of {} bytes of local memory", verb(access.kind), access.bytes, offset, size));
    }
    const auto place = (warp.index * std::size_t{lanes} + at(lane)) * size + offset;
    std::byte* flags = block.local_written.bytes_at(place);
    if (stores(access.kind)) {
      std::memset(flags, 1, access.bytes);
    } else if (!all_written(flags, access.bytes)) {
      violate(warp, Fault::uninitialised_memory, lane,
              fmt::format("{} local memory at byte {} that was never written", verb(access.kind), offset));
    }
    access.host[at(lane)] = block.local.bytes_at(place);
  });
}

void locate_parameters(Warp& warp, Access& access) {
  Launch& launch = *warp.block->launch;
  check_alignment(warp, access, "parameter");
  for_lanes(access.mask, [&](int lane) {
    const auto offset = access.address[at(lane)];
    const auto size = launch.parameters.size();
    if (access.kind != AccessKind::read || offset + access.bytes > size || offset > size) {
      violate(
          warp, Fault::out_of_bounds, lane,
          fmt::format("{} {} bytes at {} of {} bytes of parameters", verb(access.kind), access.bytes, offset, size));
    }
    access.host[at(lane)] = launch.parameters.data() + offset;
  });
}

/// Splits the lanes by the windows that their generic addresses lie in.
void locate_generic(Warp& warp, Access& access) {
  const std::uint32_t all = access.mask;
  const auto visit = [&](std::uint64_t window, Space space) {
    access.mask = 0;
    for_lanes(all, [&](int lane) {
      if ((access.address[at(lane)] & window_bits) == window) access.mask |= 1U << lane;
    });
    if (access.mask == 0) return;
    const auto mask = access.mask;
    for_lanes(mask, [&](int lane) { access.address[at(lane)] -= window; });
    locate(warp, space, access);
  };
  visit(0, Space::global);
  visit(shared_window, Space::shared);
  visit(local_window, Space::local);
  visit(param_window, Space::param);
  access.mask = all;
  for_lanes(all, [&](int lane) {
    if (access.host[at(lane)] == nullptr) report_outside(warp, access, lane, nullptr);
  });
}

}  // namespace

void take_addresses(const Warp& warp, std::uint32_t slot, bool wide, std::int64_t offset, Access& access) {
  access.mask = warp.active;
  if (wide) {
    const auto* base = warp.at<std::uint64_t>(slot);
    for (int i = 0; i < lanes; ++i) access.address[at(i)] = base[i] + static_cast<std::uint64_t>(offset);
  } else {
    const auto* base = warp.at<std::uint32_t>(slot);
    for (int i = 0; i < lanes; ++i) access.address[at(i)] = base[i] + static_cast<std::uint32_t>(offset);
  }
}

void locate(Warp& warp, Space space, Access& access) {
  switch (space) {
    case Space::shared:
      return locate_shared(warp, access);
    case Space::global:
    case Space::constant:
      return locate_global(warp, access);
    case Space::local:
      return locate_local(warp, access);
    case Space::param:
      return locate_parameters(warp, access);
    case Space::generic:
      return locate_generic(warp, access);
  }
}

}  // namespace apb::ptx
