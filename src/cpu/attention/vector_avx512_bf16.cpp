// Attention by AVX-512's products of bf16 pairs.
#include <immintrin.h>

#include <cmath>
#include <cstdint>
#include <cstring>
#include <limits>
#include <type_traits>

#include "cpu/attention/kernel.hpp"
#include "cpu/attention/kernels.hpp"
#include "cpu/bf16.hpp"
#include "cpu/key_value_layout.hpp"

// GCC 12 finds its own intrinsics uninitialised.
#pragma GCC diagnostic ignored "-Wuninitialized"
#pragma GCC diagnostic ignored "-Wmaybe-uninitialized"
#pragma GCC target("avx512f,avx512bw,avx512dq,avx512vl,avx512bf16,avx2,fma")
#include "cpu/attention/vector_kernel.hpp"

namespace apb::cpu {
namespace {

template <int rows_at_once>
struct Set {
  static constexpr int lanes = 16;
  static constexpr int rows = rows_at_once;
  /// Few rows are bound by memory, which is read fastest in long stretches.
  static constexpr int unit_keys = rows <= 4 ? 256 : 64;
  static constexpr int tiles = 4;
  using Floats = __m512;
  using Words = std::uint32_t __attribute__((vector_size(64)));

  [[gnu::always_inline]] static Floats multiply_pairs(const Floats& sum, const Bf16* pair, const Words& words) {
    int word = 0;
    std::memcpy(&word, pair, sizeof(word));
    return _mm512_dpbf16_ps(sum, __builtin_bit_cast(__m512bh, _mm512_set1_epi32(word)),
                            __builtin_bit_cast(__m512bh, words));
  }

  /// By a minimax polynomial on [0, 1): relative error 7.5e-5, which rounding to bf16 hides.
  template <typename Stored>
  [[gnu::always_inline]] static Floats power_of_two(const Floats& x) {
    const __m512 rest = _mm512_reduce_ps(x, _MM_FROUND_TO_NEG_INF);
    const __m512 polynomial = ((0.07802452F * rest + 0.2260672F) * rest + 0.6958335F) * rest + 0.99992522F;
    return _mm512_scalef_ps(polynomial, x);
  }

  /// Stores 32 weights and returns `sum` + theirs.
  [[gnu::always_inline]] static Floats store_pairs(const Floats& low, const Floats& high, Bf16* weights,
                                                   const Floats& sum) {
    const __m512bh rounded = _mm512_cvtne2ps_pbh(high, low);
    std::memcpy(static_cast<void*>(weights), &rounded, sizeof(rounded));
    return _mm512_dpbf16_ps(sum, rounded, __builtin_bit_cast(__m512bh, _mm512_set1_epi32(0x3F803F80)));
  }
};

}  // namespace

// A row of decoding has few query heads to a KV head: more rows at once would be worked on for nothing.
void attend_avx512_bf16(const StackedRows& rows, const KeySegment& segment) {
  if (rows.rows <= 2) {
    VectorKernel<Set<2>, Bf16, Bf16>::attend(rows, segment);
  } else if (rows.rows <= 4) {
    VectorKernel<Set<4>, Bf16, Bf16>::attend(rows, segment);
  } else {
    VectorKernel<Set<6>, Bf16, Bf16>::attend(rows, segment);
  }
}

}  // namespace apb::cpu
