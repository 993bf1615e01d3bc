// bfloat16 numbers: the upper half of a float32.
#pragma once

#include <bit>
#include <cstdint>

namespace apb::cpu {

struct Bf16 {
  std::uint16_t bits = 0;
};

inline float to_float(float value) { return value; }
inline float to_float(Bf16 value) { return std::bit_cast<float>(static_cast<std::uint32_t>(value.bits) << 16U); }

/// Rounds to nearest, ties to even; NaN stays NaN. No branch, so that loops over it vectorise.
inline Bf16 to_bf16(float value) {
  const auto bits = std::bit_cast<std::uint32_t>(value);
  const std::uint32_t rounded = bits + 0x7FFFU + ((bits >> 16U) & 1U);
  const std::uint32_t quiet = bits | 0x400000U;
  const bool is_nan = (bits & 0x7FFFFFFFU) > 0x7F800000U;
  return {static_cast<std::uint16_t>((is_nan ? quiet : rounded) >> 16U)};
}

/// The value as an `Element`: float as it is, Bf16 rounded.
template <typename Element>
Element from_float(float value);
template <>
inline float from_float<float>(float value) {
  return value;
}
template <>
inline Bf16 from_float<Bf16>(float value) {
  return to_bf16(value);
}

}  // namespace apb::cpu
