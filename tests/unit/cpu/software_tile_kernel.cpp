// The AMX kernel on software tiles.
#include "unit/cpu/software_tile_kernel.hpp"

#include <immintrin.h>

#include <algorithm>
#include <array>
#include <cmath>
#include <cstdint>
#include <limits>

#include "cpu/attention/kernel.hpp"
#include "cpu/bf16.hpp"
#include "cpu/key_value_layout.hpp"

#pragma GCC diagnostic ignored "-Wuninitialized"
#pragma GCC diagnostic ignored "-Wmaybe-uninitialized"
#pragma GCC target("avx512f,avx512bw,avx512dq,avx512vl,avx512bf16,avx512vbmi,avx2,fma")
#include "cpu/attention/amx_exponential.hpp"
#include "cpu/attention/amx_kernel.hpp"
#include "cpu/attention/amx_wide_kernel.hpp"
#include "unit/cpu/software_tiles.hpp"

namespace apb {
namespace {

bool runs_here() {
  return __builtin_cpu_supports("avx512bf16") != 0 && __builtin_cpu_supports("avx512vbmi") != 0 &&
         __builtin_cpu_supports("avx512dq") != 0 && __builtin_cpu_supports("avx512vl") != 0;
}
bool supports(int head_dim) { return head_dim == 64 || head_dim == 128; }

template <typename Exponential>
void attend(const cpu::StackedRows& rows, const cpu::KeySegment& segment) {
  if (rows.head_dim == 64) {
    cpu::AmxKernel<SoftwareTiles, Exponential>::attend(rows, segment);
  } else {
    cpu::AmxWideKernel<SoftwareTiles, Exponential>::attend(rows, segment);
  }
}

constexpr std::array kernels = {
    cpu::AttentionKernel{"software tiles", DataType::bf16, DataType::bf16, runs_here, supports,
                         attend<cpu::FastExponential>},
    cpu::AttentionKernel{"software tiles, accurate", DataType::bf16, DataType::bf16, runs_here, supports,
                         attend<cpu::AccurateExponential>},
};

}  // namespace

std::span<const cpu::AttentionKernel> software_tile_kernels() { return kernels; }

}  // namespace apb
