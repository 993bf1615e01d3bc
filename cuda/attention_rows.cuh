// Attention of one warp's rows to one tile of keys: both products on the tensor cores, the online softmax between them
// in registers.
//
// A warp has `row_blocks` times 16 rows. Of each 16 x 8 piece of scores or sums, lane i holds columns 2 (i % 4) and
// the next one of rows i / 4 (elements 0, 1: half 0) and i / 4 + 8 (elements 2, 3: half 1).
#pragma once

#include <cuda_runtime.h>

#include <cstdint>
#include <limits>

#include "kernels.hpp"
#include "ptx.cuh"

namespace apb::cuda {

inline constexpr float infinity = std::numeric_limits<float>::infinity();
inline constexpr unsigned all_lanes = 0xFFFFFFFFU;
/// Weights may exceed 1 by this power of two before a row's sums are scaled to a new maximum: they nearly never must.
inline constexpr float tolerated_growth = 8.0F;

/// Offset of 16 bytes in a tile of rows in shared memory. Chunks of one number of eight rows lie in different banks,
/// and so do eight chunks of one row. Adding an even number of chunks is an XOR.
template <int row_bytes>
__device__ __forceinline__ std::uint32_t swizzled(int row, int chunk) {
  return static_cast<std::uint32_t>(row * row_bytes + ((chunk ^ (row & 7)) << 4));
}

__device__ __forceinline__ float largest_of_quad(float x) {
  x = fmaxf(x, __shfl_xor_sync(all_lanes, x, 1));
  return fmaxf(x, __shfl_xor_sync(all_lanes, x, 2));
}

__device__ __forceinline__ float sum_of_quad(float x) {
  x += __shfl_xor_sync(all_lanes, x, 1);
  return x + __shfl_xor_sync(all_lanes, x, 2);
}

/// Weights are 2^((score - maximum) * log2_scale); a score's maximum is -infinity while a row has seen nothing.
template <int head_dim, int row_blocks>
struct WarpRows {
  static constexpr int row_bytes = 2 * head_dim;
  using Scores = float[row_blocks][tile / 8][4];

  float maximum[row_blocks][2];             // by half
  float sum[row_blocks][2];                 // of weights; this lane's share
  float sums[row_blocks][head_dim / 8][4];  // of weights times values

  __device__ __forceinline__ WarpRows() : sum{}, sums{} {
    for_each_half([&](int r, int half) { maximum[r][half] = -infinity; });
  }

  /// scores = query keys^T; addresses are this lane's, see the kernel.
  __device__ __forceinline__ static void multiply(std::uint32_t query, std::uint32_t keys, Scores& scores) {
#pragma unroll
    for (int r = 0; r < row_blocks; ++r) {
#pragma unroll
      for (int n = 0; n < tile / 8; ++n) {
#pragma unroll
        for (float& score : scores[r][n]) score = 0.0F;
      }
    }
#pragma unroll
    for (int k = 0; k < head_dim / 16; ++k) {
      const auto chunk = static_cast<std::uint32_t>(32 * k);
      std::uint32_t a[row_blocks][4];
#pragma unroll
      for (int r = 0; r < row_blocks; ++r) ptx::load_matrices(a[r], (query ^ chunk) + r * 16 * row_bytes);
#pragma unroll
      for (int n = 0; n < tile / 16; ++n) {
        std::uint32_t b[4];
        ptx::load_matrices(b, (keys ^ chunk) + n * 16 * row_bytes);
#pragma unroll
        for (int r = 0; r < row_blocks; ++r) {
          ptx::multiply_add(scores[r][2 * n], a[r], b[0], b[1]);
          ptx::multiply_add(scores[r][2 * n + 1], a[r], b[2], b[3]);
        }
      }
    }
  }

  /// Scores from key seen(row block, half) of the tile on become -infinity.
  template <typename Seen>
  __device__ __forceinline__ static void mask(Scores& scores, Seen seen) {
    const int column = static_cast<int>(threadIdx.x % 4) * 2;
    for_each_half([&](int r, int half) {
      const int end = seen(r, half) - column;
#pragma unroll
      for (int n = 0; n < tile / 8; ++n) {
        if (8 * n >= end) scores[r][n][2 * half] = -infinity;
        if (8 * n + 1 >= end) scores[r][n][2 * half + 1] = -infinity;
      }
    });
  }

  /// Turns scores into weights and adds them to the sum.
  __device__ __forceinline__ void weigh(Scores& scores, float log2_scale) {
    float largest[row_blocks][2];
    bool grows = false;
    for_each_half([&](int r, int half) {
      float x = -infinity;
#pragma unroll
      for (int n = 0; n < tile / 8; ++n) x = fmaxf(x, fmaxf(scores[r][n][2 * half], scores[r][n][2 * half + 1]));
      largest[r][half] = largest_of_quad(x);
      grows = grows || largest[r][half] * log2_scale > maximum[r][half] * log2_scale + tolerated_growth;
    });
    if (__any_sync(all_lanes, grows)) raise_maximum(largest, log2_scale);
    for_each_half([&](int r, int half) {
      const float offset = maximum[r][half] == -infinity ? 0.0F : maximum[r][half] * log2_scale;
#pragma unroll
      for (int n = 0; n < tile / 8; ++n) {
#pragma unroll
        for (int i = 2 * half; i < 2 * half + 2; ++i) {
          scores[r][n][i] = ptx::power_of_two(scores[r][n][i] * log2_scale - offset);
          sum[r][half] += scores[r][n][i];
        }
      }
    });
  }

  /// sums += weights, rounded to bf16, times values.
  __device__ __forceinline__ void add_values(const Scores& weights, std::uint32_t values) {
#pragma unroll
    for (int k = 0; k < tile / 16; ++k) {
      std::uint32_t a[row_blocks][4];
#pragma unroll
      for (int r = 0; r < row_blocks; ++r) {
        a[r][0] = ptx::pack_bf16(weights[r][2 * k][0], weights[r][2 * k][1]);
        a[r][1] = ptx::pack_bf16(weights[r][2 * k][2], weights[r][2 * k][3]);
        a[r][2] = ptx::pack_bf16(weights[r][2 * k + 1][0], weights[r][2 * k + 1][1]);
        a[r][3] = ptx::pack_bf16(weights[r][2 * k + 1][2], weights[r][2 * k + 1][3]);
      }
#pragma unroll
      for (int n = 0; n < head_dim / 16; ++n) {
        std::uint32_t b[4];
        ptx::load_matrices_transposed(b, (values ^ static_cast<std::uint32_t>(32 * n)) + k * 16 * row_bytes);
#pragma unroll
        for (int r = 0; r < row_blocks; ++r) {
          ptx::multiply_add(sums[r][2 * n], a[r], b[0], b[1]);
          ptx::multiply_add(sums[r][2 * n + 1], a[r], b[2], b[3]);
        }
      }
    }
  }

  /// Turns the sums into the output, 0 where a row saw nothing, and the maximum into the log-sum-exp.
  __device__ __forceinline__ void finish(float scale) {
    for_each_half([&](int r, int half) {
      const float total = sum_of_quad(sum[r][half]);
      maximum[r][half] = maximum[r][half] * scale + logf(total);
      scale_sums(r, half, total == 0.0F ? 0.0F : 1.0F / total);
    });
  }

  template <typename Action>
  __device__ __forceinline__ static void for_each_half(Action action) {
#pragma unroll
    for (int r = 0; r < row_blocks; ++r) {
#pragma unroll
      for (int half = 0; half < 2; ++half) action(r, half);
    }
  }

 private:
  __device__ __forceinline__ void raise_maximum(const float (&largest)[row_blocks][2], float log2_scale) {
    for_each_half([&](int r, int half) {
      const float before = maximum[r][half];
      maximum[r][half] = fmaxf(before, largest[r][half]);
      const bool blind = maximum[r][half] == -infinity;
      const float factor = blind ? 1.0F : ptx::power_of_two((before - maximum[r][half]) * log2_scale);
      sum[r][half] *= factor;
      scale_sums(r, half, factor);
    });
  }

  __device__ __forceinline__ void scale_sums(int r, int half, float factor) {
#pragma unroll
    for (int n = 0; n < head_dim / 8; ++n) {
      sums[r][n][2 * half] *= factor;
      sums[r][n][2 * half + 1] *= factor;
    }
  }
};

}  // namespace apb::cuda
