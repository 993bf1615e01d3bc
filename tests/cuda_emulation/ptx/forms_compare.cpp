// Comparisons, selection, packing, and the table of all opcodes.
#include <cmath>
#include <string>

#include "ptx/forms.hpp"
#include "ptx/half.hpp"

namespace apb::ptx {
namespace {

template <typename F, typename T>
APB_VECTORIZED void compare(Warp& warp, const Operation& operation) {
  const T* a = warp.at<T>(operation.operand[1]);
  const T* b = warp.at<T>(operation.operand[2]);
  std::uint32_t result = 0;
  for (int i = 0; i < lanes; ++i) result |= (F{}(a[i], b[i]) ? 1U : 0U) << i;
  auto& d = warp.predicate(operation.operand[0]);
  d = (d & ~warp.active) | (result & warp.active);
}

/// set: all ones (or 1.0) where the comparison holds.
template <typename F, typename D, typename T>
void add_set(Forms& forms, const std::string& name, D yes) {
  if (yes == D{1}) {
    add2<D, T, T>(forms, name, [](T a, T b) { return F{}(a, b) ? D{1} : D{0}; });
  } else {
    add2<D, T, T>(forms, name, [](T a, T b) { return F{}(a, b) ? static_cast<D>(-1) : D{0}; });
  }
}

template <typename T, typename F>
void add_comparison(Forms& forms, const std::string& opcode, const std::string& type, F) {
  const auto bytes = static_cast<std::uint8_t>(sizeof(T));
  forms["setp." + opcode + "." + type] = {compare<F, T>, {1, bytes, bytes}};
  if (sizeof(T) == 4) {
    add_set<F, std::int32_t, T>(forms, "set." + opcode + ".u32." + type, -1);
    add_set<F, std::int32_t, T>(forms, "set." + opcode + ".s32." + type, -1);
    add_set<F, float, T>(forms, "set." + opcode + ".f32." + type, 1.0F);
  }
}

template <typename T>
void add_orders(Forms& forms, const std::string& type, bool also_unsigned_names) {
  add_comparison<T>(forms, "eq", type, [](T a, T b) { return a == b; });
  add_comparison<T>(forms, "ne", type, [](T a, T b) { return a < b || a > b; });  // false for NaN
  add_comparison<T>(forms, "lt", type, [](T a, T b) { return a < b; });
  add_comparison<T>(forms, "le", type, [](T a, T b) { return a <= b; });
  add_comparison<T>(forms, "gt", type, [](T a, T b) { return a > b; });
  add_comparison<T>(forms, "ge", type, [](T a, T b) { return a >= b; });
  if (!also_unsigned_names) return;
  for (const auto& [name, same] : {std::pair{"lo", "lt"}, {"ls", "le"}, {"hi", "gt"}, {"hs", "ge"}}) {
    forms["setp." + std::string(name) + "." + type] = forms["setp." + std::string(same) + "." + type];
  }
}

template <typename T>
void add_unordered(Forms& forms, const std::string& type) {
  add_comparison<T>(forms, "equ", type, [](T a, T b) { return !(a < b || a > b); });
  add_comparison<T>(forms, "neu", type, [](T a, T b) { return !(a == b); });
  add_comparison<T>(forms, "ltu", type, [](T a, T b) { return !(a >= b); });
  add_comparison<T>(forms, "leu", type, [](T a, T b) { return !(a > b); });
  add_comparison<T>(forms, "gtu", type, [](T a, T b) { return !(a <= b); });
  add_comparison<T>(forms, "geu", type, [](T a, T b) { return !(a < b); });
  add_comparison<T>(forms, "num", type, [](T a, T b) { return a == a && b == b; });
  add_comparison<T>(forms, "nan", type, [](T a, T b) { return a != a || b != b; });
}

/// Halves are compared as floats.
template <typename H, typename F>
void add_half_comparison(Forms& forms, const std::string& opcode, const std::string& type, F) {
  const auto f = [](std::uint16_t a, std::uint16_t b) { return F{}(H::widen(a), H::widen(b)); };
  forms["setp." + opcode + "." + type] = {compare<decltype(f), std::uint16_t>, {1, 2, 2}};
}

template <typename H>
void add_half_orders(Forms& forms, const std::string& type) {
  add_half_comparison<H>(forms, "eq", type, [](float a, float b) { return a == b; });
  add_half_comparison<H>(forms, "ne", type, [](float a, float b) { return a < b || a > b; });
  add_half_comparison<H>(forms, "lt", type, [](float a, float b) { return a < b; });
  add_half_comparison<H>(forms, "le", type, [](float a, float b) { return a <= b; });
  add_half_comparison<H>(forms, "gt", type, [](float a, float b) { return a > b; });
  add_half_comparison<H>(forms, "ge", type, [](float a, float b) { return a >= b; });
  add_half_comparison<H>(forms, "neu", type, [](float a, float b) { return !(a == b); });
  add_half_comparison<H>(forms, "nan", type, [](float a, float b) { return a != a || b != b; });
  add_half_comparison<H>(forms, "num", type, [](float a, float b) { return a == a && b == b; });
}

template <typename T>
APB_VECTORIZED void select(Warp& warp, const Operation& operation) {
  T* d = warp.at<T>(operation.operand[0]);
  const T* a = warp.at<T>(operation.operand[1]);
  const T* b = warp.at<T>(operation.operand[2]);
  const std::uint32_t yes = warp.predicate(operation.operand[3]);
  const std::uint32_t active = warp.active;
#pragma GCC ivdep
  for (int i = 0; i < lanes; ++i) d[i] = lane_in(active, i) ? (lane_in(yes, i) ? a[i] : b[i]) : d[i];
}

template <typename W, typename N, unsigned Count>
void pack(Warp& warp, const Operation& operation) {
  W* d = warp.at<W>(operation.operand[0]);
  W packed[lanes] = {};
  for (unsigned k = 0; k < Count; ++k) {
    const N* part = warp.at<N>(operation.operand[1 + k]);
    for (int i = 0; i < lanes; ++i) packed[i] = static_cast<W>(packed[i] | (W{part[i]} << (8 * sizeof(N) * k)));
  }
  for (int i = 0; i < lanes; ++i) d[i] = lane_in(warp.active, i) ? packed[i] : d[i];
}

template <typename W, typename N, unsigned Count>
void unpack(Warp& warp, const Operation& operation) {
  W whole[lanes];
  for (int i = 0; i < lanes; ++i) whole[i] = warp.at<W>(operation.operand[Count])[i];
  for (unsigned k = 0; k < Count; ++k) {
    N* part = warp.at<N>(operation.operand[k]);
    for (int i = 0; i < lanes; ++i) {
      part[i] = lane_in(warp.active, i) ? static_cast<N>(whole[i] >> (8 * sizeof(N) * k)) : part[i];
    }
  }
}

/// A test of one value.
template <typename F, typename T>
void test(Warp& warp, const Operation& operation) {
  const T* a = warp.at<T>(operation.operand[1]);
  std::uint32_t result = 0;
  for (int i = 0; i < lanes; ++i) result |= (F{}(a[i]) ? 1U : 0U) << i;
  auto& d = warp.predicate(operation.operand[0]);
  d = (d & ~warp.active) | (result & warp.active);
}

template <typename T, typename F>
void add_test(Forms& forms, const std::string& name, F) {
  forms[name] = {test<F, T>, {1, sizeof(T)}};
}

template <typename T>
void add_float_tests(Forms& forms, const std::string& type) {
  add_test<T>(forms, "testp.finite." + type, [](T a) { return std::isfinite(a); });
  add_test<T>(forms, "testp.infinite." + type, [](T a) { return std::isinf(a); });
  add_test<T>(forms, "testp.number." + type, [](T a) { return !std::isnan(a); });
  add_test<T>(forms, "testp.notanumber." + type, [](T a) { return std::isnan(a); });
  add_test<T>(forms, "testp.normal." + type, [](T a) { return std::isnormal(a); });
  add_test<T>(forms, "testp.subnormal." + type, [](T a) { return std::fpclassify(a) == FP_SUBNORMAL; });
}

template <typename T>
void add_selection(Forms& forms, const std::vector<std::string>& types) {
  const auto bytes = static_cast<std::uint8_t>(sizeof(T));
  for (const auto& type : types) {
    forms["selp." + type] = {select<T>, {bytes, bytes, bytes, 1}};
    add3<T, T, T, std::int32_t>(forms, "slct." + type + ".s32",
                                [](T a, T b, std::int32_t c) { return c >= 0 ? a : b; });
    add3<T, T, T, float>(forms, "slct." + type + ".f32", [](T a, T b, float c) { return c >= 0 ? a : b; });
  }
  add1<T, T>(forms, "mov." + std::to_string(sizeof(T)), [](T a) { return a; });
}

template <typename D, typename U, typename S>
void add_resize(Forms& forms) {
  if constexpr (sizeof(D) != sizeof(U)) {
    const auto name = "resize." + std::to_string(sizeof(D)) + ".";
    add1<D, U>(forms, name + "u" + std::to_string(sizeof(U)), [](U a) { return static_cast<D>(a); });
    add1<D, S>(forms, name + "s" + std::to_string(sizeof(S)), [](S a) { return static_cast<D>(a); });
  }
}

template <typename D>
void add_resizes(Forms& forms) {
  add_resize<D, std::uint16_t, std::int16_t>(forms);
  add_resize<D, std::uint32_t, std::int32_t>(forms);
  add_resize<D, std::uint64_t, std::int64_t>(forms);
}

/// cvta: the windows of generic addresses.
void add_windows(Forms& forms) {
  using U = std::uint64_t;
  for (const std::string type : {"u64", "b64"}) {
    for (const std::string space : {"global", "const"}) {
      add1<U, U>(forms, "cvta." + space + "." + type, [](U a) { return a; });
      add1<U, U>(forms, "cvta.to." + space + "." + type, [](U a) { return a; });
    }
    for (const std::string space : {"shared", "shared::cta"}) {
      add1<U, U>(forms, "cvta." + space + "." + type, [](U a) { return a + shared_window; });
      add1<U, U>(forms, "cvta.to." + space + "." + type, [](U a) { return a - shared_window; });
    }
    add1<U, U>(forms, "cvta.local." + type, [](U a) { return a + local_window; });
    add1<U, U>(forms, "cvta.to.local." + type, [](U a) { return a - local_window; });
    for (const std::string space : {"param", "param::entry"}) {
      add1<U, U>(forms, "cvta." + space + "." + type, [](U a) { return a + param_window; });
      add1<U, U>(forms, "cvta.to." + space + "." + type, [](U a) { return a - param_window; });
    }
  }
}

void add_space_tests(Forms& forms) {
  using U = std::uint64_t;
  add_test<U>(forms, "isspacep.global", [](U a) { return (a & window_bits) == 0; });
  add_test<U>(forms, "isspacep.shared", [](U a) { return (a & window_bits) == shared_window; });
  add_test<U>(forms, "isspacep.local", [](U a) { return (a & window_bits) == local_window; });
}

}  // namespace

void add_compare_forms(Forms& forms) {
  for (const std::string prefix : {"u", "b"}) {
    add_orders<std::uint16_t>(forms, prefix + "16", true);
    add_orders<std::uint32_t>(forms, prefix + "32", true);
    add_orders<std::uint64_t>(forms, prefix + "64", true);
  }
  add_orders<std::int16_t>(forms, "s16", false);
  add_orders<std::int32_t>(forms, "s32", false);
  add_orders<std::int64_t>(forms, "s64", false);
  add_orders<float>(forms, "f32", false);
  add_orders<double>(forms, "f64", false);
  add_unordered<float>(forms, "f32");
  add_unordered<double>(forms, "f64");
  add_float_tests<float>(forms, "f32");
  add_float_tests<double>(forms, "f64");
  add_space_tests(forms);
  add_half_orders<Half>(forms, "f16");
  add_half_orders<Bfloat>(forms, "bf16");
}

void add_move_forms(Forms& forms) {
  add_selection<std::uint16_t>(forms, {"b16", "u16", "s16", "f16", "bf16"});
  add_selection<std::uint32_t>(forms, {"b32", "u32", "s32", "f32"});
  add_selection<std::uint64_t>(forms, {"b64", "u64", "s64", "f64"});
  using S = std::uint16_t;
  using I = std::uint32_t;
  using L = std::uint64_t;
  forms["pack.4.2"] = {pack<I, S, 2>, {}};
  forms["pack.8.4"] = {pack<L, I, 2>, {}};
  forms["pack.8.2"] = {pack<L, S, 4>, {}};
  forms["unpack.4.2"] = {unpack<I, S, 2>, {}};
  forms["unpack.8.4"] = {unpack<L, I, 2>, {}};
  forms["unpack.8.2"] = {unpack<L, S, 4>, {}};
  add_resizes<S>(forms);
  add_resizes<I>(forms);
  add_resizes<L>(forms);
  add_windows(forms);
}

const Forms& forms() {
  static const Forms table = [] {
    Forms all;
    add_integer_forms(all);
    add_bit_forms(all);
    add_float_forms(all);
    add_half_forms(all);
    add_compare_forms(all);
    add_move_forms(all);
    return all;
  }();
  return table;
}

}  // namespace apb::ptx
