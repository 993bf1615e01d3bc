// Weights of scores, for the AMX kernels. To be included behind `#pragma GCC target`.
#pragma once

#include <immintrin.h>

#include <array>
#include <cstdint>
#include <limits>

#include "cpu/attention/kernel.hpp"

namespace apb::cpu {

/// Weights of bf16 from two vectors of 16 scores, in the order of value_word().
///
/// The accurate one: a polynomial in float, rounded once.
class AccurateExponential {
 public:
  /// `forced`: no weight is larger than 1.
  AccurateExponential(float scale, bool forced)
      : scale_(_mm512_set1_ps(scale)),
        limit_(_mm512_set1_ps(forced ? 0.0F : std::numeric_limits<float>::infinity())),
        worst_(_mm512_setzero_ps()) {}

  /// What is added to scaled scores, for a reference.
  static float offset(float reference) { return -reference; }
  bool fits() const { return _mm512_reduce_max_ps(worst_) <= largest_exponent; }

  [[gnu::always_inline]] __m512i weigh(const __m512& low, const __m512& high, const __m512& offset) {
    const __m512i order = _mm512_setr_epi32(0, 1, 8, 9, 2, 3, 10, 11, 4, 5, 12, 13, 6, 7, 14, 15);
    const __m512 first = power_of_two(_mm512_fmadd_ps(low, scale_, offset));
    const __m512 second = power_of_two(_mm512_fmadd_ps(high, scale_, offset));
    return _mm512_permutexvar_epi32(order, __builtin_bit_cast(__m512i, _mm512_cvtne2ps_pbh(second, first)));
  }

 private:
  /// By a minimax polynomial on [0, 1): relative error 7.5e-5, which rounding to bf16 hides. NaN stays NaN.
  [[gnu::always_inline]] __m512 power_of_two(const __m512& exponent) {
    const __m512 x = _mm512_min_ps(limit_, exponent);
    worst_ = _mm512_max_ps(x, worst_);
    const __m512 rest = _mm512_reduce_ps(x, _MM_FROUND_TO_NEG_INF);
    const __m512 polynomial = ((0.07802452F * rest + 0.2260672F) * rest + 0.6958335F) * rest + 0.99992522F;
    return _mm512_scalef_ps(polynomial, x);
  }

  __m512 scale_;
  __m512 limit_;
  __m512 worst_;
};

/// The fast one makes the bits of a bf16 number of a score in fixed point: the upper bits are the exponent, and of the
/// lower 7 bits, which would be 1 + f where 2^f is wanted, a table knows what is too much. Relative error 6e-3 at most.
class FastExponential {
 public:
  /// `forced`: no weight is larger than 1.
  FastExponential(float scale, bool forced)
      : scale_(_mm512_set1_ps(128.0F * scale)),
        limit_(_mm512_set1_ps(128.0F * (forced ? 127.0F : 255.0F))),
        excess_low_(_mm512_load_si512(excess.data())),
        excess_high_(_mm512_load_si512(excess.data() + 64)),
        worst_(_mm512_setzero_si512()) {}

  static float offset(float reference) { return 128.0F * (127.0F - reference); }
  bool fits() const {
    const auto largest = static_cast<short>(128.0F * (127.0F + largest_exponent));
    return _mm512_cmpgt_epu16_mask(worst_, _mm512_set1_epi16(largest)) == 0;
  }

  [[gnu::always_inline]] __m512i weigh(const __m512& low, const __m512& high, const __m512& offset) {
    // Saturation makes 0 of whatever is too small, -infinity included.
    const __m512i bits = _mm512_packus_epi32(fixed_point(low, offset), fixed_point(high, offset));
    worst_ = _mm512_max_epu16(worst_, bits);
    const __m512i too_much = _mm512_maskz_permutex2var_epi8(0x5555555555555555U, excess_low_, bits, excess_high_);
    return _mm512_sub_epi16(bits, too_much);
  }

 private:
  /// 128 (1 + f - 2^f) for f = i / 128.
  alignas(64) static constexpr std::array<std::uint8_t, 128> excess = [] {
    std::array<std::uint8_t, 128> table{};
    double power = 128.0;
    for (std::size_t i = 0; i < table.size(); ++i) {
      table[i] = static_cast<std::uint8_t>(static_cast<double>(128 + i) - power + 0.5);
      power *= 1.0054299011128028;  // 2^(1/128)
    }
    return table;
  }();

  /// NaN becomes the limit, which does not fit.
  [[gnu::always_inline]] __m512i fixed_point(const __m512& score, const __m512& offset) const {
    return _mm512_cvtps_epi32(_mm512_min_ps(_mm512_fmadd_ps(score, scale_, offset), limit_));
  }

  __m512 scale_;
  __m512 limit_;
  __m512i excess_low_;
  __m512i excess_high_;
  __m512i worst_;
};

}  // namespace apb::cpu
