#include "cpu/softmax.hpp"

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <cstring>
#include <limits>

#include "cpu/vectorize.hpp"

// Vectors wider than the processor's are passed between functions here, but only between inlined ones.
#pragma GCC diagnostic ignored "-Wpsabi"

namespace apb::cpu {
namespace {

// GCC's vector types, of as many lanes as a register of the instruction set has: wider ones become scalar code.
struct Avx512 {
  static constexpr int lanes = 16;
  using Floats = float __attribute__((vector_size(64)));
  using Words = std::uint32_t __attribute__((vector_size(64)));
  using Halves = std::uint16_t __attribute__((vector_size(32)));
};
struct Avx2 {
  static constexpr int lanes = 8;
  using Floats = float __attribute__((vector_size(32)));
  using Words = std::uint32_t __attribute__((vector_size(32)));
  using Halves = std::uint16_t __attribute__((vector_size(16)));
};
struct AnyX86 {
  static constexpr int lanes = 4;
  using Floats = float __attribute__((vector_size(16)));
  using Words = std::uint32_t __attribute__((vector_size(16)));
  using Halves = std::uint16_t __attribute__((vector_size(8)));
};

/// std::bit_cast that is inlined even without optimisation: a call would pass wide registers between functions that are
/// compiled for different instruction sets.
template <typename To, typename From>
[[gnu::always_inline]] inline To bits_as(const From& from) {
  static_assert(sizeof(To) == sizeof(From));
  To to;
  std::memcpy(&to, &from, sizeof(to));
  return to;
}

constexpr float infinity = std::numeric_limits<float>::infinity();

template <typename Set>
[[gnu::always_inline]] inline auto load(const float* source) {
  typename Set::Floats result;
  std::memcpy(&result, source, sizeof(result));
  return result;
}

/// Stores weights and returns them as stored. The NaN that arithmetic makes has a short mantissa, so that rounding
/// (to nearest even) keeps it.
template <typename Set>
[[gnu::always_inline]] inline auto store(const typename Set::Floats& weights, float* out) {
  std::memcpy(out, &weights, sizeof(weights));
  return weights;
}
template <typename Set>
[[gnu::always_inline]] inline auto store(const typename Set::Floats& weights, Bf16* out) {
  const auto bits = bits_as<typename Set::Words>(weights);
  const auto rounded = bits + 0x7FFFU + ((bits >> 16U) & 1U);
  const auto upper = __builtin_convertvector(rounded >> 16U, typename Set::Halves);
  std::memcpy(static_cast<void*>(out), &upper, sizeof(upper));
  return bits_as<typename Set::Floats>(rounded & 0xFFFF0000U);
}

// Minimax polynomials of 2^x on [-1/2, 1/2].
struct Precise {  // relative error 2e-9
  template <typename Value>
  [[gnu::always_inline]] static Value polynomial(const Value& x) {
    const Value high = (0.00015345812F * x + 0.0013399931F) * x + 0.009618489F;
    return (((high * x + 0.055503286F) * x + 0.24022646F) * x + 0.6931472F) * x + 1.0F;
  }
};
struct Fast {  // relative error 7.5e-5
  template <typename Value>
  [[gnu::always_inline]] static Value polynomial(const Value& x) {
    return ((0.05517167F * x + 0.24261113F) * x + 0.69326097F) * x + 0.99992806F;
  }
};

/// 2^x for x <= 0; exactly 0 where that is no normal number. NaN stays NaN.
template <typename Accuracy, typename Set>
[[gnu::always_inline]] inline auto power_of_two(const typename Set::Floats& x) {
  using Floats = typename Set::Floats;
  using Words = typename Set::Words;
  constexpr float rounder = 0x1.8p23F;      // adding it leaves the nearest integer in the lowest bits
  const Floats lowest = Floats{} - 127.0F;  // `power` below is 0 here
  const Floats clamped = x < lowest ? lowest : x;
  const Floats shifted = clamped + rounder;
  const auto power = bits_as<Floats>((bits_as<Words>(shifted) << 23U) + 0x3F800000U);
  return Accuracy::polynomial(clamped - (shifted - rounder)) * power;
}

/// All lanes combined, always in the same order.
template <typename Set, typename Combine>
[[gnu::always_inline]] inline float reduce(const typename Set::Floats& values, Combine combine) {
  float result = values[0];
  for (int i = 1; i < Set::lanes; ++i) result = combine(result, values[i]);
  return result;
}

template <typename Set>
[[gnu::always_inline]] inline float largest(const float* scores, int count) {
  auto result = load<Set>(scores);
  for (int i = Set::lanes; i < count; i += Set::lanes) {
    const auto next = load<Set>(scores + i);
    result = next > result ? next : result;
  }
  return reduce<Set>(result, [](float a, float b) { return a > b ? a : b; });
}

template <typename Set, typename Accuracy, typename Element>
[[gnu::always_inline]] inline float add(float* scores, int padded, float scale, RowState& state, Element* weights) {
  typename Set::Floats sum{};
  const float before = state.maximum;
  const float maximum = std::max(before, largest<Set>(scores, padded) * scale);
  for (int i = 0; i < padded; i += Set::lanes) {
    sum += store<Set>(power_of_two<Accuracy, Set>(load<Set>(scores + i) * scale - maximum), weights + i);
  }
  const float factor = maximum > before ? std::exp2(before - maximum) : 1.0F;
  state.sum = state.sum * factor + reduce<Set>(sum, [](float a, float b) { return a + b; });
  state.maximum = maximum;
  return factor;
}

// One version for each instruction set; the processor decides at program start.
#define APB_ADD(target_name, set)                                                                                      \
  [[gnu::target(target_name)]] float add_row(float* scores, int padded, float scale, RowState& state,                  \
                                             float* weights) {                                                         \
    return add<set, Precise>(scores, padded, scale, state, weights);                                                   \
  }                                                                                                                    \
  [[gnu::target(target_name)]] float add_row(float* scores, int padded, float scale, RowState& state, Bf16* weights) { \
    return add<set, Fast>(scores, padded, scale, state, weights);                                                      \
  }
APB_ADD("avx512f,avx512bw", Avx512)
APB_ADD("avx2,fma", Avx2)
APB_ADD("default", AnyX86)
#undef APB_ADD

template <typename Element>
float add_to_row(float* scores, int count, int padded, float scale, RowState& state, Element* weights) {
  if (count <= 0) {
    std::fill_n(weights, padded, Element{});
    return 1.0F;
  }
  std::fill(scores + count, scores + padded, -infinity);
  return add_row(scores, padded, scale, state, weights);
}

template <typename Element>
[[gnu::always_inline]] inline void scaled(const float* x, int count, float factor, Element* out) {
#pragma omp simd
  for (int i = 0; i < count; ++i) out[i] = from_float<Element>(x[i] * factor);
}

}  // namespace

float add_to_softmax(float* scores, int count, int padded, float scale, RowState& state, float* weights) {
  return add_to_row(scores, count, padded, scale, state, weights);
}

float add_to_softmax(float* scores, int count, int padded, float scale, RowState& state, Bf16* weights) {
  return add_to_row(scores, count, padded, scale, state, weights);
}

APB_VECTORIZED void multiply(const float* x, int count, float factor, float* out) { scaled(x, count, factor, out); }
APB_VECTORIZED void multiply(const float* x, int count, float factor, Bf16* out) { scaled(x, count, factor, out); }

}  // namespace apb::cpu
