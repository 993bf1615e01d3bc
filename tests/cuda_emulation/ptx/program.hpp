// A kernel decoded: operations with handlers and register slots, and where each came from.
#pragma once

#include <array>
#include <cstddef>
#include <cstdint>
#include <map>
#include <string>
#include <vector>

#include "ptx/space.hpp"

namespace apb::ptx {

struct ModuleText;
struct Warp;
struct Operation;
using Handler = void (*)(Warp&, const Operation&);

constexpr std::uint32_t no_slot = 0xFFFFFFFF;
constexpr std::size_t max_operands = 16;

/// One instruction. Operands are byte offsets of slots in the warp's register file; a slot holds a value for each of
/// 32 lanes (predicates: one bit each). Constants and special registers have slots too.
struct Operation {
  Handler handler = nullptr;
  std::array<std::uint32_t, max_operands> operand{};
  std::uint32_t guard = no_slot;
  bool guard_negated = false;
  bool counted = true;        // false for what the decoder adds
  bool tracked = false;       // some register may be read before it is written: see Program::checks
  std::uint8_t count = 0;     // operands
  std::uint16_t written = 0;  // bit i: operand i is a result
  std::int32_t location = -1;
  std::int64_t immediate = 0;  // address offset, target of a branch, ...
  // Memory accesses and collectives: the meaning is the handler's.
  Space space = Space::generic;
  std::uint8_t bytes = 0;     // of an element
  std::uint8_t elements = 1;  // of a vector
  std::uint8_t flags = 0;
  std::uint8_t reduction = 0;  // of atomics: Reduction
};

/// A register that a path from the kernel's start reaches unwritten: its lanes are tracked while the kernel runs.
struct TrackedOperand {
  std::uint8_t operand;  // index in Operation::operand, or 255 for the guard
  std::uint32_t index;   // of the warp's written masks
  std::string name;
};

/// What a special register slot holds.
enum class Special {
  tid_x,
  tid_y,
  tid_z,
  ntid_x,
  ntid_y,
  ntid_z,
  ctaid_x,
  ctaid_y,
  ctaid_z,
  nctaid_x,
  nctaid_y,
  nctaid_z,
  laneid,
  warpid,
  nwarpid,
  lanemask_eq,
  lanemask_le,
  lanemask_lt,
  lanemask_ge,
  lanemask_gt,
  dynamic_smem_size,
  total_smem_size,
  smid,
  nsmid,
  gridid,
  clock,
  clock_hi,
};

struct SpecialSlot {
  Special special;
  std::uint32_t slot;
};

struct ConstantSlot {
  std::uint64_t value;
  std::uint8_t bytes;
  std::uint32_t slot;
};

struct Program {
  std::string name;
  const ModuleText* text = nullptr;
  std::vector<Operation> code;
  std::map<std::size_t, std::vector<TrackedOperand>> checks;  // by position, for tracked operations
  std::vector<std::vector<std::uint32_t>> jump_tables;
  std::vector<std::string> opcodes;  // by position, for messages
  std::vector<ConstantSlot> constants;
  std::vector<SpecialSlot> specials;
  std::size_t register_file_bytes = 0;
  std::size_t tracked_registers = 0;
  std::size_t static_shared_bytes = 0;  // also the offset of dynamic shared memory
  std::size_t local_bytes = 0;          // of a thread
  std::size_t parameter_bytes = 0;
  int shared_cell_shift = 4;  // log2 of the smallest access to shared (global) memory
  int global_cell_shift = 4;
  bool fences = false;  // has memory fences, by which atomics order blocks
};

}  // namespace apb::ptx
