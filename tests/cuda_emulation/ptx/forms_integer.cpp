// Integer arithmetic.
#include <algorithm>
#include <limits>
#include <string>
#include <type_traits>

#include "ptx/forms.hpp"

namespace apb::ptx {
namespace {

template <typename T>
using Unsigned = std::make_unsigned_t<T>;

template <typename T>
struct Wide;
template <>
struct Wide<std::int16_t> {
  using Type = std::int32_t;
};
template <>
struct Wide<std::uint16_t> {
  using Type = std::uint32_t;
};
template <>
struct Wide<std::int32_t> {
  using Type = std::int64_t;
};
template <>
struct Wide<std::uint32_t> {
  using Type = std::uint64_t;
};
__extension__ using Int128 = __int128;
__extension__ using UInt128 = unsigned __int128;
template <>
struct Wide<std::int64_t> {
  using Type = Int128;
};
template <>
struct Wide<std::uint64_t> {
  using Type = UInt128;
};

template <typename T>
T product(T a, T b) {
  return static_cast<T>(typename Wide<Unsigned<T>>::Type{static_cast<Unsigned<T>>(a)} * static_cast<Unsigned<T>>(b));
}

template <typename T>
T high(T a, T b) {
  using W = typename Wide<T>::Type;
  return static_cast<T>((W{a} * W{b}) >> (8 * sizeof(T)));
}

template <typename T>
T sum(T a, T b) {
  return static_cast<T>(static_cast<Unsigned<T>>(a) + static_cast<Unsigned<T>>(b));
}

template <typename T>
T difference(T a, T b) {
  return static_cast<T>(static_cast<Unsigned<T>>(a) - static_cast<Unsigned<T>>(b));
}

template <typename T>
T negated(T a) {
  return difference(T{0}, a);
}

/// As hardware divides: by zero gives all ones, and the least integer by -1 itself.
template <typename T>
T quotient(T a, T b) {
  if (b == 0) return static_cast<T>(~T{0});
  if (std::is_signed_v<T> && b == static_cast<T>(-1)) return negated(a);
  return static_cast<T>(a / b);
}

template <typename T>
T remainder(T a, T b) {
  if (b == 0) return a;
  if (std::is_signed_v<T> && b == static_cast<T>(-1)) return 0;
  return static_cast<T>(a % b);
}

template <typename T>
T saturated_sum(T a, T b) {
  T result;
  if (!__builtin_add_overflow(a, b, &result)) return result;
  return b > 0 ? std::numeric_limits<T>::max() : std::numeric_limits<T>::min();
}

template <typename T>
void add_type(Forms& forms, const std::string& type) {
  const auto name = [&](const char* opcode) { return std::string(opcode) + "." + type; };
  add2<T, T, T>(forms, name("add"), [](T a, T b) { return sum(a, b); });
  add2<T, T, T>(forms, name("sub"), [](T a, T b) { return difference(a, b); });
  add2<T, T, T>(forms, name("mul.lo"), [](T a, T b) { return product(a, b); });
  add2<T, T, T>(forms, name("mul.hi"), [](T a, T b) { return high(a, b); });
  add3<T, T, T, T>(forms, name("mad.lo"), [](T a, T b, T c) { return sum(product(a, b), c); });
  add3<T, T, T, T>(forms, name("mad.hi"), [](T a, T b, T c) { return sum(high(a, b), c); });
  add2<T, T, T>(forms, name("div"), [](T a, T b) { return quotient(a, b); });
  add2<T, T, T>(forms, name("rem"), [](T a, T b) { return remainder(a, b); });
  add2<T, T, T>(forms, name("min"), [](T a, T b) { return std::min(a, b); });
  add2<T, T, T>(forms, name("max"), [](T a, T b) { return std::max(a, b); });
  if constexpr (std::is_signed_v<T>) {
    add1<T, T>(forms, name("neg"), [](T a) { return negated(a); });
    add1<T, T>(forms, name("abs"), [](T a) { return a < 0 ? negated(a) : a; });
  }
  if constexpr (sizeof(T) < 8) {
    using W = typename Wide<T>::Type;
    add2<W, T, T>(forms, name("mul.wide"), [](T a, T b) { return static_cast<W>(W{a} * W{b}); });
    add3<W, T, T, W>(forms, name("mad.wide"), [](T a, T b, W c) { return sum(static_cast<W>(W{a} * W{b}), c); });
  }
}

void add_packed(Forms& forms) {
  using U = std::uint32_t;
  add3<U, U, U, U>(forms, "dp4a.s32.s32", [](U a, U b, U c) {
    for (int i = 0; i < 4; ++i) {
      c += static_cast<U>(static_cast<std::int8_t>(a >> (8 * i)) * static_cast<std::int8_t>(b >> (8 * i)));
    }
    return c;
  });
  add3<U, U, U, U>(forms, "dp4a.u32.u32", [](U a, U b, U c) {
    for (int i = 0; i < 4; ++i) c += ((a >> (8 * i)) & 255U) * ((b >> (8 * i)) & 255U);
    return c;
  });
  add3<U, U, U, U>(forms, "sad.u32", [](U a, U b, U c) { return c + (a > b ? a - b : b - a); });
  using S = std::int32_t;
  add3<S, S, S, S>(forms, "sad.s32", [](S a, S b, S c) { return sum(c, a > b ? difference(a, b) : difference(b, a)); });
  add2<S, S, S>(forms, "add.sat.s32", [](S a, S b) { return saturated_sum(a, b); });
  add2<S, S, S>(forms, "mul24.lo.s32", [](S a, S b) { return product((a << 8) >> 8, (b << 8) >> 8); });
  add2<U, U, U>(forms, "mul24.lo.u32", [](U a, U b) { return (a & 0xFFFFFFU) * (b & 0xFFFFFFU); });
}

}  // namespace

void add_integer_forms(Forms& forms) {
  add_type<std::int16_t>(forms, "s16");
  add_type<std::uint16_t>(forms, "u16");
  add_type<std::int32_t>(forms, "s32");
  add_type<std::uint32_t>(forms, "u32");
  add_type<std::int64_t>(forms, "s64");
  add_type<std::uint64_t>(forms, "u64");
  add_packed(forms);
}

}  // namespace apb::ptx
