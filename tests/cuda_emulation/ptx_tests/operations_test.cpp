// Each instruction at random and at special values against plain C++.
#include <algorithm>
#include <bit>
#include <cfenv>
#include <cmath>
#include <cstdint>
#include <limits>
#include <type_traits>

#include "device.hpp"

namespace apb::ptx {
namespace {

using S16 = std::int16_t;
using U16 = std::uint16_t;
using S32 = std::int32_t;
using U32 = std::uint32_t;
using S64 = std::int64_t;
using U64 = std::uint64_t;
__extension__ using Int128 = __int128;
__extension__ using Float128 = __float128;

/// Random bits, small numbers and special values.
template <typename T>
T any_value(Random& random) {
  if constexpr (std::is_floating_point_v<T>) {
    constexpr T infinity = std::numeric_limits<T>::infinity();
    const T special[] = {0,
                         -T{0},
                         1,
                         -1,
                         T(0.5),
                         T(2.5),
                         infinity,
                         -infinity,
                         std::numeric_limits<T>::quiet_NaN(),
                         std::numeric_limits<T>::denorm_min(),
                         std::numeric_limits<T>::max()};
    switch (random.below(4)) {
      case 0:
        return special[random.below(11)];
      case 1:
        return static_cast<T>(random.below(2000) - 1000) / 8;
      case 2:
        return random.normal() * T(1e4);
      default:
        return random.normal();
    }
  } else {
    const T special[] = {0, 1, static_cast<T>(-1), std::numeric_limits<T>::min(), std::numeric_limits<T>::max()};
    switch (random.below(4)) {
      case 0:
        return special[random.below(5)];
      case 1:
        return static_cast<T>(random.below(80) - 10);
      default:
        return static_cast<T>(random.bits());
    }
  }
}

template <typename T>
bool same(T a, T b) {
  if constexpr (std::is_floating_point_v<T>) {
    if (std::isnan(a) && std::isnan(b)) return true;
  }
  return std::memcmp(&a, &b, sizeof(T)) == 0;
}

class OperationsTest : public testing::Test {
 protected:
  static constexpr int n = 1000;  // not a multiple of a warp

  template <typename T>
  std::vector<T> values() {
    std::vector<T> result(n);
    for (auto& value : result) value = any_value<T>(random_);
    return result;
  }

  /// Runs kernel `name` on random values of the function's parameter types.
  template <typename D, typename... A, typename Equal>
  void check(const std::string& name, std::type_identity_t<D (*)(A...)> expected, Equal equal) {
    check_values(name, expected, equal, values<A>()...);
  }
  template <typename D, typename... A>
  void check(const std::string& name, std::type_identity_t<D (*)(A...)> expected) {
    check<D, A...>(name, expected, [](D a, D b) { return same(a, b); });
  }

  template <typename D, typename... A, typename Equal>
  void check_values(const std::string& name, D (*expected)(A...), Equal equal, const std::vector<A>&... inputs) {
    D* d = device_.allocate<D>(n);
    device_.launch(device_.module().kernel(name), {8}, {128}, 0, {}, device_.upload(inputs)..., d, n);
    const auto actual = device_.download(d, n);
    for (std::size_t i = 0; i < n; ++i) {
      const D want = expected(inputs[i]...);
      ASSERT_TRUE(equal(actual[i], want))
          << name << " at " << i << ": " << +actual[i] << " where " << +want << " is expected of" << text(inputs[i]...);
    }
  }

  template <typename... A>
  static std::string text(A... a) {
    std::ostringstream stream;
    ((stream << ' ' << +a), ...);
    return stream.str();
  }

  Random random_;
  Device device_{"operations"};
};

template <typename T>
T quotient(T a, T b) {
  if (b == 0) return static_cast<T>(-1);
  return static_cast<T>(Int128{a} / Int128{b});
}
template <typename T>
T remainder_of(T a, T b) {
  if (b == 0) return a;
  return static_cast<T>(Int128{a} % Int128{b});
}
TEST_F(OperationsTest, Integers) {
  const auto all = [&]<typename T>(T, const std::string& type) {
    const auto name = [&](const char* opcode) { return opcode + ("_" + type); };
    check<T, T, T>(name("add"), [](T a, T b) { return static_cast<T>(Int128{a} + b); });
    check<T, T, T>(name("sub"), [](T a, T b) { return static_cast<T>(Int128{a} - b); });
    check<T, T, T>(name("min"), [](T a, T b) { return a < b ? a : b; });
    check<T, T, T>(name("max"), [](T a, T b) { return a < b ? b : a; });
    check<T, T, T>(name("div"), [](T a, T b) { return quotient(a, b); });
    check<T, T, T>(name("rem"), [](T a, T b) { return remainder_of(a, b); });
    using U = std::make_unsigned_t<T>;
    check<T, T, T>(name("mul_lo"), [](T a, T b) {
      U product = 0;
      for (unsigned k = 0; k < 8 * sizeof(T); ++k) {
        if (((static_cast<U>(b) >> k) & 1) != 0) product = static_cast<U>(product + (static_cast<U>(a) << k));
      }
      return static_cast<T>(product);
    });
    check<T, T, T, T>(name("mad_lo"), [](T a, T b, T c) { return static_cast<T>(U64(a) * U64(b) + U64(c)); });
    check<T, T, U32>(name("shr"), [](T a, U32 b) {
      constexpr U32 width = 8 * sizeof(T);
      if (b >= width) return static_cast<T>(a < 0 ? -1 : 0);
      return static_cast<T>(a >> b);
    });
    check<U32, T, T>(name("lt"), [](T a, T b) { return U32(a < b); });
    check<U32, T, T>(name("le"), [](T a, T b) { return U32(a <= b); });
    check<U32, T, T>(name("ge"), [](T a, T b) { return U32(a >= b); });
    check<U32, T, T>(name("eq"), [](T a, T b) { return U32(a == b); });
    check<U32, T, T>(name("ne"), [](T a, T b) { return U32(a != b); });
    if constexpr (sizeof(T) < 8) {
      check<T, T, T>(name("mul_hi"), [](T a, T b) { return static_cast<T>((S64{a} * S64{b}) >> (8 * sizeof(T))); });
    }
  };
  all(S16{}, "s16");
  all(U16{}, "u16");
  all(S32{}, "s32");
  all(U32{}, "u32");
  all(S64{}, "s64");
  all(U64{}, "u64");
  check<S64, S64, S64>("mul_hi_s64", [](S64 a, S64 b) { return static_cast<S64>((Int128{a} * b) >> 64); });
  check<S32, S32>("neg_s32", [](S32 a) { return static_cast<S32>(0U - U32(a)); });
  check<S64, S64>("abs_s64", [](S64 a) { return a < 0 ? static_cast<S64>(0 - U64(a)) : a; });
  check<S32, S16, S16>("mul_wide_s16", [](S16 a, S16 b) { return a * b; });
  check<U32, U16, U16>("mul_wide_u16", [](U16 a, U16 b) { return U32{a} * b; });
  check<S64, S32, S32>("mul_wide_s32", [](S32 a, S32 b) { return S64{a} * b; });
  check<U64, U32, U32>("mul_wide_u32", [](U32 a, U32 b) { return U64{a} * b; });
  check<S64, S32, S32, S64>("mad_wide_s32", [](S32 a, S32 b, S64 c) { return static_cast<S64>(Int128{a} * b + c); });
  check<U32, U32, U32, U32>("mad_hi_u32", [](U32 a, U32 b, U32 c) { return static_cast<U32>((U64{a} * b >> 32) + c); });
  check<S32, S32, S32, S32>("sad_s32", [](S32 a, S32 b, S32 c) {
    const S64 distance = S64{a} - b;
    return static_cast<S32>(c + (distance < 0 ? -distance : distance));
  });
  check<S32, S32, S32, S32>("dp4a_s32", [](S32 a, S32 b, S32 c) {
    S64 sum = c;
    for (int k = 0; k < 32; k += 8) sum += S64{static_cast<signed char>(a >> k)} * static_cast<signed char>(b >> k);
    return static_cast<S32>(sum);
  });
  check<S32, S32, S32>("add_sat_s32", [](S32 a, S32 b) {
    return static_cast<S32>(std::clamp<S64>(S64{a} + b, -2147483648LL, 2147483647LL));
  });
}

U32 bits_of(U32 value, U32 first, U32 count) {
  U32 result = 0;
  for (U32 k = 0; k < count && k < 32; ++k) result |= (first + k < 32 ? (value >> (first + k)) & 1U : 0U) << k;
  return result;
}

TEST_F(OperationsTest, Bits) {
  const auto all = [&]<typename T>(T, const std::string& type) {
    check<T, T, T>("and_" + type, [](T a, T b) { return static_cast<T>(a & b); });
    check<T, T, T>("or_" + type, [](T a, T b) { return static_cast<T>(a | b); });
    check<T, T, T>("xor_" + type, [](T a, T b) { return static_cast<T>(a ^ b); });
    check<T, T>("not_" + type, [](T a) { return static_cast<T>(std::numeric_limits<T>::max() - a); });
    check<T, T, U32>("shl_" + type,
                     [](T a, U32 b) { return b >= 8 * sizeof(T) ? T{0} : static_cast<T>(Int128{a} << b); });
  };
  all(U16{}, "b16");
  all(U32{}, "b32");
  all(U64{}, "b64");
  check<U32, U32>("brev_b32", [](U32 a) {
    U32 result = 0;
    for (int k = 0; k < 32; ++k, a /= 2) result = result * 2 + a % 2;
    return result;
  });
  check<U64, U64>("brev_b64", [](U64 a) {
    U64 result = 0;
    for (int k = 0; k < 64; ++k, a /= 2) result = result * 2 + a % 2;
    return result;
  });
  check<U32, U32>("clz_b32", [](U32 a) { return a == 0 ? 32U : U32(31 - std::ilogb(double(a))); });
  check<U32, U64>("clz_b64", [](U64 a) {
    U32 count = 0;
    for (int k = 63; k >= 0 && ((a >> k) & 1) == 0; --k) ++count;
    return count;
  });
  check<U32, U32>("popc_b32", [](U32 a) { return U32(__builtin_popcount(a)); });
  check<U32, U64>("popc_b64", [](U64 a) { return U32(__builtin_popcountll(a)); });
  check<U32, U32>("bfind_u32", [](U32 a) { return a == 0 ? 0xFFFFFFFFU : U32(std::ilogb(double(a))); });
  check<U32, S32>("bfind_s32", [](S32 a) {
    const U32 bits = U32(a < 0 ? ~a : a);
    return bits == 0 ? 0xFFFFFFFFU : U32(std::ilogb(double(bits)));
  });
  check<U32, U32, U32, U32>("bfe_u32", [](U32 a, U32 b, U32 c) { return bits_of(a, b & 255U, c & 255U); });
  check<S32, S32, U32, U32>("bfe_s32", [](S32 a, U32 b, U32 c) {
    b &= 255U;
    c &= 255U;
    if (c == 0) return 0;
    S32 result = 0;  // bits past the field repeat its highest, bits past the word the sign
    for (U32 k = 0; k < 32; ++k) {
      const U32 from = std::min(b + std::min(k, c - 1), 31U);
      result |= static_cast<S32>((U32(a) >> from & 1U) << k);
    }
    return result;
  });
  check<U64, U64, U32, U32>("bfe_u64", [](U64 a, U32 b, U32 c) {
    U64 result = 0;
    for (U32 k = 0; k < (c & 255U) && k < 64; ++k) result |= ((b & 255U) + k < 64 ? a >> ((b & 255U) + k) & 1 : 0) << k;
    return result;
  });
  check<U32, U32, U32, U32>("bfi_b32", [](U32 a, U32 b, U32 c) {
    const U32 first = c & 63U;
    for (U32 k = 0; k < (c >> 6 & 63U) && first + k < 32; ++k) {
      b = (b & ~(1U << (first + k))) | ((k < 32 ? a >> k & 1U : 0U) << (first + k));
    }
    return b;
  });
  check<U32, U32, U32, U32>("prmt_b32", [](U32 a, U32 b, U32 c) {
    unsigned char bytes[8];
    std::memcpy(bytes, &a, 4);
    std::memcpy(bytes + 4, &b, 4);
    U32 result = 0;
    for (unsigned k = 0; k < 4; ++k) {
      const unsigned pick = c >> (4 * k) & 15U;
      const unsigned char byte = bytes[pick % 8];
      result |= U32(pick < 8 ? byte : byte >= 128 ? 255 : 0) << (8 * k);
    }
    return result;
  });
  check<U32, U32, U32, U32>("shf_l_wrap",
                            [](U32 a, U32 b, U32 c) { return c % 32 == 0 ? b : b << c % 32 | a >> (32 - c % 32); });
  check<U32, U32, U32, U32>("shf_r_wrap",
                            [](U32 a, U32 b, U32 c) { return c % 32 == 0 ? a : b << (32 - c % 32) | a >> c % 32; });
  check<U32, U32, U32, U32>("shf_l_clamp", [](U32 a, U32 b, U32 c) {
    return c >= 32 ? a : c == 0 ? b : b << c | a >> (32 - c);
  });
  check<U32, U32, U32, U32>("shf_r_clamp", [](U32 a, U32 b, U32 c) {
    return c >= 32 ? b : c == 0 ? a : b << (32 - c) | a >> c;
  });
  check<U32, U32, U32, U32>("lop3_1b", [](U32 a, U32 b, U32 c) {
    U32 result = 0;
    for (unsigned k = 0; k < 32; ++k) {
      const unsigned row = (a >> k & 1U) * 4 + (b >> k & 1U) * 2 + (c >> k & 1U);
      result |= (0x1BU >> row & 1U) << k;
    }
    return result;
  });
  check<U32, U32, U32, S32>("slct_u32", [](U32 a, U32 b, S32 c) { return c < 0 ? b : a; });
  check<U32, S32, S32, S32>("setp_pair", [](S32 a, S32 b, S32 c) { return c > 0 ? 0U : a < b ? 1U : 2U; });
}

/// The float operation under a rounding mode of the processor.
template <typename F>
float rounded(int mode, F f) {
  std::fesetround(mode);
  const volatile float result = f();  // so that it is not moved
  std::fesetround(FE_TONEAREST);
  return result;
}

TEST_F(OperationsTest, Floats) {
  const auto all = [&]<typename T>(T, const std::string& type) {
    check<T, T, T>("add_" + type, [](T a, T b) { return a + b; });
    check<T, T, T>("sub_" + type, [](T a, T b) { return a - b; });
    check<T, T, T>("mul_" + type, [](T a, T b) { return a * b; });
    check<T, T, T>("div_" + type, [](T a, T b) { return a / b; });
    check<T, T, T, T>("fma_" + type, [](T a, T b, T c) { return std::fma(a, b, c); });
    check<T, T>("sqrt_" + type, [](T a) { return std::sqrt(a); });
    check<T, T>("rcp_" + type, [](T a) { return 1 / a; });
    check<T, T>("neg_" + type, [](T a) { return -a; });
    check<T, T>("abs_" + type, [](T a) { return std::abs(a); });
    const auto equal = [](T a, T b) { return a == b || (a != a && b != b); };  // of zeros, either
    check<T, T, T>(
        "min_" + type, [](T a, T b) { return std::fmin(a, b); }, equal);
    check<T, T, T>(
        "max_" + type, [](T a, T b) { return std::fmax(a, b); }, equal);
    check<U32, T, T>("lt_" + type, [](T a, T b) { return U32(a < b); });
    check<U32, T, T>("eq_" + type, [](T a, T b) { return U32(a == b); });
    check<U32, T, T>("ne_" + type, [](T a, T b) { return U32(a != b && !std::isunordered(a, b)); });
    check<U32, T, T>("geu_" + type, [](T a, T b) { return U32(a >= b || std::isunordered(a, b)); });
    check<U32, T, T>("neu_" + type, [](T a, T b) { return U32(a != b); });
    check<U32, T, T>("nan_" + type, [](T a, T b) { return U32(std::isunordered(a, b)); });
  };
  all(float{}, "f32");
  all(double{}, "f64");
  check<float, float, float>(
      "max_nan_f32",
      [](float a, float b) {
        return std::isunordered(a, b) ? std::numeric_limits<float>::quiet_NaN() : std::fmax(a, b);
      },
      [](float a, float b) { return a == b || (a != a && b != b); });
  check<float, float, float>("add_sat_f32", [](float a, float b) {
    const float sum = a + b;
    return sum > 1 ? 1.0F : sum > 0 ? sum : 0.0F;
  });
}

TEST_F(OperationsTest, Roundings) {
  std::vector<float> a(n), b(n);
  for (auto& value : a) value = random_.normal();
  for (auto& value : b) value = random_.normal() * 1e-3F;
  const auto equal = [](float x, float y) { return same(x, y); };
  using F2 = float (*)(float, float);
  check_values("add_rz_f32", F2([](float x, float y) {
                 volatile float u = x, v = y;
                 return rounded(FE_TOWARDZERO, [&] { return u + v; });
               }),
               equal, a, b);
  check_values("add_rm_f32", F2([](float x, float y) {
                 volatile float u = x, v = y;
                 return rounded(FE_DOWNWARD, [&] { return u + v; });
               }),
               equal, a, b);
  check_values("mul_rp_f32", F2([](float x, float y) {
                 volatile float u = x, v = y;
                 return rounded(FE_UPWARD, [&] { return u * v; });
               }),
               equal, a, b);
  for (auto& value : b) value = std::ldexp(random_.normal(), -126);
  check_values("mul_ftz_f32", F2([](float x, float y) {
                 const auto flush = [](float v) {
                   return std::fpclassify(v) == FP_SUBNORMAL ? std::copysign(0.0F, v) : v;
                 };
                 return flush(flush(x) * flush(y));
               }),
               equal, a, b);
}

TEST_F(OperationsTest, Approximations) {
  std::vector<float> positive(n), small(n);
  for (auto& value : positive) value = std::exp(random_.normal() * 3);
  for (auto& value : small) value = random_.normal() * 3;
  const auto near = [](float x, float y) { return std::abs(x - y) <= 2e-6F * std::abs(y) + 1e-6F; };
  using F1 = float (*)(float);
  using F2 = float (*)(float, float);
  check_values("ex2_f32", F1([](float a) { return float(std::pow(2.0, a)); }), near, small);
  check_values("lg2_f32", F1([](float a) { return float(std::log(double(a)) / std::log(2.0)); }), near, positive);
  check_values("sin_f32", F1([](float a) { return float(std::sin(double(a))); }), near, small);
  check_values("cos_f32", F1([](float a) { return float(std::cos(double(a))); }), near, small);
  check_values("tanh_f32", F1([](float a) { return float(std::tanh(double(a))); }), near, small);
  check_values("rsqrt_f32", F1([](float a) { return float(1 / std::sqrt(double(a))); }), near, positive);
  check_values("rcp_approx_f32", F1([](float a) { return float(1 / double(a)); }), near, positive);
  check_values("div_full_f32", F2([](float a, float b) { return float(double(a) / b); }), near, small, positive);
  std::vector<float> ends(n, -std::numeric_limits<float>::infinity());
  check_values(
      "ex2_f32", F1([](float) { return 0.0F; }), [](float x, float y) { return same(x, y); }, ends);
}

float from_bfloat(U16 bits) { return std::bit_cast<float>(U32{bits} << 16); }

/// The nearest bfloat, ties to even, found by comparing distances.
U16 to_bfloat(Float128 value) {
  const auto nearest = static_cast<float>(value);
  if (std::isnan(nearest)) return 0x7FFF;
  if (std::isinf(nearest)) return static_cast<U16>(std::bit_cast<U32>(nearest) >> 16);
  const U16 low = static_cast<U16>(std::bit_cast<U32>(nearest) >> 16);  // toward zero, or the float itself
  U16 best = low;
  Float128 best_distance = 1e300;
  for (const int candidate : {low - 1, low + 0, low + 1}) {
    const auto bits = static_cast<U16>(candidate);
    if (((bits ^ low) & 0x8000U) != 0) continue;
    // Infinity stands for the power of two that would come next.
    const Float128 number =
        std::isinf(from_bfloat(bits)) ? Float128{0x1p128} * (bits >= 0x8000U ? -1 : 1) : Float128{from_bfloat(bits)};
    const Float128 distance = number > value ? number - value : value - number;
    if (distance < best_distance || (distance == best_distance && bits % 2 == 0)) {
      best = bits;
      best_distance = distance;
    }
  }
  return best;
}

__extension__ using F16 = _Float16;
float from_half(U16 bits) { return static_cast<float>(std::bit_cast<F16>(bits)); }
U16 to_half(Float128 value) {
  const auto half = static_cast<F16>(value);
  return half != half ? U16{0x7FFF} : std::bit_cast<U16>(half);
}

/// a * b + c, near enough that a later rounding to 16 bits is that of the exact result: where one summand is too small
/// to be held beside the other, only its sign counts, which breaks ties.
Float128 fused(Float128 a, Float128 b, Float128 c) {
  const auto magnitude = [](Float128 x) { return x < 0 ? -x : x; };
  const Float128 product = a * b;  // exact
  const bool product_is_larger = magnitude(product) > magnitude(c);
  const Float128 large = product_is_larger ? product : c;
  const Float128 small = product_is_larger ? c : product;
  const bool finite = magnitude(large) < Float128{1e300};
  if (!finite || small == 0 || !(magnitude(small) < magnitude(large) * Float128{0x1p-30})) return product + c;
  const Float128 little = magnitude(large) * Float128{0x1p-50};
  return small > 0 ? large + little : large - little;
}

TEST_F(OperationsTest, Halves) {
  check<U32, U32, U32, U32>(
      "fma_bf16x2",
      [](U32 a, U32 b, U32 c) {
        U32 result = 0;
        for (int k = 0; k < 32; k += 16) {
          const auto part = [&](U32 word) { return Float128{from_bfloat(static_cast<U16>(word >> k))}; };
          result |= U32{to_bfloat(fused(part(a), part(b), part(c)))} << k;
        }
        return result;
      },
      [](U32 a, U32 b) {
        const auto equal = [](U16 x, U16 y) { return x == y || ((x & 0x7FFFU) == 0 && (y & 0x7FFFU) == 0); };
        return equal(static_cast<U16>(a), static_cast<U16>(b)) &&
               equal(static_cast<U16>(a >> 16), static_cast<U16>(b >> 16));
      });
  check<U32, U32, U32, U32>("fma_f16x2", [](U32 a, U32 b, U32 c) {
    U32 result = 0;
    for (int k = 0; k < 32; k += 16) {
      const auto part = [&](U32 word) { return Float128{from_half(static_cast<U16>(word >> k))}; };
      result |= U32{to_half(fused(part(a), part(b), part(c)))} << k;
    }
    return result;
  });
  check<U32, U32, U32>("add_f16x2", [](U32 a, U32 b) {
    U32 result = 0;
    for (int k = 0; k < 32; k += 16) {
      const auto part = [&](U32 word) { return Float128{from_half(static_cast<U16>(word >> k))}; };
      result |= U32{to_half(part(a) + part(b))} << k;
    }
    return result;
  });
  check<U16, U16, U16>("mul_f16", [](U16 a, U16 b) { return to_half(Float128{from_half(a)} * from_half(b)); });
  check<U32, U32>("neg_bf16x2", [](U32 a) { return a ^ 0x80008000U; });
  check<U32, U32, U32>("max_bf16x2", [](U32 a, U32 b) {
    U32 result = 0;
    for (int k = 0; k < 32; k += 16) {
      const float x = from_bfloat(static_cast<U16>(a >> k)), y = from_bfloat(static_cast<U16>(b >> k));
      const float larger = std::isnan(x) ? y : std::isnan(y) ? x : x == y ? (std::signbit(x) ? y : x) : std::max(x, y);
      result |= (std::isnan(larger) ? 0x7FFFU : std::bit_cast<U32>(larger) >> 16) << k;
    }
    return result;
  });
}

template <typename D, typename F>
D clamped(F value) {
  if (std::isnan(value)) return 0;
  const auto wide = static_cast<long double>(value);
  if (wide >= static_cast<long double>(std::numeric_limits<D>::max())) return std::numeric_limits<D>::max();
  if (wide <= static_cast<long double>(std::numeric_limits<D>::min())) return std::numeric_limits<D>::min();
  return static_cast<D>(value);
}

TEST_F(OperationsTest, Conversions) {
  check<S32, float>("cvt_rni_s32_f32", [](float a) { return clamped<S32>(std::nearbyint(a)); });
  check<S32, float>("cvt_rzi_s32_f32", [](float a) { return clamped<S32>(std::trunc(a)); });
  check<S64, float>("cvt_rmi_s64_f32", [](float a) { return clamped<S64>(std::floor(a)); });
  check<U32, double>("cvt_rpi_u32_f64", [](double a) { return clamped<U32>(std::ceil(a)); });
  check<U64, float>("cvt_rzi_u64_f32", [](float a) { return clamped<U64>(std::trunc(a)); });
  check<float, S32>("cvt_rn_f32_s32", [](S32 a) { return static_cast<float>(a); });
  check<float, U64>("cvt_rz_f32_u64", [](U64 a) {
    int shift = 0;
    while ((a >> shift) >= (1U << 24)) ++shift;
    return std::ldexp(static_cast<float>(a >> shift), shift);
  });
  check<float, S32>("cvt_rp_f32_s32", [](S32 a) {
    volatile S32 value = a;
    return rounded(FE_UPWARD, [&] { return static_cast<float>(value); });
  });
  check<double, U64>("cvt_rn_f64_u64", [](U64 a) { return static_cast<double>(a); });
  check<float, double>("cvt_rn_f32_f64", [](double a) { return static_cast<float>(a); });
  check<float, double>("cvt_rz_f32_f64", [](double a) {
    volatile double value = a;
    return rounded(FE_TOWARDZERO, [&] { return static_cast<float>(value); });
  });
  check<float, float>("cvt_rmi_f32_f32", [](float a) { return std::floor(a); });
  check<double, float>("cvt_f64_f32", [](float a) { return double{a}; });
  check<S64, S32>("cvt_s64_s32", [](S32 a) { return S64{a}; });
  check<U64, U32>("cvt_u64_u32", [](U32 a) { return U64{a}; });
  check<U32, U64>("cvt_u32_u64", [](U64 a) { return static_cast<U32>(a % (U64{1} << 32)); });
  check<S32, S32>("cvt_s32_s8", [](S32 a) { return (a & 255) - ((a & 128) != 0 ? 256 : 0); });
  check<U32, U32>("cvt_u32_u8", [](U32 a) { return a % 256; });
  check<S16, S32>("cvt_s16_s32", [](S32 a) { return static_cast<S16>(a); });
  check<U32, S32>("cvt_sat_u8_s32", [](S32 a) { return static_cast<U32>(std::clamp(a, 0, 255)); });
  check<U16, float>("cvt_rn_bf16_f32", [](float a) { return to_bfloat(a); });
  check<U16, float>("cvt_rn_f16_f32", [](float a) { return to_half(a); });
  check<float, U16>("cvt_f32_f16", [](U16 a) { return from_half(a); });
  check<U16, S32>("cvt_rn_f16_s32", [](S32 a) { return to_half(a); });
  check<U32, float, float>("cvt_rn_bf16x2_f32",
                           [](float a, float b) { return (U32{to_bfloat(a)} << 16) | to_bfloat(b); });
  check<U32, float, float>("cvt_rn_f16x2_f32", [](float a, float b) { return (U32{to_half(a)} << 16) | to_half(b); });
  check<U32, float, float>("cvt_rz_bf16x2_f32", [](float a, float b) {
    const auto cut = [](float v) { return std::isnan(v) ? 0x7FFFU : std::bit_cast<U32>(v) >> 16; };
    return (cut(a) << 16) | cut(b);
  });
}

}  // namespace
}  // namespace apb::ptx
