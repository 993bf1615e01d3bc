// Opcodes as handlers over 32 lanes: the table, and the loops that lift a function of scalars to lanes.
#pragma once

#include <cstdint>
#include <string>
#include <unordered_map>
#include <vector>

#include "cpu/vectorize.hpp"
#include "ptx/program.hpp"
#include "ptx/warp.hpp"

namespace apb::ptx {

/// How an opcode is executed, and the size of its operands, results first; 1: a predicate.
struct Form {
  Handler handler = nullptr;
  std::vector<std::uint8_t> bytes;
  int results = 1;
};

using Forms = std::unordered_map<std::string, Form>;

/// Opcodes without modifiers that make no difference here: see normalised() in decode.cpp.
const Forms& forms();
void add_integer_forms(Forms& forms);
void add_bit_forms(Forms& forms);
void add_float_forms(Forms& forms);
void add_half_forms(Forms& forms);
void add_compare_forms(Forms& forms);
void add_move_forms(Forms& forms);

/// Handler that converts, for "cvt.rn.bf16.f32" and the like; its operand sizes. Null handler if unknown.
Form conversion(const std::string& opcode);

inline bool lane_in(std::uint32_t mask, int lane) { return ((mask >> lane) & 1U) != 0; }

template <typename F, typename D, typename A>
APB_VECTORIZED void map1(Warp& warp, const Operation& operation) {
  D* d = warp.at<D>(operation.operand[0]);
  const A* a = warp.at<A>(operation.operand[1]);
  const std::uint32_t active = warp.active;
#pragma GCC ivdep
  for (int i = 0; i < lanes; ++i) d[i] = lane_in(active, i) ? static_cast<D>(F{}(a[i])) : d[i];
}

template <typename F, typename D, typename A, typename B>
APB_VECTORIZED void map2(Warp& warp, const Operation& operation) {
  D* d = warp.at<D>(operation.operand[0]);
  const A* a = warp.at<A>(operation.operand[1]);
  const B* b = warp.at<B>(operation.operand[2]);
  const std::uint32_t active = warp.active;
#pragma GCC ivdep
  for (int i = 0; i < lanes; ++i) d[i] = lane_in(active, i) ? static_cast<D>(F{}(a[i], b[i])) : d[i];
}

template <typename F, typename D, typename A, typename B, typename C>
APB_VECTORIZED void map3(Warp& warp, const Operation& operation) {
  D* d = warp.at<D>(operation.operand[0]);
  const A* a = warp.at<A>(operation.operand[1]);
  const B* b = warp.at<B>(operation.operand[2]);
  const C* c = warp.at<C>(operation.operand[3]);
  const std::uint32_t active = warp.active;
#pragma GCC ivdep
  for (int i = 0; i < lanes; ++i) d[i] = lane_in(active, i) ? static_cast<D>(F{}(a[i], b[i], c[i])) : d[i];
}

template <typename D, typename A, typename F>
void add1(Forms& forms, const std::string& name, F) {
  forms[name] = {map1<F, D, A>, {sizeof(D), sizeof(A)}};
}

template <typename D, typename A, typename B, typename F>
void add2(Forms& forms, const std::string& name, F) {
  forms[name] = {map2<F, D, A, B>, {sizeof(D), sizeof(A), sizeof(B)}};
}

template <typename D, typename A, typename B, typename C, typename F>
void add3(Forms& forms, const std::string& name, F) {
  forms[name] = {map3<F, D, A, B, C>, {sizeof(D), sizeof(A), sizeof(B), sizeof(C)}};
}

}  // namespace apb::ptx
