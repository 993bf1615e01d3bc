// Attention by the processor's own AMX tiles.
#include <immintrin.h>

#include <algorithm>
#include <array>
#include <cmath>
#include <cstdint>
#include <limits>

#include "cpu/attention/kernel.hpp"
#include "cpu/attention/kernels.hpp"
#include "cpu/bf16.hpp"
#include "cpu/key_value_layout.hpp"

// GCC 12 finds its own intrinsics uninitialised.
#pragma GCC diagnostic ignored "-Wuninitialized"
#pragma GCC diagnostic ignored "-Wmaybe-uninitialized"
#pragma GCC target("avx512f,avx512bw,avx512dq,avx512vl,avx512bf16,avx512vbmi,avx2,fma,amx-tile,amx-bf16")
#include "cpu/attention/amx_exponential.hpp"
#include "cpu/attention/amx_kernel.hpp"
#include "cpu/attention/amx_wide_kernel.hpp"

namespace apb::cpu {
namespace {

/// All eight tiles, of 16 rows of 64 bytes. The compiler's own intrinsics do not say that they read or write memory.
class Tiles {
 public:
  Tiles() {
    Configuration configuration;
    for (int tile = 0; tile < 8; ++tile) {
      configuration.row_bytes[tile] = 64;
      configuration.rows[tile] = 16;
    }
    asm volatile("ldtilecfg %0" : : "m"(configuration));
  }
  ~Tiles() { asm volatile("tilerelease" : : :); }
  Tiles(const Tiles&) = delete;
  Tiles& operator=(const Tiles&) = delete;

  template <int tile>
  [[gnu::always_inline]] void load(const void* source, std::int64_t row_bytes) {
    asm volatile("tileloadd (%0,%1,1), %%tmm%c2" : : "r"(source), "r"(row_bytes), "i"(tile) : "memory");
  }
  template <int tile>
  [[gnu::always_inline]] void store(void* target, std::int64_t row_bytes) {
    asm volatile("tilestored %%tmm%c2, (%0,%1,1)" : : "r"(target), "r"(row_bytes), "i"(tile) : "memory");
  }
  template <int tile>
  [[gnu::always_inline]] void zero() {
    asm volatile("tilezero %%tmm%c0" : : "i"(tile));
  }
  template <int sum, int left, int right>
  [[gnu::always_inline]] void multiply() {
    asm volatile("tdpbf16ps %%tmm%c2, %%tmm%c1, %%tmm%c0" : : "i"(sum), "i"(left), "i"(right));
  }

 private:
  struct alignas(64) Configuration {
    std::uint8_t palette = 1;
    std::uint8_t start_row = 0;
    std::uint8_t reserved[14] = {};
    std::uint16_t row_bytes[16] = {};
    std::uint8_t rows[16] = {};
  };
};

template <typename Exponential>
void attend(const StackedRows& rows, const KeySegment& segment) {
  if (rows.head_dim == 64) {
    AmxKernel<Tiles, Exponential>::attend(rows, segment);
  } else {
    AmxWideKernel<Tiles, Exponential>::attend(rows, segment);
  }
}

}  // namespace

void attend_amx(const StackedRows& rows, const KeySegment& segment) { attend<FastExponential>(rows, segment); }
void attend_amx_accurate(const StackedRows& rows, const KeySegment& segment) {
  attend<AccurateExponential>(rows, segment);
}

}  // namespace apb::cpu
