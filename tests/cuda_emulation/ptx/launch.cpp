// Launches: limits, blocks one after the other, warps from barrier to barrier.
#include <fmt/format.h>

#include <algorithm>
#include <cstring>
#include <numeric>
#include <random>

#include "ptx/decoder.hpp"
#include "ptx/forms.hpp"
#include "ptx/handlers.hpp"
#include "ptx/judge.hpp"
#include "ptx/warp.hpp"

namespace apb::ptx {
namespace {

constexpr std::uint64_t turn = 1'000'000;  // instructions after which another warp may run, in case one spins
constexpr std::size_t max_parameter_bytes = 32764;

std::uint64_t count(Dim3 d) { return std::uint64_t{d.x} * d.y * d.z; }

void check_limits(const Kernel& kernel, Dim3 grid, Dim3 block, std::size_t dynamic_shared_bytes,
                  const LaunchOptions& options) {
  using Reason = LaunchError::Reason;
  const auto refuse = [&](Reason reason, const std::string& why) {
    throw LaunchError(reason, fmt::format("launch of {}: {}", kernel.name(), why));
  };
  if (count(grid) == 0 || grid.x > 0x7FFFFFFFU || grid.y > 65535 || grid.z > 65535) {
    refuse(Reason::invalid_configuration, fmt::format("grid of ({},{},{}) blocks", grid.x, grid.y, grid.z));
  }
  if (count(block) == 0 || count(block) > 1024 || block.z > 64) {
    refuse(Reason::invalid_configuration, fmt::format("blocks of ({},{},{}) threads", block.x, block.y, block.z));
  }
  if (kernel.max_threads() > 0 && count(block) > kernel.max_threads()) {
    refuse(Reason::invalid_configuration,
           fmt::format("blocks of {} threads, but __launch_bounds__ allow {}", count(block), kernel.max_threads()));
  }
  if (kernel.parameter_bytes() > max_parameter_bytes) {
    refuse(Reason::invalid_configuration, fmt::format("{} bytes of parameters", kernel.parameter_bytes()));
  }
  const auto fixed = kernel.static_shared_bytes();
  if (dynamic_shared_bytes > std::min(options.max_dynamic_shared_bytes, options.max_shared_bytes) ||
      fixed + dynamic_shared_bytes > std::max(options.max_dynamic_shared_bytes, std::size_t{48} * 1024) ||
      fixed + dynamic_shared_bytes > options.max_shared_bytes || fixed > std::size_t{48} * 1024) {
    refuse(Reason::too_much_shared_memory,
           fmt::format("{} bytes of static and {} of dynamic shared memory, where {} of dynamic are allowed", fixed,
                       dynamic_shared_bytes, options.max_dynamic_shared_bytes));
  }
  if (count(grid) >= block_mask) throw Unsupported("a grid of a million blocks or more");
}

template <typename T>
void fill(const Warp& warp, std::uint32_t slot, T value) {
  std::fill_n(warp.at<T>(slot), lanes, value);
}

void fill_constants(const Warp& warp, const Program& program) {
  for (const auto& constant : program.constants) {
    switch (constant.bytes) {
      case 1:
        warp.predicate(constant.slot) = constant.value != 0 ? all_lanes : 0;
        break;
      case 2:
        fill(warp, constant.slot, static_cast<std::uint16_t>(constant.value));
        break;
      case 4:
        fill(warp, constant.slot, static_cast<std::uint32_t>(constant.value));
        break;
      default:
        fill(warp, constant.slot, constant.value);
        break;
    }
  }
}

std::uint32_t special_value(const Warp& warp, Special special, unsigned lane) {
  const Block& block = *warp.block;
  const Launch& launch = *block.launch;
  const unsigned thread = warp.index * lanes + lane;
  const std::uint32_t bit = 1U << lane;
  switch (special) {
    case Special::tid_x:
      return thread % launch.block.x;
    case Special::tid_y:
      return thread / launch.block.x % launch.block.y;
    case Special::tid_z:
      return thread / launch.block.x / launch.block.y;
    case Special::ntid_x:
      return launch.block.x;
    case Special::ntid_y:
      return launch.block.y;
    case Special::ntid_z:
      return launch.block.z;
    case Special::ctaid_x:
      return block.index.x;
    case Special::ctaid_y:
      return block.index.y;
    case Special::ctaid_z:
      return block.index.z;
    case Special::nctaid_x:
      return launch.grid.x;
    case Special::nctaid_y:
      return launch.grid.y;
    case Special::nctaid_z:
      return launch.grid.z;
    case Special::laneid:
      return lane;
    case Special::warpid:
      return warp.index;
    case Special::nwarpid:
      return static_cast<std::uint32_t>(block.warps.size());
    case Special::lanemask_eq:
      return bit;
    case Special::lanemask_lt:
      return bit - 1;
    case Special::lanemask_le:
      return bit | (bit - 1);
    case Special::lanemask_gt:
      return ~(bit | (bit - 1));
    case Special::lanemask_ge:
      return ~(bit - 1);
    case Special::dynamic_smem_size:
      return static_cast<std::uint32_t>(launch.shared_bytes - launch.program->static_shared_bytes);
    case Special::total_smem_size:
      return static_cast<std::uint32_t>(launch.shared_bytes);
    case Special::nsmid:
      return 1;
    default:
      return 0;
  }
}

void start_warp(Warp& warp, const Program& program, unsigned threads) {
  const unsigned first = warp.index * lanes;
  warp.existing = threads - first >= lanes ? all_lanes : (1U << (threads - first)) - 1;
  warp.alive = warp.mask = warp.existing;
  warp.active = warp.blocked = 0;
  warp.pc = 0;
  warp.next_pc = nowhere;
  warp.lane_pc.fill(0);
  warp.state = WarpState::ready;
  warp.time = 1;
  warp.synced = 0;
  warp.seen.fill(0);
  warp.lanes_seen.clear();
  warp.copy_group.fill(0);
  warp.copies.clear();
  warp.written.assign(program.tracked_registers, 0);
  for (const auto& special : program.specials) {
    auto* values = warp.at<std::uint32_t>(special.slot);
    for (unsigned lane = 0; lane < lanes; ++lane) values[lane] = special_value(warp, special.special, lane);
  }
}

/// Registers that a path leaves unwritten: see TrackedOperand.
void check_registers(Warp& warp, const Operation& operation) {
  for (const auto& tracked : warp.block->launch->program->checks.at(warp.pc)) {
    auto& written = warp.written[tracked.index];
    if (tracked.operand != 255 && ((operation.written >> tracked.operand) & 1U) != 0) {
      written |= warp.active;
      continue;
    }
    const auto needed = tracked.operand == 255 ? warp.mask : warp.active;
    if ((needed & ~written) == 0) continue;
    violate(warp, Fault::uninitialised_register, std::countr_zero(needed & ~written),
            fmt::format("reads register {} that was never written", tracked.name));
  }
}

/// Runs a warp until it ends, waits at a barrier or has had its turn.
void run_warp(Warp& warp) {
  const Program& program = *warp.block->launch->program;
  const Operation* code = program.code.data();
  const std::uint64_t end = warp.instructions + turn;
  while (warp.state == WarpState::ready && warp.instructions < end) {
    const Operation& operation = code[warp.pc];
    warp.active = warp.mask;
    if (operation.guard != no_slot) {
      const std::uint32_t guard = warp.predicate(operation.guard);
      warp.active &= operation.guard_negated ? ~guard : guard;
    }
    if (operation.counted) {
      ++warp.instructions;
      warp.lane_instructions += warp.active == all_lanes ? 32U : static_cast<unsigned>(std::popcount(warp.active));
    }
    if (operation.tracked) check_registers(warp, operation);
    if (warp.active != 0) {
      warp.jumped = false;
      operation.handler(warp, operation);
      if (warp.jumped) {
        if (warp.pc < warp.next_pc) continue;
      } else {
        ++warp.pc;
      }
    } else {
      ++warp.pc;
    }
    if (warp.pc >= warp.next_pc && warp.state != WarpState::done) {
      for_lanes(warp.mask, [&](int lane) { warp.lane_pc[static_cast<std::size_t>(lane)] = warp.pc; });
      regroup(warp);
    }
  }
}

/// Lets the warps of a complete barrier go on; false if there is none.
bool release_barrier(Block& block) {
  std::vector<Warp*> alive;
  for (auto& warp : block.warps) {
    if (warp.state != WarpState::done) alive.push_back(&warp);
  }
  for (auto* first : alive) {
    if (first->state != WarpState::at_barrier) continue;
    std::vector<Warp*> there;
    std::copy_if(alive.begin(), alive.end(), std::back_inserter(there), [&](const Warp* warp) {
      return warp->state == WarpState::at_barrier && warp->barrier == first->barrier;
    });
    const unsigned expected = first->barrier_threads;
    const auto arrived = std::count_if(block.arrivals.begin(), block.arrivals.end(),
                                       [&](const Arrival& arrival) { return arrival.barrier == first->barrier; });
    const bool complete = expected > 0 ? (there.size() + static_cast<std::size_t>(arrived)) * lanes >= expected
                                       : there.size() == alive.size();
    if (!complete) continue;
    for (auto* other : there) {
      if (expected > 0 || other->barrier_pc == first->barrier_pc) continue;
      other->pc = other->barrier_pc;
      violate(
          *other, Fault::divergent_barrier, std::countr_zero(other->alive),
          fmt::format("is at another barrier than {}, which waits at {}",
                      name_thread(*block.launch, block.number, first->index * lanes),
                      describe(*block.launch->program->text, block.launch->program->code[first->barrier_pc].location)));
    }
    order_by_barrier(block, there, first->barrier);
    if (block.launch->program->code[first->barrier_pc].flags == barrier_votes) finish_barrier_vote(there);
    for (auto* warp : there) warp->state = WarpState::ready;
    return true;
  }
  return false;
}

void run_block(Block& block) {
  Launch& launch = *block.launch;
  while (true) {
    bool ran = false;
    bool unfinished = false;
    for (auto& warp : block.warps) {
      if (warp.state != WarpState::ready) {
        unfinished = unfinished || warp.state == WarpState::at_barrier;
        continue;
      }
      ran = true;
      const auto before = warp.instructions;
      run_warp(warp);
      launch.instructions += warp.instructions - before;
      if (launch.instructions > launch.instruction_limit) {
        violate(warp, Fault::endless, std::countr_zero(warp.alive | 0x80000000U),
                fmt::format("has not ended after {} instructions of the launch", launch.instructions));
      }
      unfinished = unfinished || warp.state != WarpState::done;
    }
    if (ran) continue;
    if (!unfinished) return;
    if (release_barrier(block)) continue;
    const auto waits = std::find_if(block.warps.begin(), block.warps.end(),
                                    [](const Warp& warp) { return warp.state == WarpState::at_barrier; });
    waits->pc = waits->barrier_pc;
    violate(*waits, Fault::deadlock, std::countr_zero(waits->alive),
            fmt::format("waits at barrier {} for threads that never come", waits->barrier));
  }
}

void start_block(Block& block, std::uint32_t number) {
  Launch& launch = *block.launch;
  block.number = number;
  block.index = {number % launch.grid.x, number / launch.grid.x % launch.grid.y,
                 number / launch.grid.x / launch.grid.y};
  if (++block.shared_serial == max_launches) {
    block.shared_cells.writers.clear();
    block.shared_cells.readers.clear();
    block.shared_serial = 1;
  }
  block.time = 1;
  block.ordered_time = 0;
  block.fenced = false;
  block.blocks_seen.clear();
  block.arrivals.clear();
  block.shared_base = block.shared_serial << launch_shift;
  block.global_base = (launch.number << launch_shift) | (std::uint64_t{number} << block_shift);
  if (block.local_written.size() > 0) block.local_written.clear();
  for (auto& warp : block.warps) start_warp(warp, *launch.program, launch.threads);
}

void prepare_block(Block& block, Launch& launch) {
  block.launch = &launch;
  const Program& program = *launch.program;
  const std::size_t warps = (launch.threads + lanes - 1) / lanes;
  block.register_files = LazyMemory(std::max<std::size_t>(warps * program.register_file_bytes, 64));
  block.shared = LazyMemory(launch.shared_bytes + 64);
  block.shared_cells = {LazyMemory((launch.shared_bytes + 64) * sizeof(Stamp)),
                        LazyMemory((launch.shared_bytes + 64) * sizeof(Stamp))};
  if (program.local_bytes > 0) {
    block.local = LazyMemory(warps * lanes * program.local_bytes);
    block.local_written = LazyMemory(warps * lanes * program.local_bytes);
  }
  block.warps.resize(warps);
  for (std::size_t w = 0; w < warps; ++w) {
    Warp& warp = block.warps[w];
    warp.block = &block;
    warp.index = static_cast<unsigned>(w);
    warp.registers = block.register_files.bytes_at(w * program.register_file_bytes);
    fill_constants(warp, program);
  }
}

}  // namespace

std::string name_thread(const Launch& launch, std::uint32_t block, unsigned thread) {
  return fmt::format("thread ({},{},{}) of block ({},{},{})", thread % launch.block.x,
                     thread / launch.block.x % launch.block.y, thread / launch.block.x / launch.block.y,
                     block % launch.grid.x, block / launch.grid.x % launch.grid.y,
                     block / launch.grid.x / launch.grid.y);
}

std::string name_lanes(std::uint32_t mask) {
  std::string names;
  for (int lane = 0; lane < lanes;) {
    if (!lane_in(mask, lane)) {
      ++lane;
      continue;
    }
    int last = lane;
    while (last + 1 < lanes && lane_in(mask, last + 1)) ++last;
    names += fmt::format("{}{}", names.empty() ? "" : ",", lane);
    if (last > lane) names += fmt::format("-{}", last);
    lane = last + 1;
  }
  return names;
}

void violate(const Warp& warp, Fault fault, int lane, const std::string& message) {
  const Launch& launch = *warp.block->launch;
  const Program& program = *launch.program;
  const int location = program.code[warp.pc].location;
  const auto [file, line] = own_line(*program.text, location);
  throw Violation(
      fault,
      fmt::format("kernel {}, {}, {}: {} {}", program.name, describe(*program.text, location), program.opcodes[warp.pc],
                  name_thread(launch, warp.block->number, warp.index * lanes + static_cast<unsigned>(lane)), message),
      program.name, file, line);
}

void Machine::launch(const Kernel& kernel, Dim3 grid, Dim3 block_size, std::size_t dynamic_shared_bytes,
                     const void* const* arguments, const LaunchOptions& options) {
  check_limits(kernel, grid, block_size, dynamic_shared_bytes, options);
  Launch launch;
  launch.program = &kernel.program();
  launch.memory = &memory_;
  launch.counters = &counters_[kernel.name()];
  launch.grid = grid;
  launch.block = block_size;
  launch.threads = static_cast<unsigned>(count(block_size));
  launch.shared_bytes = launch.program->static_shared_bytes + dynamic_shared_bytes;
  launch.number = memory_.next_launch();
  launch.instruction_limit = options.instruction_limit;
  launch.last_allocation.assign(launch.program->code.size() + 1, nullptr);
  launch.parameters.resize(launch.program->parameter_bytes);
  for (std::size_t i = 0; i < kernel.parameters().size(); ++i) {
    const auto& parameter = kernel.parameters()[i];
    if (arguments == nullptr || arguments[i] == nullptr) {
      throw LaunchError(LaunchError::Reason::invalid_argument,
                        fmt::format("launch of {}: argument {} is missing", kernel.name(), i));
    }
    std::memcpy(launch.parameters.data() + parameter.offset, arguments[i], parameter.bytes);
  }

  std::vector<std::uint32_t> order(count(grid));
  std::iota(order.begin(), order.end(), 0U);
  if (options.block_order_seed != 0) {
    std::shuffle(order.begin(), order.end(), std::mt19937_64(options.block_order_seed));
  }
  Block block;
  prepare_block(block, launch);
  ++launch.counters->launches;
  for (const auto number : order) {
    start_block(block, number);
    run_block(block);
    ++launch.counters->blocks;
  }
  for (const auto& warp : block.warps) {
    launch.counters->instructions += warp.instructions;
    launch.counters->lane_instructions += warp.lane_instructions;
  }
}

}  // namespace apb::ptx
