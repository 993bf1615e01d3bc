// cvt: conversions between types, in two steps: to the widest type of its kind, and from there.
#include <fmt/format.h>

#include <cmath>
#include <limits>
#include <map>
#include <string>
#include <type_traits>

#include "ptx/forms.hpp"
#include "ptx/half.hpp"
#include "ptx/text.hpp"

namespace apb::ptx {
namespace {

enum class Rounding { nearest, zero, down, up };

/// The float next to `value` (rounded to nearest from `exact`) that the rounding asks for.
template <typename F, typename Exact>
F directed(F value, Exact exact, Rounding rounding) {
  if (rounding == Rounding::nearest || static_cast<Exact>(value) == exact || std::isnan(static_cast<double>(value))) {
    return value;
  }
  const bool above = static_cast<Exact>(value) > exact;
  const bool lower = rounding == Rounding::down || (rounding == Rounding::zero && exact > 0);
  if (above && lower) return std::nextafter(value, -std::numeric_limits<F>::infinity());
  if (!above && !lower) return std::nextafter(value, std::numeric_limits<F>::infinity());
  return value;
}

template <typename T>
T integral(T value, Rounding rounding) {
  switch (rounding) {
    case Rounding::zero:
      return std::trunc(value);
    case Rounding::down:
      return std::floor(value);
    case Rounding::up:
      return std::ceil(value);
    default:
      return std::nearbyint(value);
  }
}

/// Out of range goes to the nearest end, NaN to 0.
template <typename T>
T clamped(double value) {
  if (std::isnan(value)) return 0;
  // The upper end may not be a double: compare with the power of two above it.
  constexpr double end = static_cast<double>(std::numeric_limits<T>::max() / 2 + 1) * 2.0;
  if (value >= end) return std::numeric_limits<T>::max();
  if (value <= static_cast<double>(std::numeric_limits<T>::min())) return std::numeric_limits<T>::min();
  return static_cast<T>(value);
}

// Storage: 8-bit types live in registers of 16.
template <typename T>
using Stored =
    std::conditional_t<sizeof(T) == 1, std::conditional_t<std::is_signed_v<T>, std::int16_t, std::uint16_t>, T>;

template <typename D, typename S>
struct IntegerToInteger {
  Stored<D> operator()(Stored<S> a) const { return static_cast<Stored<D>>(static_cast<D>(static_cast<S>(a))); }
};

template <typename D, typename S>
struct IntegerSaturated {
  Stored<D> operator()(Stored<S> a) const {
    const auto value = static_cast<S>(a);
    if (std::cmp_less(value, std::numeric_limits<D>::min())) return std::numeric_limits<D>::min();
    if (std::cmp_greater(value, std::numeric_limits<D>::max())) return std::numeric_limits<D>::max();
    return static_cast<Stored<D>>(value);
  }
};

template <typename D, typename S, Rounding R>
struct IntegerToFloat {
  D operator()(Stored<S> a) const {
    const auto value = static_cast<S>(a);
    if constexpr (R == Rounding::nearest || (sizeof(S) < 4)) return static_cast<D>(value);
    return directed(static_cast<D>(value), static_cast<long double>(value), R);
  }
};

template <typename D, typename S, Rounding R>
struct FloatToInteger {
  Stored<D> operator()(S a) const { return static_cast<Stored<D>>(clamped<D>(static_cast<double>(integral(a, R)))); }
};

template <typename H, typename D>
struct IntegerToHalf {
  std::uint16_t operator()(Stored<D> a) const { return H::narrow(to_odd(static_cast<double>(static_cast<D>(a)))); }
};

template <typename H, typename D, Rounding R>
struct HalfToInteger {
  Stored<D> operator()(std::uint16_t a) const {
    return static_cast<Stored<D>>(clamped<D>(static_cast<double>(integral(H::widen(a), R))));
  }
};

using Table = std::map<std::string, Form>;

template <typename D, typename S, typename F>
void put(Table& table, const std::string& name) {
  table[name] = {map1<F, D, S>, {sizeof(D), sizeof(S)}};
}

template <typename D>
const char* name_of() {
  if constexpr (std::is_same_v<D, float>) return "f32";
  if constexpr (std::is_same_v<D, double>) return "f64";
  constexpr bool is_signed = std::is_signed_v<D>;
  switch (sizeof(D)) {
    case 1:
      return is_signed ? "s8" : "u8";
    case 2:
      return is_signed ? "s16" : "u16";
    case 4:
      return is_signed ? "s32" : "u32";
    default:
      return is_signed ? "s64" : "u64";
  }
}

template <typename D, typename S>
void put_integer_pair(Table& table) {
  const std::string types = std::string(name_of<D>()) + "." + name_of<S>();
  put<Stored<D>, Stored<S>, IntegerToInteger<D, S>>(table, types);
  put<Stored<D>, Stored<S>, IntegerSaturated<D, S>>(table, "sat." + types);
}

template <typename S, typename F>
void put_float(Table& table) {
  const std::string to = std::string(name_of<F>()) + "." + name_of<S>();
  put<F, Stored<S>, IntegerToFloat<F, S, Rounding::nearest>>(table, "rn." + to);
  put<F, Stored<S>, IntegerToFloat<F, S, Rounding::zero>>(table, "rz." + to);
  put<F, Stored<S>, IntegerToFloat<F, S, Rounding::down>>(table, "rm." + to);
  put<F, Stored<S>, IntegerToFloat<F, S, Rounding::up>>(table, "rp." + to);
  const std::string from = std::string(name_of<S>()) + "." + name_of<F>();
  put<Stored<S>, F, FloatToInteger<S, F, Rounding::nearest>>(table, "rni." + from);
  put<Stored<S>, F, FloatToInteger<S, F, Rounding::zero>>(table, "rzi." + from);
  put<Stored<S>, F, FloatToInteger<S, F, Rounding::down>>(table, "rmi." + from);
  put<Stored<S>, F, FloatToInteger<S, F, Rounding::up>>(table, "rpi." + from);
}

template <typename H, typename S>
void put_half_integer(Table& table, const std::string& half) {
  const std::string name = name_of<S>();
  put<std::uint16_t, Stored<S>, IntegerToHalf<H, S>>(table, "rn." + half + "." + name);
  put<Stored<S>, std::uint16_t, HalfToInteger<H, S, Rounding::nearest>>(table, "rni." + name + "." + half);
  put<Stored<S>, std::uint16_t, HalfToInteger<H, S, Rounding::zero>>(table, "rzi." + name + "." + half);
  put<Stored<S>, std::uint16_t, HalfToInteger<H, S, Rounding::down>>(table, "rmi." + name + "." + half);
  put<Stored<S>, std::uint16_t, HalfToInteger<H, S, Rounding::up>>(table, "rpi." + name + "." + half);
}

template <typename S>
void put_integer(Table& table) {
  put_integer_pair<std::int8_t, S>(table);
  put_integer_pair<std::uint8_t, S>(table);
  put_integer_pair<std::int16_t, S>(table);
  put_integer_pair<std::uint16_t, S>(table);
  put_integer_pair<std::int32_t, S>(table);
  put_integer_pair<std::uint32_t, S>(table);
  put_integer_pair<std::int64_t, S>(table);
  put_integer_pair<std::uint64_t, S>(table);
  put_float<S, float>(table);
  put_float<S, double>(table);
  put_half_integer<Half, S>(table, "f16");
  put_half_integer<Bfloat, S>(table, "bf16");
}

template <typename D, typename S, typename F>
void put_function(Table& table, const std::string& name, F) {
  put<D, S, F>(table, name);
}

float relu(float a) { return a > 0.0F ? a : 0.0F; }
float unit(float a) { return a > 0.0F ? (a < 1.0F ? a : 1.0F) : 0.0F; }

template <typename H>
void put_half(Table& table, const std::string& half) {
  using U = std::uint16_t;
  put_function<float, U>(table, "f32." + half, [](U a) { return H::widen(a); });
  put_function<double, U>(table, "f64." + half, [](U a) { return double{H::widen(a)}; });
  put_function<U, float>(table, "rn." + half + ".f32", [](float a) { return H::narrow(a); });
  put_function<U, float>(table, "rz." + half + ".f32", [](float a) { return H::truncate(a); });
  put_function<U, float>(table, "rn.relu." + half + ".f32", [](float a) { return H::narrow(relu(a)); });
  put_function<U, float>(table, "rn.sat." + half + ".f32", [](float a) { return H::narrow(unit(a)); });
  put_function<U, double>(table, "rn." + half + ".f64", [](double a) { return H::narrow(to_odd(a)); });
  put_function<U, U>(table, half + "." + half, [](U a) { return a; });
  put_function<U, U>(table, "rni." + half + "." + half,
                     [](U a) { return H::narrow(integral(H::widen(a), Rounding::nearest)); });
  put_function<U, U>(table, "rzi." + half + "." + half, [](U a) { return H::narrow(std::trunc(H::widen(a))); });
  put_function<U, U>(table, "rmi." + half + "." + half, [](U a) { return H::narrow(std::floor(H::widen(a))); });
  put_function<U, U>(table, "rpi." + half + "." + half, [](U a) { return H::narrow(std::ceil(H::widen(a))); });
  // The first source becomes the upper half.
  const auto pair = [&](const std::string& name, auto f) {
    using F = decltype(f);
    const auto both = [](float a, float b) { return (std::uint32_t{F{}(a)} << 16) | F{}(b); };
    table[name + half + "x2.f32"] = {map2<decltype(both), std::uint32_t, float, float>, {4, 4, 4}};
  };
  pair("rn.", [](float a) { return H::narrow(a); });
  pair("rz.", [](float a) { return H::truncate(a); });
  pair("rn.relu.", [](float a) { return H::narrow(relu(a)); });
}

void put_floats(Table& table) {
  put_function<float, float>(table, "f32.f32", [](float a) { return a; });
  put_function<double, double>(table, "f64.f64", [](double a) { return a; });
  put_function<float, float>(table, "sat.f32.f32", [](float a) { return unit(a); });
  put_function<double, float>(table, "f64.f32", [](float a) { return double{a}; });
  const auto narrow = [](double a) { return static_cast<float>(a); };
  put_function<float, double>(table, "rn.f32.f64", narrow);
  put_function<float, double>(table, "rz.f32.f64",
                              [](double a) { return directed(static_cast<float>(a), a, Rounding::zero); });
  put_function<float, double>(table, "rm.f32.f64",
                              [](double a) { return directed(static_cast<float>(a), a, Rounding::down); });
  put_function<float, double>(table, "rp.f32.f64",
                              [](double a) { return directed(static_cast<float>(a), a, Rounding::up); });
  const auto whole = [&]<typename T>(T, const std::string& type) {
    put_function<T, T>(table, "rni." + type, [](T a) { return integral(a, Rounding::nearest); });
    put_function<T, T>(table, "rzi." + type, [](T a) { return std::trunc(a); });
    put_function<T, T>(table, "rmi." + type, [](T a) { return std::floor(a); });
    put_function<T, T>(table, "rpi." + type, [](T a) { return std::ceil(a); });
  };
  whole(0.0F, "f32.f32");
  whole(0.0, "f64.f64");
}

}  // namespace

Form conversion(const std::string& opcode) {
  static const Table table = [] {
    Table all;
    put_integer<std::int8_t>(all);
    put_integer<std::uint8_t>(all);
    put_integer<std::int16_t>(all);
    put_integer<std::uint16_t>(all);
    put_integer<std::int32_t>(all);
    put_integer<std::uint32_t>(all);
    put_integer<std::int64_t>(all);
    put_integer<std::uint64_t>(all);
    put_half<Half>(all, "f16");
    put_half<Bfloat>(all, "bf16");
    put_floats(all);
    return all;
  }();
  std::string name;
  const auto parts = split_dots(opcode);
  for (std::size_t i = 1; i < parts.size(); ++i) {
    if (parts[i] == "ftz" || parts[i] == "pack") continue;  // subnormals are kept
    name += fmt::format("{}{}", name.empty() ? "" : ".", parts[i]);
  }
  const auto found = table.find(name);
  return found == table.end() ? Form{} : found->second;
}

}  // namespace apb::ptx
