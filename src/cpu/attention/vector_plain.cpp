// Attention by vectors of 128 bits, which every x86-64 processor has, and other compilers' processors emulate: products
// in float, of float or bf16 slots.
#include <cmath>
#include <cstdint>
#include <limits>
#include <type_traits>

#include "cpu/attention/kernel.hpp"
#include "cpu/attention/kernels.hpp"
#include "cpu/bf16.hpp"
#include "cpu/key_value_layout.hpp"

#include "cpu/attention/power_of_two.hpp"
#include "cpu/attention/vector_kernel.hpp"

namespace apb::cpu {
namespace {

struct Set {
  static constexpr int lanes = 4;
  static constexpr int rows = 2;
  static constexpr int unit_keys = 64;
  static constexpr int tiles = 1;
  using Floats = float __attribute__((vector_size(16)));
  using Words = std::uint32_t __attribute__((vector_size(16)));

  template <typename Stored>
  [[gnu::always_inline]] static Floats power_of_two(const Floats& x) {
    return cpu::power_of_two<Set, std::is_same_v<Stored, float>>(x);
  }
};

}  // namespace

void attend_plain_f32(const StackedRows& rows, const KeySegment& segment) {
  VectorKernel<Set, float, float>::attend(rows, segment);
}

void attend_plain_bf16(const StackedRows& rows, const KeySegment& segment) {
  VectorKernel<Set, Bf16, float>::attend(rows, segment);
}

}  // namespace apb::cpu
