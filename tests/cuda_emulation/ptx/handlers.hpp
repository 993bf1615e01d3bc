// Handlers that are no mere functions of their lanes.
#pragma once

#include <cstdint>
#include <vector>

#include "ptx/program.hpp"

namespace apb::ptx {

// Control: execute_control.cpp.
void branch_to(Warp& warp, const Operation& operation);       // immediate: the target
void branch_indexed(Warp& warp, const Operation& operation);  // operand 0: index; immediate: which jump table
void exit_lanes(Warp& warp, const Operation& operation);
void trap(Warp& warp, const Operation& operation);
void failed_assertion(Warp& warp, const Operation& operation);
void no_operation(Warp& warp, const Operation& operation);
void fence(Warp& warp, const Operation& operation);  // flags: of the whole GPU
constexpr std::uint8_t barrier_arrives = 1, barrier_votes = 2;
void barrier(Warp& warp, const Operation& operation);  // barrier, threads (0: all), (source, result of bar.red)
/// Gives the warps that have met at a bar.red its result.
void finish_barrier_vote(const std::vector<Warp*>& warps);
void warp_barrier(Warp& warp, const Operation& operation);  // operand 0: members

// Collectives: execute_collective.cpp. Operands: result, (predicate), sources, members; flags: mode.
enum class ShuffleMode : std::uint8_t { up, down, bfly, idx };
void shuffle(Warp& warp, const Operation& operation);  // result, in range, source, b, c, members
enum class VoteMode : std::uint8_t { all, any, uni, ballot };
void vote(Warp& warp, const Operation& operation);  // result, source (flags & 8: negated), members
void match_any(Warp& warp, const Operation& operation);
void match_all(Warp& warp, const Operation& operation);  // result, predicate, source, members
void active_mask(Warp& warp, const Operation& operation);
enum class Reduction : std::uint8_t { add, min, max, bit_and, bit_or, bit_xor, inc, dec, exch, cas };
void reduce(Warp& warp, const Operation& operation);  // result, source, members; flags: Reduction; elements 1: signed

// Memory: execute_memory.cpp. Operation::space, bytes and elements say what is moved.
constexpr std::uint8_t wide_address = 1, strong_access = 2, signed_access = 4, acquires = 8, releases = 16;
constexpr std::uint8_t float_access = 32, packed_halves = 64;
void load(Warp& warp, const Operation& operation);    // results, address
void store(Warp& warp, const Operation& operation);   // values, address
void atomic(Warp& warp, const Operation& operation);  // result, address, values; Operation::reduction

// cp.async: execute_copy.cpp. Operands: to, from, (bytes from).
void copy_async(Warp& warp, const Operation& operation);
void copy_commit(Warp& warp, const Operation& operation);
void copy_wait(Warp& warp, const Operation& operation);  // immediate: groups that may be left, or -1: all

// Matrices: execute_matrix.cpp.
void load_matrix(Warp& warp, const Operation& operation);  // elements results, address; flags & transposed
constexpr std::uint8_t transposed = 2;
constexpr std::uint8_t half_inputs = 1;                         // f16 instead of bf16
void multiply_16x8x16(Warp& warp, const Operation& operation);  // d[4], a[4], b[2], c[4]
void multiply_16x8x8(Warp& warp, const Operation& operation);   // d[4], a[2], b[1], c[4]

}  // namespace apb::ptx
