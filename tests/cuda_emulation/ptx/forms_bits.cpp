// Logic, shifts, bit fields and moves.
#include <algorithm>
#include <bit>
#include <string>

#include "ptx/forms.hpp"

namespace apb::ptx {
namespace {

template <typename T>
T reversed(T value) {
  T result = 0;
  for (unsigned i = 0; i < 8 * sizeof(T); ++i)
    result = static_cast<T>(result | (((value >> i) & 1) << (8 * sizeof(T) - 1 - i)));
  return result;
}

/// prmt in its default mode: each nibble of the selector picks a byte of {b, a}, or its sign.
std::uint32_t permuted(std::uint32_t a, std::uint32_t b, std::uint32_t selector) {
  const std::uint64_t both = (std::uint64_t{b} << 32) | a;
  std::uint32_t result = 0;
  for (unsigned i = 0; i < 4; ++i) {
    const auto nibble = (selector >> (4 * i)) & 15U;
    auto byte = static_cast<std::uint32_t>(both >> (8 * (nibble & 7U))) & 255U;
    if ((nibble & 8U) != 0) byte = (byte & 128U) != 0 ? 255U : 0U;
    result |= byte << (8 * i);
  }
  return result;
}

template <typename T>
T insert_bits(T field, T base, std::uint32_t position, std::uint32_t length) {
  constexpr std::uint32_t width = 8 * sizeof(T);
  position &= 255U;
  length &= 255U;
  if (length == 0 || position >= width) return base;
  const T ones = length >= width ? static_cast<T>(~T{0}) : static_cast<T>((T{1} << length) - 1);
  const T mask = static_cast<T>(ones << position);
  return static_cast<T>((base & ~mask) | ((field << position) & mask));
}

template <typename T>
T extract_bits(T value, std::uint32_t position, std::uint32_t length) {
  constexpr std::uint32_t width = 8 * sizeof(T);
  position &= 255U;
  length &= 255U;
  if (length == 0) return 0;
  const bool is_signed = std::is_signed_v<T>;
  const std::uint32_t top = std::min(position + length - 1, width - 1);
  const T sign = is_signed && ((value >> top) & 1) != 0 ? static_cast<T>(~T{0}) : T{0};
  using U = std::make_unsigned_t<T>;
  U result = position >= width ? U{0} : static_cast<U>(static_cast<U>(value) >> position);
  if (position >= width) result = static_cast<U>(sign);
  const std::uint32_t valid = position >= width ? 0 : std::min(length, width - position);
  if (valid < width) {
    const U ones = static_cast<U>((U{1} << valid) - 1);
    result = static_cast<U>((result & ones) | (static_cast<U>(sign) & static_cast<U>(~ones)));
  }
  if (length < width && !is_signed) result = static_cast<U>(result & ((U{1} << length) - 1));
  return static_cast<T>(result);
}

/// Position of the highest bit that differs from the sign, or all ones.
template <typename T>
std::uint32_t find_highest(T value) {
  using U = std::make_unsigned_t<T>;
  const U bits = value < 0 ? static_cast<U>(~static_cast<U>(value)) : static_cast<U>(value);
  return bits == 0 ? 0xFFFFFFFFU : static_cast<std::uint32_t>(std::bit_width(bits)) - 1;
}

template <typename T>
void add_logic(Forms& forms, const std::string& type) {
  add2<T, T, T>(forms, "and." + type, [](T a, T b) { return static_cast<T>(a & b); });
  add2<T, T, T>(forms, "or." + type, [](T a, T b) { return static_cast<T>(a | b); });
  add2<T, T, T>(forms, "xor." + type, [](T a, T b) { return static_cast<T>(a ^ b); });
  add1<T, T>(forms, "not." + type, [](T a) { return static_cast<T>(~a); });
  add1<T, T>(forms, "cnot." + type, [](T a) { return static_cast<T>(a == 0 ? 1 : 0); });
  add2<T, T, std::uint32_t>(forms, "shl." + type, [](T a, std::uint32_t b) {
    return static_cast<T>(b >= 8 * sizeof(T) ? 0 : static_cast<T>(a << (b & (8 * sizeof(T) - 1))));
  });
}

template <typename T>
void add_right_shift(Forms& forms, const std::string& type) {
  add2<T, T, std::uint32_t>(forms, "shr." + type, [](T a, std::uint32_t b) {
    constexpr std::uint32_t width = 8 * sizeof(T);
    if (std::is_signed_v<T>) return static_cast<T>(a >> (b >= width ? width - 1 : b));
    return static_cast<T>(b >= width ? 0 : static_cast<T>(a >> (b & (width - 1))));
  });
}

template <typename U, typename S>
void add_fields(Forms& forms, const std::string& width) {
  using I = std::uint32_t;
  add1<U, U>(forms, "brev.b" + width, [](U a) { return reversed(a); });
  add1<I, U>(forms, "clz.b" + width, [](U a) { return static_cast<I>(std::countl_zero(a)); });
  add1<I, U>(forms, "popc.b" + width, [](U a) { return static_cast<I>(std::popcount(a)); });
  add1<I, U>(forms, "bfind.u" + width, [](U a) { return find_highest(a); });
  add1<I, S>(forms, "bfind.s" + width, [](S a) { return find_highest(a); });
  add3<U, U, I, I>(forms, "bfe.u" + width, [](U a, I b, I c) { return extract_bits(a, b, c); });
  add3<S, S, I, I>(forms, "bfe.s" + width, [](S a, I b, I c) { return extract_bits(a, b, c); });
}

template <typename T>
APB_VECTORIZED void insert_field(Warp& warp, const Operation& operation) {
  T* d = warp.at<T>(operation.operand[0]);
  const T* a = warp.at<T>(operation.operand[1]);
  const T* b = warp.at<T>(operation.operand[2]);
  const auto* c = warp.at<std::uint32_t>(operation.operand[3]);
  const auto* e = warp.at<std::uint32_t>(operation.operand[4]);
  for (int i = 0; i < lanes; ++i) d[i] = lane_in(warp.active, i) ? insert_bits(a[i], b[i], c[i], e[i]) : d[i];
}

/// lop3: the table has a bit for each combination of the bits of a, b and c.
APB_VECTORIZED void logic3(Warp& warp, const Operation& operation) {
  auto* d = warp.at<std::uint32_t>(operation.operand[0]);
  const auto* a = warp.at<std::uint32_t>(operation.operand[1]);
  const auto* b = warp.at<std::uint32_t>(operation.operand[2]);
  const auto* c = warp.at<std::uint32_t>(operation.operand[3]);
  const auto table = warp.at<std::uint32_t>(operation.operand[4])[0];
  for (int i = 0; i < lanes; ++i) {
    std::uint32_t result = 0;
    for (unsigned k = 0; k < 8; ++k) {
      const std::uint32_t on = 0U - ((table >> k) & 1U);
      result |= on & ((k & 4U) != 0 ? a[i] : ~a[i]) & ((k & 2U) != 0 ? b[i] : ~b[i]) & ((k & 1U) != 0 ? c[i] : ~c[i]);
    }
    d[i] = lane_in(warp.active, i) ? result : d[i];
  }
}

template <typename F>
void predicate1(Warp& warp, const Operation& operation) {
  auto& d = warp.predicate(operation.operand[0]);
  d = (d & ~warp.active) | (F{}(warp.predicate(operation.operand[1])) & warp.active);
}

template <typename F>
void predicate2(Warp& warp, const Operation& operation) {
  auto& d = warp.predicate(operation.operand[0]);
  const auto result = F{}(warp.predicate(operation.operand[1]), warp.predicate(operation.operand[2]));
  d = (d & ~warp.active) | (result & warp.active);
}

template <typename F>
void add_predicate1(Forms& forms, const std::string& name, F) {
  forms[name] = {predicate1<F>, {1, 1}};
}
template <typename F>
void add_predicate2(Forms& forms, const std::string& name, F) {
  forms[name] = {predicate2<F>, {1, 1, 1}};
}

}  // namespace

void add_bit_forms(Forms& forms) {
  using I = std::uint32_t;
  using L = std::uint64_t;
  add_logic<std::uint16_t>(forms, "b16");
  add_logic<I>(forms, "b32");
  add_logic<L>(forms, "b64");
  add_right_shift<std::uint16_t>(forms, "b16");
  add_right_shift<std::uint16_t>(forms, "u16");
  add_right_shift<std::int16_t>(forms, "s16");
  add_right_shift<I>(forms, "b32");
  add_right_shift<I>(forms, "u32");
  add_right_shift<std::int32_t>(forms, "s32");
  add_right_shift<L>(forms, "b64");
  add_right_shift<L>(forms, "u64");
  add_right_shift<std::int64_t>(forms, "s64");
  add_fields<I, std::int32_t>(forms, "32");
  add_fields<L, std::int64_t>(forms, "64");
  forms["bfi.b32"] = {insert_field<I>, {4, 4, 4, 4, 4}};
  forms["bfi.b64"] = {insert_field<L>, {8, 8, 8, 4, 4}};
  forms["lop3.b32"] = {logic3, {4, 4, 4, 4, 4}};
  add3<I, I, I, I>(forms, "prmt.b32", [](I a, I b, I c) { return permuted(a, b, c); });
  add3<I, I, I, I>(forms, "shf.l.wrap.b32",
                   [](I a, I b, I c) { return static_cast<I>((((L{b} << 32) | a) << (c & 31U)) >> 32); });
  add3<I, I, I, I>(forms, "shf.r.wrap.b32",
                   [](I a, I b, I c) { return static_cast<I>(((L{b} << 32) | a) >> (c & 31U)); });
  add3<I, I, I, I>(forms, "shf.l.clamp.b32",
                   [](I a, I b, I c) { return c >= 32 ? a : static_cast<I>((((L{b} << 32) | a) << (c & 31U)) >> 32); });
  add3<I, I, I, I>(forms, "shf.r.clamp.b32",
                   [](I a, I b, I c) { return c >= 32 ? b : static_cast<I>(((L{b} << 32) | a) >> (c & 31U)); });
  add2<I, I, I>(forms, "bmsk.clamp.b32", [](I a, I b) {
    return a >= 32 || b == 0 ? 0U : static_cast<I>(((L{1} << std::min<I>(b, 32)) - 1) << a);
  });
  add2<I, I, I>(forms, "bmsk.wrap.b32",
                [](I a, I b) { return static_cast<I>(((L{1} << (b & 31U)) - 1) << (a & 31U)); });
  add_predicate1(forms, "mov.pred", [](I a) { return a; });
  add_predicate1(forms, "not.pred", [](I a) { return ~a; });
  add_predicate2(forms, "and.pred", [](I a, I b) { return a & b; });
  add_predicate2(forms, "or.pred", [](I a, I b) { return a | b; });
  add_predicate2(forms, "xor.pred", [](I a, I b) { return a ^ b; });
}

}  // namespace apb::ptx
