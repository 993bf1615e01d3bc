#include "benchmarks/peak.hpp"

#include <immintrin.h>

#include <chrono>
#include <cstdint>
#include <string_view>

#include "cpu/attention/kernel.hpp"

namespace apb {
namespace {

struct alignas(64) Configuration {
  std::uint8_t palette = 1;
  std::uint8_t start_row = 0;
  std::uint8_t reserved[14] = {};
  std::uint16_t row_bytes[16] = {64, 64, 64, 64, 64, 64, 64, 64};
  std::uint8_t rows[16] = {16, 16, 16, 16, 16, 16, 16, 16};
};

/// 16 x 16 x 32 products into each of four tiles.
[[gnu::target("amx-tile,amx-bf16")]] double multiply_tiles() {
  constexpr int rounds = 200'000;
  const Configuration configuration;
  asm volatile("ldtilecfg %0" : : "m"(configuration));
  for (int i = 0; i < rounds; ++i) {
    asm volatile(
        "tdpbf16ps %tmm5, %tmm4, %tmm0\n\ttdpbf16ps %tmm5, %tmm4, %tmm1\n\t"
        "tdpbf16ps %tmm5, %tmm4, %tmm2\n\ttdpbf16ps %tmm5, %tmm4, %tmm3");
  }
  asm volatile("tilerelease");
  return rounds * 4.0 * 16 * 16 * 32 * 2;
}

/// Sixteen vectors, which wait for nobody.
[[gnu::target("avx512f,avx512bf16")]] double multiply_pairs() {
  constexpr int rounds = 1'000'000;
  const __m512i ones = _mm512_set1_epi32(0x3F803F80);
  __m512 sums[16];
  for (auto& sum : sums) sum = _mm512_setzero_ps();
  for (int i = 0; i < rounds; ++i) {
#pragma GCC unroll 16
    for (auto& sum : sums) asm volatile("vdpbf16ps %1, %1, %0" : "+v"(sum) : "v"(ones));
  }
  return rounds * 16.0 * 32 * 2;
}

[[gnu::target("avx2,fma")]] double multiply_floats() {
  constexpr int rounds = 1'000'000;
  const __m256 ones = _mm256_set1_ps(1.0F);
  __m256 sums[12];
  for (auto& sum : sums) sum = _mm256_setzero_ps();
  for (int i = 0; i < rounds; ++i) {
#pragma GCC unroll 12
    for (auto& sum : sums) asm volatile("vfmadd231ps %1, %1, %0" : "+x"(sum) : "x"(ones));
  }
  return rounds * 12.0 * 8 * 2;
}

}  // namespace

double peak_gflops() {
  const auto start = std::chrono::steady_clock::now();
  const std::string_view kernel = cpu::attention_kernels().front().runs_here() ? "amx" : "";
  double flops = 0.0;
  if (kernel == "amx") {
    flops = multiply_tiles();
  } else if (__builtin_cpu_supports("avx512bf16") != 0) {
    flops = multiply_pairs();
  } else {
    flops = multiply_floats();
  }
  return flops / std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count() / 1e9;
}

}  // namespace apb
