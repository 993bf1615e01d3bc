// The exponential inside vectorised loops.
#pragma once

#include <bit>
#include <cstdint>

namespace apb::cpu {

/// e^x to 2e-7 relative, without a branch. 0 below -87.3 (so for -inf), e^88.3 above 88.3, NaN for NaN.
inline float vector_exp(float x) {
  // x = n ln 2 + r with |r| <= ln 2 / 2; adding 1.5 * 2^23 rounds to an integer and leaves it in the lowest bits.
  constexpr float round_to_integer = 12582912.0F;
  constexpr float log2_e = 1.44269504F;
  constexpr float ln2_high = 0.693145752F;  // few bits, so that n * ln2_high is exact
  constexpr float ln2_low = 1.42860677e-6F;
  const float clipped = x > 88.3F ? 88.3F : x;
  const float shifted = clipped * log2_e + round_to_integer;
  const float n = shifted - round_to_integer;
  const float r = (clipped - n * ln2_high) - n * ln2_low;
  // e^r by a polynomial of least relative error, 3e-9.
  const float tail = 0.49999994F + r * (0.16666521F + r * (0.04166839F + r * (0.008368717F + r * 0.00138146F)));
  const float power_of_r = 1.0F + r * (1.0F + r * tail);
  const auto two_to_n = std::bit_cast<float>((std::bit_cast<std::uint32_t>(shifted) << 23U) + 0x3F800000U);
  return x < -87.3F ? 0.0F : power_of_r * two_to_n;
}

}  // namespace apb::cpu
