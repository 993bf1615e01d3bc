// What the lanes of a warp do together: shuffles, votes, matches, reductions.
#include <algorithm>
#include <bit>
#include <string>

#include "ptx/forms.hpp"
#include "ptx/handlers.hpp"
#include "ptx/warp.hpp"

namespace apb::ptx {
namespace {

/// The mask operand, alike in all active lanes.
bool gather(Warp& warp, std::uint32_t slot) {
  const auto* masks = warp.at<std::uint32_t>(slot);
  const auto first = masks[std::countr_zero(warp.active)];
  bool same = true;
  for_lanes(warp.active, [&](int lane) { same = same && masks[lane] == first; });
  if (same) return gather_lanes(warp, first);
  // Groups with masks of their own go one after the other.
  std::uint32_t group = 0;
  for_lanes(warp.active, [&](int lane) {
    if (masks[lane] == first) group |= 1U << lane;
  });
  const std::uint32_t rest = warp.mask & ~group;
  for_lanes(rest, [&](int lane) { warp.lane_pc[static_cast<std::size_t>(lane)] = warp.pc; });
  warp.mask = warp.active = group;
  warp.next_pc = std::min(warp.next_pc, warp.pc);
  return gather_lanes(warp, first);
}

void set_predicate(Warp& warp, std::uint32_t slot, std::uint32_t value) {
  auto& predicate = warp.predicate(slot);
  predicate = (predicate & ~warp.active) | (value & warp.active);
}

template <typename T>
void match(Warp& warp, const Operation& operation) {
  auto* result = warp.at<std::uint32_t>(operation.operand[0]);
  const T* source = warp.at<T>(operation.operand[1]);
  std::uint32_t left = warp.active;
  while (left != 0) {
    const T value = source[std::countr_zero(left)];
    std::uint32_t same = 0;
    for_lanes(left, [&](int lane) { same |= source[lane] == value ? 1U << lane : 0U; });
    for_lanes(same, [&](int lane) { result[lane] = same; });
    left &= ~same;
  }
}

template <typename T>
T reduced(const Warp& warp, const T* source, Reduction reduction) {
  T result = source[std::countr_zero(warp.active)];
  for_lanes(warp.active & (warp.active - 1), [&](int lane) {
    const T value = source[lane];
    switch (reduction) {
      case Reduction::add:
        result = static_cast<T>(std::uint32_t(result) + std::uint32_t(value));
        break;
      case Reduction::min:
        result = std::min(result, value);
        break;
      case Reduction::max:
        result = std::max(result, value);
        break;
      case Reduction::bit_and:
        result &= value;
        break;
      case Reduction::bit_or:
        result |= value;
        break;
      default:
        result ^= value;
        break;
    }
  });
  return result;
}

}  // namespace

void shuffle(Warp& warp, const Operation& operation) {
  if (!gather(warp, operation.operand[5])) return;
  auto* result = warp.at<std::uint32_t>(operation.operand[0]);
  const auto* source = warp.at<std::uint32_t>(operation.operand[2]);
  const auto* b = warp.at<std::uint32_t>(operation.operand[3]);
  const auto* c = warp.at<std::uint32_t>(operation.operand[4]);
  const auto mode = static_cast<ShuffleMode>(operation.flags);
  std::uint32_t values[lanes];
  std::uint32_t in_range = 0;
  for (int lane = 0; lane < lanes; ++lane) {
    const int offset = static_cast<int>(b[lane] & 31U);
    const std::uint32_t segment = (c[lane] >> 8) & 31U;
    const std::uint32_t clamp = c[lane] & 31U;
    const auto max_lane = static_cast<int>((static_cast<std::uint32_t>(lane) & segment) | (clamp & ~segment));
    const auto min_lane = static_cast<int>(static_cast<std::uint32_t>(lane) & segment);
    int from = 0;
    bool inside = false;
    switch (mode) {
      case ShuffleMode::up:
        from = lane - offset;
        inside = from >= max_lane;
        break;
      case ShuffleMode::down:
        from = lane + offset;
        inside = from <= max_lane;
        break;
      case ShuffleMode::bfly:
        from = lane ^ offset;
        inside = from <= max_lane;
        break;
      case ShuffleMode::idx:
        from = min_lane | (offset & static_cast<int>(~segment & 31U));
        inside = from <= max_lane;
        break;
    }
    if (!inside) from = lane;
    in_range |= inside ? 1U << lane : 0U;
    if (lane_in(warp.active, lane) && !lane_in(warp.active, from)) {
      violate(warp, Fault::missing_lanes, lane, "shuffles from lane " + std::to_string(from) + ", which takes no part");
    }
    values[lane] = source[from];
  }
  for (int lane = 0; lane < lanes; ++lane) result[lane] = lane_in(warp.active, lane) ? values[lane] : result[lane];
  set_predicate(warp, operation.operand[1], in_range);
}

void vote(Warp& warp, const Operation& operation) {
  if (!gather(warp, operation.operand[2])) return;
  const std::uint32_t yes = warp.predicate(operation.operand[1]) & warp.active;
  switch (static_cast<VoteMode>(operation.flags)) {
    case VoteMode::all:
      return set_predicate(warp, operation.operand[0], yes == warp.active ? all_lanes : 0);
    case VoteMode::any:
      return set_predicate(warp, operation.operand[0], yes != 0 ? all_lanes : 0);
    case VoteMode::uni:
      return set_predicate(warp, operation.operand[0], yes == warp.active || yes == 0 ? all_lanes : 0);
    case VoteMode::ballot:
      break;
  }
  for_lanes(warp.active, [&](int lane) { warp.at<std::uint32_t>(operation.operand[0])[lane] = yes; });
}

void match_any(Warp& warp, const Operation& operation) {
  if (!gather(warp, operation.operand[2])) return;
  operation.bytes == 8 ? match<std::uint64_t>(warp, operation) : match<std::uint32_t>(warp, operation);
}

void match_all(Warp& warp, const Operation& operation) {
  if (!gather(warp, operation.operand[3])) return;
  const auto value = [&](int lane) -> std::uint64_t {
    if (operation.bytes == 8) return warp.at<std::uint64_t>(operation.operand[2])[lane];
    return warp.at<std::uint32_t>(operation.operand[2])[lane];
  };
  bool same = true;
  for_lanes(warp.active, [&](int lane) { same = same && value(lane) == value(std::countr_zero(warp.active)); });
  for_lanes(warp.active,
            [&](int lane) { warp.at<std::uint32_t>(operation.operand[0])[lane] = same ? warp.active : 0; });
  set_predicate(warp, operation.operand[1], same ? all_lanes : 0);
}

void active_mask(Warp& warp, const Operation& operation) {
  for_lanes(warp.active, [&](int lane) { warp.at<std::uint32_t>(operation.operand[0])[lane] = warp.active; });
}

void reduce(Warp& warp, const Operation& operation) {
  if (!gather(warp, operation.operand[2])) return;
  const auto reduction = static_cast<Reduction>(operation.reduction);
  std::uint32_t result = 0;
  if (operation.flags != 0) {
    result = static_cast<std::uint32_t>(reduced(warp, warp.at<std::int32_t>(operation.operand[1]), reduction));
  } else {
    result = reduced(warp, warp.at<std::uint32_t>(operation.operand[1]), reduction);
  }
  for_lanes(warp.active, [&](int lane) { warp.at<std::uint32_t>(operation.operand[0])[lane] = result; });
}

}  // namespace apb::ptx
