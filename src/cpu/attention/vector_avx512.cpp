// Attention by AVX-512 without bf16: products in float, of float or bf16 slots.
#include <cmath>
#include <cstdint>
#include <limits>
#include <type_traits>

#include "cpu/attention/kernel.hpp"
#include "cpu/attention/kernels.hpp"
#include "cpu/bf16.hpp"
#include "cpu/key_value_layout.hpp"

#pragma GCC target("avx512f,avx512bw,avx512dq,avx512vl,avx2,fma")
#include "cpu/attention/power_of_two.hpp"
#include "cpu/attention/vector_kernel.hpp"

namespace apb::cpu {
namespace {

struct Set {
  static constexpr int lanes = 16;
  static constexpr int rows = 6;
  static constexpr int unit_keys = 64;
  static constexpr int tiles = 4;
  using Floats = float __attribute__((vector_size(64)));
  using Words = std::uint32_t __attribute__((vector_size(64)));

  template <typename Stored>
  [[gnu::always_inline]] static Floats power_of_two(const Floats& x) {
    return cpu::power_of_two<Set, std::is_same_v<Stored, float>>(x);
  }
};

}  // namespace

void attend_avx512_f32(const StackedRows& rows, const KeySegment& segment) {
  VectorKernel<Set, float, float>::attend(rows, segment);
}

void attend_avx512_bf16_as_float(const StackedRows& rows, const KeySegment& segment) {
  VectorKernel<Set, Bf16, float>::attend(rows, segment);
}

}  // namespace apb::cpu
