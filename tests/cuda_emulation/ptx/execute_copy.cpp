// cp.async: the data lands when its group is waited for, as late as the hardware may let it.
#include <fmt/format.h>

#include <algorithm>
#include <cstring>

#include "ptx/access.hpp"
#include "ptx/handlers.hpp"
#include "ptx/judge.hpp"

namespace apb::ptx {
namespace {

std::size_t at(int lane) { return static_cast<std::size_t>(lane); }

void land(Warp& warp, const PendingCopy& copy, std::uint32_t mask) {
  Block& block = *warp.block;
  Judge judge(warp, false);
  for_lanes(mask, [&](int lane) {
    std::byte* to = block.shared.bytes_at(copy.to[at(lane)]);
    const std::size_t from_bytes = copy.from_bytes[at(lane)];
    if (from_bytes > 0) std::memcpy(to, reinterpret_cast<const std::byte*>(copy.from[at(lane)]), from_bytes);
    std::memset(to + from_bytes, 0, copy.bytes - from_bytes);
    judge.land(block.shared_cells, copy.to[at(lane)], copy.bytes, lane);
  });
}

}  // namespace

void copy_async(Warp& warp, const Operation& operation) {
  PendingCopy copy;
  copy.mask = warp.active;
  copy.bytes = operation.bytes;
  const auto* from_bytes = warp.at<std::uint32_t>(operation.operand[2]);

  Access from;
  take_addresses(warp, operation.operand[1], (operation.flags & 2) != 0, 0, from);
  for_lanes(warp.active, [&](int lane) {
    if (from_bytes[lane] > operation.bytes) {
      violate(warp, Fault::out_of_bounds, lane,
              fmt::format("copies {} bytes by a cp.async of {}", from_bytes[lane], operation.bytes));
    }
    if (from.address[at(lane)] % operation.bytes != 0) {
      violate(warp, Fault::misaligned, lane,
              fmt::format("copies {} bytes from {:#x}, which is not a multiple of it", operation.bytes,
                          from.address[at(lane)]));
    }
  });
  // Lanes that read as many bytes are looked at together.
  for (std::uint32_t left = warp.active; left != 0;) {
    const auto bytes = from_bytes[std::countr_zero(left)];
    std::uint32_t group = 0;
    for_lanes(left, [&](int lane) { group |= from_bytes[lane] == bytes ? 1U << lane : 0U; });
    left &= ~group;
    if (bytes == 0) continue;
    from.kind = AccessKind::copy_in;
    from.mask = group;
    from.bytes = bytes;
    locate(warp, Space::global, from);
  }

  Access to;
  to.kind = AccessKind::copy_out;
  to.bytes = operation.bytes;
  take_addresses(warp, operation.operand[0], (operation.flags & 1) != 0, 0, to);
  locate(warp, Space::shared, to);
  for_lanes(warp.active, [&](int lane) {
    copy.to[at(lane)] = static_cast<std::uint32_t>(to.address[at(lane)]);
    copy.from[at(lane)] = from.address[at(lane)];
    copy.from_bytes[at(lane)] = static_cast<std::uint8_t>(from_bytes[lane]);
    copy.group[at(lane)] = warp.copy_group[at(lane)];
  });
  warp.copies.push_back(copy);
}

void copy_commit(Warp& warp, const Operation& operation) {
  static_cast<void>(operation);
  for_lanes(warp.active, [&](int lane) { ++warp.copy_group[at(lane)]; });
}

void copy_wait(Warp& warp, const Operation& operation) {
  for (auto& copy : warp.copies) {
    std::uint32_t ready = 0;
    for_lanes(copy.mask & warp.active, [&](int lane) {
      const auto committed = warp.copy_group[at(lane)];
      const bool lands = operation.immediate < 0 || copy.group[at(lane)] + operation.immediate < committed;
      ready |= lands ? 1U << lane : 0U;
    });
    if (ready == 0) continue;
    land(warp, copy, ready);
    copy.mask &= ~ready;
  }
  std::erase_if(warp.copies, [](const PendingCopy& copy) { return copy.mask == 0; });
}

}  // namespace apb::ptx
