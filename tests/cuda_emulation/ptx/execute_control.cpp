// Control flow of a warp: branches, lanes that wait for others, barriers, fences.
#include <fmt/format.h>

#include <algorithm>

#include "ptx/decoder.hpp"
#include "ptx/forms.hpp"
#include "ptx/handlers.hpp"
#include "ptx/judge.hpp"

namespace apb::ptx {
namespace {

std::uint32_t lanes_at(const Warp& warp, std::uint32_t candidates, std::uint32_t pc) {
  std::uint32_t mask = 0;
  for_lanes(candidates, [&](int lane) {
    if (warp.lane_pc[static_cast<std::size_t>(lane)] == pc) mask |= 1U << lane;
  });
  return mask;
}

void set_pc(Warp& warp, std::uint32_t mask, std::uint32_t pc) {
  for_lanes(mask, [&](int lane) { warp.lane_pc[static_cast<std::size_t>(lane)] = pc; });
}

/// Lanes that wait in __syncwarp at different places go on once all the members of one's mask wait.
bool release_warp_barriers(Warp& warp) {
  const auto& code = warp.block->launch->program->code;
  for (int lane = 0; lane < lanes; ++lane) {
    if (!lane_in(warp.blocked, lane)) continue;
    const Operation& operation = code[warp.lane_pc[static_cast<std::size_t>(lane)]];
    if (operation.handler != warp_barrier) continue;
    const auto members = warp.at<std::uint32_t>(operation.operand[0])[lane] & warp.existing;
    std::uint32_t waiting = 0;
    for_lanes(warp.blocked & members, [&](int other) {
      if (code[warp.lane_pc[static_cast<std::size_t>(other)]].handler == warp_barrier) waiting |= 1U << other;
    });
    if (waiting != members) continue;
    order_by_warp_barrier(warp, members);
    for_lanes(members, [&](int other) { ++warp.lane_pc[static_cast<std::size_t>(other)]; });
    warp.blocked &= ~members;
    return true;
  }
  return false;
}

[[noreturn]] void report_missing_lanes(Warp& warp) {
  const int lane = std::countr_zero(warp.blocked);
  warp.pc = warp.lane_pc[static_cast<std::size_t>(lane)];
  const auto here = lanes_at(warp, warp.blocked, warp.pc);
  std::string others;
  const auto elsewhere = warp.blocked & ~here;
  if (elsewhere != 0) {
    const auto pc = warp.lane_pc[static_cast<std::size_t>(std::countr_zero(elsewhere))];
    others = fmt::format("; lanes {} wait at {}", name_lanes(lanes_at(warp, elsewhere, pc)),
                         describe(*warp.block->launch->program->text, warp.block->launch->program->code[pc].location));
  }
  const auto exited = warp.existing & ~warp.alive;
  if (exited != 0) others += fmt::format("; lanes {} have exited", name_lanes(exited));
  violate(warp, Fault::missing_lanes, lane,
          fmt::format("lanes {} of warp {} wait for lanes of the mask that never come{}", name_lanes(here), warp.index,
                      others));
}

}  // namespace

void regroup(Warp& warp) {
  while (true) {
    const std::uint32_t runnable = warp.alive & ~warp.blocked;
    if (runnable != 0) {
      std::uint32_t least = nowhere;
      for_lanes(runnable, [&](int lane) { least = std::min(least, warp.lane_pc[static_cast<std::size_t>(lane)]); });
      warp.mask = 0;
      warp.next_pc = nowhere;
      for_lanes(runnable, [&](int lane) {
        const auto pc = warp.lane_pc[static_cast<std::size_t>(lane)];
        if (pc == least) {
          warp.mask |= 1U << lane;
        } else {
          warp.next_pc = std::min(warp.next_pc, pc);
        }
      });
      warp.pc = least;
      warp.jumped = true;
      return;
    }
    if (warp.alive == 0) {
      warp.state = WarpState::done;
      warp.mask = 0;
      warp.jumped = true;
      return;
    }
    if (!release_warp_barriers(warp)) report_missing_lanes(warp);
  }
}

void branch(Warp& warp, std::uint32_t target) {
  const std::uint32_t stay = warp.mask & ~warp.active;
  if (stay == 0) {
    warp.pc = target;
    warp.jumped = true;
    return;
  }
  set_pc(warp, warp.active, target);
  set_pc(warp, stay, warp.pc + 1);
  regroup(warp);
}

bool gather_lanes(Warp& warp, std::uint32_t members) {
  const std::uint32_t required = members & warp.existing;
  if ((warp.active & ~members) != 0) {
    violate(warp, Fault::missing_lanes, std::countr_zero(warp.active & ~members),
            fmt::format("executes a collective whose mask {:#010x} does not name it", members));
  }
  const std::uint32_t here = warp.active | lanes_at(warp, warp.blocked & required, warp.pc);
  if (here == required) {
    const std::uint32_t joined = here & ~warp.active;
    warp.blocked &= ~joined;
    warp.mask |= joined;
    warp.active = here;
    return true;
  }
  const std::uint32_t others = warp.mask & ~warp.active;
  set_pc(warp, warp.active, warp.pc);
  set_pc(warp, others, warp.pc + 1);
  warp.blocked |= warp.active;
  regroup(warp);
  return false;
}

void branch_to(Warp& warp, const Operation& operation) {
  branch(warp, static_cast<std::uint32_t>(operation.immediate));
}

void branch_indexed(Warp& warp, const Operation& operation) {
  const auto& table = warp.block->launch->program->jump_tables[static_cast<std::size_t>(operation.immediate)];
  const auto* index = warp.at<std::uint32_t>(operation.operand[0]);
  const std::uint32_t others = warp.mask & ~warp.active;
  set_pc(warp, others, warp.pc + 1);
  for_lanes(warp.active, [&](int lane) {
    if (index[lane] >= table.size()) violate(warp, Fault::out_of_bounds, lane, "jumps past the end of a jump table");
    warp.lane_pc[static_cast<std::size_t>(lane)] = table[index[lane]];
  });
  regroup(warp);
}

void exit_lanes(Warp& warp, const Operation& operation) {
  static_cast<void>(operation);
  warp.alive &= ~warp.active;
  warp.mask &= ~warp.active;
  if (warp.mask != 0) return;
  regroup(warp);
}

void trap(Warp& warp, const Operation& operation) {
  static_cast<void>(operation);
  violate(warp, Fault::trap, std::countr_zero(warp.active), "executes a trap");
}

void failed_assertion(Warp& warp, const Operation& operation) {
  static_cast<void>(operation);
  violate(warp, Fault::trap, std::countr_zero(warp.active), "fails an assertion");
}

void no_operation(Warp& warp, const Operation& operation) {
  static_cast<void>(warp);
  static_cast<void>(operation);
}

void fence(Warp& warp, const Operation& operation) {
  if (operation.flags != 0) warp.block->fenced = true;
}

void barrier(Warp& warp, const Operation& operation) {
  if (warp.active != warp.alive) {
    const auto missing = warp.alive & ~warp.active;
    violate(warp, Fault::divergent_barrier, std::countr_zero(warp.active),
            fmt::format("is at a barrier in divergent code: lanes {} of warp {} are there, lanes {} are not",
                        name_lanes(warp.active), warp.index, name_lanes(missing)));
  }
  const auto lane = std::countr_zero(warp.active);
  warp.barrier = warp.at<std::uint32_t>(operation.operand[0])[lane];
  warp.barrier_threads = warp.at<std::uint32_t>(operation.operand[1])[lane];
  warp.barrier_pc = warp.pc;
  ++warp.block->launch->counters->barriers;
  if (operation.flags == barrier_arrives) {
    arrive(warp);
  } else {
    warp.state = WarpState::at_barrier;
  }
}

void finish_barrier_vote(const std::vector<Warp*>& warps) {
  const Launch& launch = *warps.front()->block->launch;
  const Operation& operation = launch.program->code[warps.front()->barrier_pc];
  unsigned yes = 0;
  unsigned threads = 0;
  for (const auto* warp : warps) {
    yes += static_cast<unsigned>(std::popcount(warp->predicate(operation.operand[2]) & warp->alive));
    threads += static_cast<unsigned>(std::popcount(warp->alive));
  }
  const auto reduction = static_cast<Reduction>(operation.reduction);
  const bool holds = reduction == Reduction::bit_and ? yes == threads : yes > 0;
  for (auto* warp : warps) {
    if (reduction == Reduction::add) {
      for_lanes(warp->alive, [&](int lane) { warp->at<std::uint32_t>(operation.operand[3])[lane] = yes; });
    } else {
      auto& result = warp->predicate(operation.operand[3]);
      result = (result & ~warp->alive) | (holds ? warp->alive : 0);
    }
  }
}

void warp_barrier(Warp& warp, const Operation& operation) {
  const auto members = warp.at<std::uint32_t>(operation.operand[0])[std::countr_zero(warp.active)];
  if (gather_lanes(warp, members)) order_by_warp_barrier(warp, members);
}

}  // namespace apb::ptx
