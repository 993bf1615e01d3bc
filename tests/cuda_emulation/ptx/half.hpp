// Numbers of 16 bits: conversions and rounding.
#pragma once

#include <bit>
#include <cmath>
#include <cstdint>

namespace apb::ptx {

/// Rounds to float so that a later rounding to fewer bits is as if it had been made at once (round to odd).
inline float to_odd(double value) {
  const auto nearest = static_cast<float>(value);
  if (static_cast<double>(nearest) == value || !(std::abs(value) <= 1e300)) return nearest;
  auto bits = std::bit_cast<std::uint32_t>(nearest);
  if ((bits & 1U) != 0) return nearest;
  const bool too_far = std::abs(static_cast<double>(nearest)) > std::abs(value);
  bits = too_far ? bits - 1 : bits + 1;
  return std::bit_cast<float>(bits);
}

/// The sum, rounded to odd as above: of numbers so far apart that double cannot hold both.
inline double sum_to_odd(double a, double b) {
  const double sum = a + b;
  const double part = sum - a;
  const double lost = (a - (sum - part)) + (b - part);
  auto bits = std::bit_cast<std::uint64_t>(sum);
  if (lost == 0.0 || !(std::abs(sum) <= 1e300) || (bits & 1U) != 0) return sum;
  bits = (lost > 0.0) == (sum > 0.0) ? bits + 1 : bits - 1;
  return std::bit_cast<double>(bits);
}

struct Bfloat {
  static float widen(std::uint16_t bits) { return std::bit_cast<float>(std::uint32_t{bits} << 16); }
  static std::uint16_t narrow(float value) {
    const auto bits = std::bit_cast<std::uint32_t>(value);
    if ((bits & 0x7FFFFFFFU) > 0x7F800000U) return 0x7FFF;
    return static_cast<std::uint16_t>((bits + 0x7FFFU + ((bits >> 16) & 1U)) >> 16);
  }
  static std::uint16_t truncate(float value) {
    const auto bits = std::bit_cast<std::uint32_t>(value);
    if ((bits & 0x7FFFFFFFU) > 0x7F800000U) return 0x7FFF;
    return static_cast<std::uint16_t>(bits >> 16);
  }
};

struct Half {
  static float widen(std::uint16_t bits) {
    const std::uint32_t sign = (bits & 0x8000U) << 16;
    const std::uint32_t magnitude = bits & 0x7FFFU;
    if (magnitude >= 0x7C00U) return std::bit_cast<float>(sign | 0x7F800000U | ((magnitude & 0x3FFU) << 13));
    if (magnitude >= 0x400U) return std::bit_cast<float>(sign | ((magnitude << 13) + 0x38000000U));
    const float small = static_cast<float>(magnitude) * 0x1p-24F;
    return std::bit_cast<float>(sign | std::bit_cast<std::uint32_t>(small));
  }
  static std::uint16_t narrow(float value) {
    const auto bits = std::bit_cast<std::uint32_t>(value);
    const auto sign = static_cast<std::uint16_t>((bits >> 16) & 0x8000U);
    const std::uint32_t magnitude = bits & 0x7FFFFFFFU;
    if (magnitude > 0x7F800000U) return 0x7FFF;
    if (magnitude >= 0x477FF000U) return static_cast<std::uint16_t>(sign | 0x7C00U);
    if (magnitude < 0x38800000U) {  // the sum has the unit of half's subnormal numbers
      const float shifted = std::bit_cast<float>(magnitude) + 0.5F;
      return static_cast<std::uint16_t>(sign | (std::bit_cast<std::uint32_t>(shifted) - 0x3F000000U));
    }
    const std::uint32_t rounded = magnitude + 0xFFFU + ((magnitude >> 13) & 1U);
    return static_cast<std::uint16_t>(sign | ((rounded - 0x38000000U) >> 13));
  }
  static std::uint16_t truncate(float value) {
    const auto nearest = narrow(value);
    if (std::isnan(value) || std::abs(widen(nearest)) <= std::abs(value)) return nearest;
    return static_cast<std::uint16_t>(nearest - 1);
  }
};

}  // namespace apb::ptx
