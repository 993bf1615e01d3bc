// Attention by AVX2: products in float, of float or bf16 slots.
#include <cmath>
#include <cstdint>
#include <limits>
#include <type_traits>

#include "cpu/attention/kernel.hpp"
#include "cpu/attention/kernels.hpp"
#include "cpu/bf16.hpp"
#include "cpu/key_value_layout.hpp"

#pragma GCC target("avx2,fma")
#include "cpu/attention/power_of_two.hpp"
#include "cpu/attention/vector_kernel.hpp"

namespace apb::cpu {
namespace {

struct Set {
  static constexpr int lanes = 8;
  static constexpr int rows = 6;
  static constexpr int unit_keys = 64;
  static constexpr int tiles = 1;
  using Floats = float __attribute__((vector_size(32)));
  using Words = std::uint32_t __attribute__((vector_size(32)));

  template <typename Stored>
  [[gnu::always_inline]] static Floats power_of_two(const Floats& x) {
    return cpu::power_of_two<Set, std::is_same_v<Stored, float>>(x);
  }
};

}  // namespace

void attend_avx2_f32(const StackedRows& rows, const KeySegment& segment) {
  VectorKernel<Set, float, float>::attend(rows, segment);
}

void attend_avx2_bf16(const StackedRows& rows, const KeySegment& segment) {
  VectorKernel<Set, Bf16, float>::attend(rows, segment);
}

}  // namespace apb::cpu
