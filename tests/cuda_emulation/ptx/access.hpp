// From the addresses of a warp's access to host memory, with all checks.
#pragma once

#include <array>

#include "ptx/block.hpp"
#include "ptx/program.hpp"

namespace apb::ptx {

/// write_strong: a volatile, relaxed or releasing store, or an exchange: does not race with its like.
enum class AccessKind : std::uint8_t { read, write, write_strong, update, read_together, copy_in, copy_out };

struct Access {
  AccessKind kind = AccessKind::read;
  bool strong = false;
  std::uint32_t mask = 0;
  unsigned bytes = 0;  // of a lane
  std::array<std::uint64_t, lanes> address{};
  std::array<std::byte*, lanes> host{};  // the result
};

/// Addresses of the active lanes from a register (4 or 8 bytes wide) and an offset.
void take_addresses(const Warp& warp, std::uint32_t slot, bool wide, std::int64_t offset, Access& access);

/// Checks alignment, bounds, what was written and by whom; counts; and sets `host`. Generic addresses go to their
/// space.
void locate(Warp& warp, Space space, Access& access);

// Counting: counters.cpp. `mask` of lanes with `bytes` each.
void count_shared(SharedAccesses& counters, const Access& access);
void count_global(GlobalAccesses& counters, const Access& access);

}  // namespace apb::ptx
