// The state of a block and of its launch while a kernel runs.
#pragma once

#include <array>
#include <cstddef>
#include <cstdint>
#include <string>
#include <unordered_map>
#include <vector>

#include "ptx/machine.hpp"
#include "ptx/program.hpp"
#include "ptx/shadow.hpp"
#include "ptx/warp.hpp"

namespace apb::ptx {

/// A warp that has arrived at a barrier without waiting.
struct Arrival {
  unsigned barrier = 0, warp = 0;
  Stamp time = 0;
  std::array<Stamp, lanes> seen{};
};

/// A block that runs. Warp states and shared memory are used again by the next block of the launch.
struct Block {
  Launch* launch = nullptr;
  std::uint32_t number = 0;
  Dim3 index{0, 0, 0};
  std::vector<Warp> warps;
  LazyMemory register_files, shared, local, local_written;
  Cells shared_cells;
  std::uint64_t shared_serial = 0;  // stands for the launch in shared memory's stamps

  std::vector<Arrival> arrivals;

  Stamp time = 1;                          // the last span that began
  Stamp shared_base = 0, global_base = 0;  // stamps of this block at time 0
  Stamp ordered_time = 0;                  // what happened up to then is ordered by a barrier of all warps
  bool fenced = false;                     // has executed a memory fence
  /// Blocks whose accesses up to a time are ordered before this one's, through atomics.
  std::unordered_map<std::uint32_t, Stamp> blocks_seen;
};

/// A launch that runs.
struct Launch {
  const Program* program = nullptr;
  Memory* memory = nullptr;
  Counters* counters = nullptr;
  Dim3 grid, block;
  unsigned threads = 0;
  std::size_t shared_bytes = 0;
  std::vector<std::byte> parameters;
  std::uint64_t number = 0;  // of the stamps
  std::uint64_t instruction_limit = 0;
  std::uint64_t instructions = 0;
  std::vector<Allocation*> last_allocation;  // by position in the code
  /// What an atomic at an address publishes to the next one there: blocks and times.
  std::unordered_map<std::uint64_t, std::unordered_map<std::uint32_t, Stamp>> published;
};

/// "thread (3,0,0) of block (0,1,0)"
std::string name_thread(const Launch& launch, std::uint32_t block, unsigned thread);

}  // namespace apb::ptx
