// Heads and slots inside kernels. A warp works on rows of `HeadDim` elements, each of its lanes on 8 of them at a time.
#pragma once

#include "cuda/block.cuh"
#include "cuda/kernels.hpp"
#include "cuda/rows.cuh"

namespace apb::cuda {

/// body(std::integral_constant) with the head dimension, which must be 64 or 128.
template <typename Body>
cudaError_t with_head_dim(int head_dim, const Body& body) {
  if (head_dim == 64) return body(std::integral_constant<int, 64>{});
  if (head_dim == 128) return body(std::integral_constant<int, 128>{});
  return cudaErrorInvalidValue;
}

/// Keys and values of a slot.
template <int HeadDim>
struct SlotRows {
  Bf16* data;
  std::int64_t capacity;

  __device__ Bf16* key(int kv_head, std::int64_t token) const {
    return data + (2 * kv_head * capacity + token) * HeadDim;
  }
  __device__ Bf16* value(int kv_head, std::int64_t token) const {
    return data + ((2 * kv_head + 1) * capacity + token) * HeadDim;
  }
};

template <int HeadDim>
SlotRows<HeadDim> rows_of(const Slot& slot) {
  return {reinterpret_cast<Bf16*>(slot.data), slot.capacity};
}

/// A row of `HeadDim` floats spread over a warp, so that it is read in whole sectors: lane i holds floats 4 i to 4 i
/// + 3.
struct SpreadRow {
  Floats<4> held;

  /// Floats [first, first + 8), first a multiple of 8; all lanes call, each with its own `first`.
  __device__ Floats<8> eight(int first) const {
    Floats<8> result;
#pragma unroll
    for (int i = 0; i < 8; ++i) result.at[i] = __shfl_sync(all_lanes, held.at[i % 4], first / 4 + i / 4);
    return result;
  }
};

template <int HeadDim>
__device__ SpreadRow load_spread(const float* row) {
  const int lane = static_cast<int>(threadIdx.x % 32);
  SpreadRow result{};
  if (4 * lane < HeadDim) result.held = load<4>(row + 4 * lane);
  return result;
}

}  // namespace apb::cuda
