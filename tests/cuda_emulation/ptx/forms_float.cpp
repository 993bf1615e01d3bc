// Floating point arithmetic.
#include <algorithm>
#include <bit>
#include <cmath>
#include <string>
#include <type_traits>

#include "ptx/forms.hpp"
#include "ptx/half.hpp"

namespace apb::ptx {
namespace {

/// Subnormal numbers as zero.
inline float flushed(float value) {
  const auto bits = std::bit_cast<std::uint32_t>(value);
  return (bits & 0x7F800000U) == 0 ? std::bit_cast<float>(bits & 0x80000000U) : value;
}

template <typename T>
T least(T a, T b) {
  if (a != a) return b;
  if (b != b) return a;
  if (a == b) return std::signbit(a) ? a : b;
  return a < b ? a : b;
}

template <typename T>
T greatest(T a, T b) {
  if (a != a) return b;
  if (b != b) return a;
  if (a == b) return std::signbit(a) ? b : a;
  return a > b ? a : b;
}

template <typename T>
T saturated(T a) {
  return a > T{0} ? (a < T{1} ? a : T{1}) : T{0};
}

inline float fused(float a, float b, float c) { return __builtin_fmaf(a, b, c); }
inline double fused(double a, double b, double c) { return __builtin_fma(a, b, c); }

// f32 operations come with and without .ftz, arithmetic also with .sat.
template <typename F>
void add_float1(Forms& forms, const std::string& opcode, F) {
  add1<float, float>(forms, opcode + ".f32", [](float a) { return F{}(a); });
  add1<float, float>(forms, opcode + ".ftz.f32", [](float a) { return flushed(F{}(flushed(a))); });
}

template <typename F>
void add_float2(Forms& forms, const std::string& opcode, F) {
  add2<float, float, float>(forms, opcode + ".f32", [](float a, float b) { return F{}(a, b); });
  add2<float, float, float>(forms, opcode + ".ftz.f32",
                            [](float a, float b) { return flushed(F{}(flushed(a), flushed(b))); });
}

template <typename F>
void add_arithmetic2(Forms& forms, const std::string& opcode, F f) {
  add_float2(forms, opcode, f);
  add2<double, double, double>(forms, opcode + ".f64", [](double a, double b) { return F{}(a, b); });
  add2<float, float, float>(forms, opcode + ".sat.f32", [](float a, float b) { return saturated(F{}(a, b)); });
  add2<float, float, float>(forms, opcode + ".ftz.sat.f32",
                            [](float a, float b) { return saturated(flushed(F{}(flushed(a), flushed(b)))); });
}

template <typename T>
void add_signs(Forms& forms, const std::string& type) {
  add1<T, T>(forms, "neg." + type, [](T a) { return -a; });
  add1<T, T>(forms, "abs." + type, [](T a) { return std::abs(a); });
  add2<T, T, T>(forms, "copysign." + type, [](T a, T b) { return std::copysign(b, a); });
  add2<T, T, T>(forms, "min." + type, [](T a, T b) { return least(a, b); });
  add2<T, T, T>(forms, "max." + type, [](T a, T b) { return greatest(a, b); });
  add3<T, T, T, T>(forms, "fma." + type, [](T a, T b, T c) { return fused(a, b, c); });
  add1<T, T>(forms, "sqrt." + type, [](T a) { return std::sqrt(a); });
  add2<T, T, T>(forms, "div." + type, [](T a, T b) { return a / b; });
  add1<T, T>(forms, "rcp." + type, [](T a) { return T{1} / a; });
}

void add_rounded(Forms& forms) {
  // Roundings other than to nearest: of the exact double result, which is exact for + - * but not always for fma.
  const auto toward_zero = [](double exact) {
    const auto nearest = static_cast<float>(exact);
    return std::abs(static_cast<double>(nearest)) > std::abs(exact) ? std::nextafter(nearest, 0.0F) : nearest;
  };
  using Round = decltype(toward_zero);
  add2<float, float, float>(forms, "add.rz.f32", [](float a, float b) { return Round{}(double{a} + double{b}); });
  add2<float, float, float>(forms, "sub.rz.f32", [](float a, float b) { return Round{}(double{a} - double{b}); });
  add2<float, float, float>(forms, "mul.rz.f32", [](float a, float b) { return Round{}(double{a} * double{b}); });
  add3<float, float, float, float>(forms, "fma.rz.f32", [](float a, float b, float c) {
    return Round{}(__builtin_fma(double{a}, double{b}, double{c}));
  });
  const auto down = [](double exact) {
    const auto nearest = static_cast<float>(exact);
    return static_cast<double>(nearest) > exact ? std::nextafter(nearest, -INFINITY) : nearest;
  };
  using Down = decltype(down);
  const auto up = [](double exact) {
    const auto nearest = static_cast<float>(exact);
    return static_cast<double>(nearest) < exact ? std::nextafter(nearest, INFINITY) : nearest;
  };
  using Up = decltype(up);
  add2<float, float, float>(forms, "add.rm.f32", [](float a, float b) { return Down{}(double{a} + double{b}); });
  add2<float, float, float>(forms, "add.rp.f32", [](float a, float b) { return Up{}(double{a} + double{b}); });
  add2<float, float, float>(forms, "mul.rm.f32", [](float a, float b) { return Down{}(double{a} * double{b}); });
  add2<float, float, float>(forms, "mul.rp.f32", [](float a, float b) { return Up{}(double{a} * double{b}); });
  add3<float, float, float, float>(forms, "fma.rm.f32", [](float a, float b, float c) {
    return Down{}(__builtin_fma(double{a}, double{b}, double{c}));
  });
  add3<float, float, float, float>(forms, "fma.rp.f32", [](float a, float b, float c) {
    return Up{}(__builtin_fma(double{a}, double{b}, double{c}));
  });
}

void add_approximate(Forms& forms) {
  // Approximations of hardware have errors of a few units in the last place; these have less.
  add_float1(forms, "ex2.approx", [](float a) { return std::exp2(a); });
  add_float1(forms, "lg2.approx", [](float a) { return std::log2(a); });
  add_float1(forms, "sin.approx", [](float a) { return std::sin(a); });
  add_float1(forms, "cos.approx", [](float a) { return std::cos(a); });
  add_float1(forms, "tanh.approx", [](float a) { return std::tanh(a); });
  add_float1(forms, "rcp.approx", [](float a) { return 1.0F / a; });
  add_float1(forms, "rsqrt.approx", [](float a) { return 1.0F / std::sqrt(a); });
  add1<double, double>(forms, "rsqrt.approx.f64", [](double a) { return 1.0 / std::sqrt(a); });
  add1<double, double>(forms, "rcp.approx.ftz.f64", [](double a) { return 1.0 / a; });
  add1<double, double>(forms, "rsqrt.approx.ftz.f64", [](double a) { return 1.0 / std::sqrt(a); });
  add_float1(forms, "sqrt.approx", [](float a) { return std::sqrt(a); });
  add_float2(forms, "div.approx", [](float a, float b) { return a / b; });
  add_float2(forms, "div.full", [](float a, float b) { return a / b; });
}

}  // namespace

void add_float_forms(Forms& forms) {
  add_signs<float>(forms, "f32");
  add_signs<double>(forms, "f64");
  add_arithmetic2(forms, "add", [](auto a, auto b) { return a + b; });
  add_arithmetic2(forms, "sub", [](auto a, auto b) { return a - b; });
  add_arithmetic2(forms, "mul", [](auto a, auto b) { return a * b; });
  add_float1(forms, "neg", [](float a) { return -a; });
  add_float1(forms, "abs", [](float a) { return std::abs(a); });
  add_float1(forms, "sqrt", [](float a) { return std::sqrt(a); });
  add_float1(forms, "rcp", [](float a) { return 1.0F / a; });
  add_float2(forms, "div", [](float a, float b) { return a / b; });
  add_float2(forms, "min", [](float a, float b) { return least(a, b); });
  add_float2(forms, "max", [](float a, float b) { return greatest(a, b); });
  add_float2(forms, "min.NaN", [](float a, float b) { return a != a || b != b ? NAN : least(a, b); });
  add_float2(forms, "max.NaN", [](float a, float b) { return a != a || b != b ? NAN : greatest(a, b); });
  add3<float, float, float, float>(forms, "fma.ftz.f32", [](float a, float b, float c) {
    return flushed(fused(flushed(a), flushed(b), flushed(c)));
  });
  add3<float, float, float, float>(forms, "fma.sat.f32",
                                   [](float a, float b, float c) { return saturated(fused(a, b, c)); });
  add3<float, float, float, float>(forms, "fma.ftz.sat.f32", [](float a, float b, float c) {
    return saturated(flushed(fused(flushed(a), flushed(b), flushed(c))));
  });
  add_rounded(forms);
  add_approximate(forms);
}

namespace {

/// Lifts a function of floats to one half, or to each of the two halves of a register.
template <typename H, typename F>
void add_halves1(Forms& forms, const std::string& opcode, const std::string& type, F) {
  using S = std::uint16_t;
  using P = std::uint32_t;
  add1<S, S>(forms, opcode + "." + type, [](S a) { return F{}(a); });
  add1<P, P>(forms, opcode + "." + type + "x2", [](P a) {
    return static_cast<P>(F{}(static_cast<S>(a))) | (static_cast<P>(F{}(static_cast<S>(a >> 16))) << 16);
  });
}

template <typename H, typename F>
void add_halves2(Forms& forms, const std::string& opcode, const std::string& type, F) {
  using S = std::uint16_t;
  using P = std::uint32_t;
  add2<S, S, S>(forms, opcode + "." + type, [](S a, S b) { return F{}(a, b); });
  add2<P, P, P>(forms, opcode + "." + type + "x2", [](P a, P b) {
    return static_cast<P>(F{}(static_cast<S>(a), static_cast<S>(b))) |
           (static_cast<P>(F{}(static_cast<S>(a >> 16), static_cast<S>(b >> 16))) << 16);
  });
}

template <typename H, typename F>
void add_halves3(Forms& forms, const std::string& opcode, const std::string& type, F) {
  using S = std::uint16_t;
  using P = std::uint32_t;
  add3<S, S, S, S>(forms, opcode + "." + type, [](S a, S b, S c) { return F{}(a, b, c); });
  add3<P, P, P, P>(forms, opcode + "." + type + "x2", [](P a, P b, P c) {
    return static_cast<P>(F{}(static_cast<S>(a), static_cast<S>(b), static_cast<S>(c))) |
           (static_cast<P>(F{}(static_cast<S>(a >> 16), static_cast<S>(b >> 16), static_cast<S>(c >> 16))) << 16);
  });
}

template <typename H>
void add_half_type(Forms& forms, const std::string& type) {
  using S = std::uint16_t;
  add_halves2<H>(forms, "add", type, [](S a, S b) { return H::narrow(to_odd(sum_to_odd(H::widen(a), H::widen(b)))); });
  add_halves2<H>(forms, "sub", type, [](S a, S b) { return H::narrow(to_odd(sum_to_odd(H::widen(a), -H::widen(b)))); });
  add_halves2<H>(forms, "mul", type, [](S a, S b) { return H::narrow(to_odd(double{H::widen(a)} * H::widen(b))); });
  add_halves2<H>(forms, "min", type, [](S a, S b) { return H::narrow(least(H::widen(a), H::widen(b))); });
  add_halves2<H>(forms, "max", type, [](S a, S b) { return H::narrow(greatest(H::widen(a), H::widen(b))); });
  add_halves2<H>(forms, "min.NaN", type, [](S a, S b) {
    const float x = H::widen(a), y = H::widen(b);
    return H::narrow(x != x || y != y ? NAN : least(x, y));
  });
  add_halves2<H>(forms, "max.NaN", type, [](S a, S b) {
    const float x = H::widen(a), y = H::widen(b);
    return H::narrow(x != x || y != y ? NAN : greatest(x, y));
  });
  add_halves3<H>(forms, "fma", type, [](S a, S b, S c) {
    return H::narrow(to_odd(sum_to_odd(double{H::widen(a)} * H::widen(b), H::widen(c))));
  });
  add_halves3<H>(forms, "fma.relu", type, [](S a, S b, S c) {
    return H::narrow(greatest(to_odd(sum_to_odd(double{H::widen(a)} * H::widen(b), H::widen(c))), 0.0F));
  });
  add_halves1<H>(forms, "neg", type, [](S a) { return static_cast<S>(a ^ 0x8000U); });
  add_halves1<H>(forms, "abs", type, [](S a) { return static_cast<S>(a & 0x7FFFU); });
  add_halves1<H>(forms, "ex2.approx", type, [](S a) { return H::narrow(std::exp2(H::widen(a))); });
  add_halves1<H>(forms, "tanh.approx", type, [](S a) { return H::narrow(std::tanh(H::widen(a))); });
}

}  // namespace

void add_half_forms(Forms& forms) {
  add_half_type<Half>(forms, "f16");
  add_half_type<Bfloat>(forms, "bf16");
}

}  // namespace apb::ptx
