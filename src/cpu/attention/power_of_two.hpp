// 2^x of vectors, for sets without an instruction of their own. To be included behind `#pragma GCC target`.
#pragma once

#include <cstdint>

namespace apb::cpu {

/// 2^x for x < 127; exactly 0 where that is no normal number. NaN stays NaN. Relative error 2e-9 for floats, 7.5e-5 for
/// weights of bf16 values. Set: see vector_kernel.hpp.
template <typename Set, bool precise>
[[gnu::always_inline]] inline typename Set::Floats power_of_two(const typename Set::Floats& x) {
  using Floats = typename Set::Floats;
  using Words = typename Set::Words;
  constexpr float rounder = 0x1.8p23F;      // adding it leaves the nearest integer in the lowest bits
  const Floats lowest = Floats{} - 127.0F;  // `power` below is 0 here
  const Floats clamped = x < lowest ? lowest : x;
  const Floats shifted = clamped + rounder;
  const Words bits = (__builtin_bit_cast(Words, shifted) << 23U) + 0x3F800000U;
  const auto power = __builtin_bit_cast(Floats, bits);
  const Floats rest = clamped - (shifted - rounder);
  // Minimax polynomials on [-1/2, 1/2].
  if constexpr (precise) {
    const Floats high = (0.00015345812F * rest + 0.0013399931F) * rest + 0.009618489F;
    return ((((high * rest + 0.055503286F) * rest + 0.24022646F) * rest + 0.6931472F) * rest + 1.0F) * power;
  } else {
    return (((0.05517167F * rest + 0.24261113F) * rest + 0.69326097F) * rest + 0.99992806F) * power;
  }
}

}  // namespace apb::cpu
