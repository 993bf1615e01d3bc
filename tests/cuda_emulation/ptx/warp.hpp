// The state of a warp while a kernel runs.
#pragma once

#include <array>
#include <bit>
#include <cstddef>
#include <cstdint>
#include <string>
#include <vector>

#include "ptx/machine.hpp"
#include "ptx/program.hpp"
#include "ptx/shadow.hpp"

namespace apb::ptx {

constexpr int lanes = 32;
constexpr std::uint32_t all_lanes = 0xFFFFFFFF;
constexpr std::uint32_t nowhere = 0xFFFFFFFF;

// Generic addresses of memory that is not global: far from any pointer.
constexpr std::uint64_t shared_window = 0x4000000000000000;
constexpr std::uint64_t local_window = 0x2000000000000000;
constexpr std::uint64_t param_window = 0x1000000000000000;
constexpr std::uint64_t window_bits = 0x7000000000000000;

struct Launch;
struct Block;

/// cp.async of a warp that has not landed.
struct PendingCopy {
  std::uint32_t mask = 0;
  std::uint8_t bytes = 0;
  std::array<std::uint32_t, lanes> to{};
  std::array<std::uint64_t, lanes> from{};
  std::array<std::uint8_t, lanes> from_bytes{};
  std::array<std::uint32_t, lanes> group{};
};

enum class WarpState { ready, at_barrier, done };

struct Warp {
  Block* block = nullptr;
  std::byte* registers = nullptr;
  unsigned index = 0;
  WarpState state = WarpState::ready;

  std::uint32_t existing = 0;  // lanes that have a thread
  std::uint32_t alive = 0;     // lanes that have not exited
  std::uint32_t mask = 0;      // lanes that run now, together at pc
  std::uint32_t active = 0;    // of these, the lanes that the operation's guard lets through
  std::uint32_t blocked = 0;   // lanes that wait in a collective for others
  std::uint32_t pc = 0;
  std::uint32_t next_pc = nowhere;  // where other lanes wait that come next
  bool jumped = false;              // pc has been set by the handler
  std::array<std::uint32_t, lanes> lane_pc{};

  unsigned barrier = 0;          // where it waits, if at_barrier
  unsigned barrier_threads = 0;  // expected there, 0: all
  std::uint32_t barrier_pc = 0;
  bool barrier_arrives = false;        // without waiting
  std::vector<std::uint32_t> written;  // lanes of each tracked register

  // Happens-before: see shadow.hpp.
  Stamp time = 1;                   // of what the warp does now
  Stamp synced = 0;                 // what lanes of this warp did before is ordered before this moment
  std::array<Stamp, lanes> seen{};  // of each warp: what it did up to then is ordered before this moment
  std::vector<Stamp> lanes_seen;    // [lane][lane], after a partial __syncwarp; empty until there is one
  std::array<std::uint32_t, lanes> copy_group{};
  std::vector<PendingCopy> copies;

  std::uint64_t instructions = 0, lane_instructions = 0;

  template <typename T>
  T* at(std::uint32_t slot) const {
    return reinterpret_cast<T*>(registers + slot);
  }
  std::uint32_t& predicate(std::uint32_t slot) const { return *at<std::uint32_t>(slot); }
};

/// Stops the kernel: "kernel K at FILE:LINE (opcode): thread ... of block ...: message".
[[noreturn]] void violate(const Warp& warp, Fault fault, int lane, const std::string& message);
/// "0,1,5-7"
std::string name_lanes(std::uint32_t mask);

/// Lets the warp go on with the lanes that have the lowest pc.
void regroup(Warp& warp);
/// Sends the active lanes to `target`, the rest of the group on.
void branch(Warp& warp, std::uint32_t target);
/// Collective with a mask of lanes: true once all of them are here, and then they are the active lanes. False: the
/// lanes that came wait, and others run.
bool gather_lanes(Warp& warp, std::uint32_t members);

template <typename F>
void for_lanes(std::uint32_t mask, F&& f) {
  for (; mask != 0; mask &= mask - 1) f(std::countr_zero(mask));
}

}  // namespace apb::ptx
