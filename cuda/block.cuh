// Sums over the lanes of a warp and the threads of a one-dimensional block of whole warps. All threads call them.
#pragma once

namespace apb::cuda {

inline constexpr unsigned all_lanes = 0xFFFFFFFFU;

/// The sum over each group of `Lanes` neighbouring lanes, a power of two, in every lane of it.
template <int Lanes = 32, typename Number>
__device__ Number lane_sum(Number x) {
#pragma unroll
  for (int distance = Lanes / 2; distance > 0; distance /= 2) x += __shfl_xor_sync(all_lanes, x, distance);
  return x;
}

/// The sum over the block, in every thread.
template <typename Number>
__device__ Number block_sum(Number x) {
  __shared__ Number sums[32];
  const unsigned lane = threadIdx.x % 32;
  const unsigned warp = threadIdx.x / 32;
  x = lane_sum(x);
  if (lane == 0) sums[warp] = x;
  __syncthreads();
  x = lane_sum(lane < blockDim.x / 32 ? sums[lane] : Number{});
  __syncthreads();  // the next call may write
  return x;
}

/// Of each thread the sum over those before it, and the sum over all.
struct Before {
  unsigned sum;
  unsigned total;
};
__device__ inline Before block_sum_before(unsigned x) {
  __shared__ unsigned sums[32];
  const unsigned lane = threadIdx.x % 32;
  const unsigned warp = threadIdx.x / 32;
  unsigned upto = x;
#pragma unroll
  for (int distance = 1; distance < 32; distance *= 2) {
    const unsigned left = __shfl_up_sync(all_lanes, upto, distance);
    if (lane >= distance) upto += left;
  }
  if (lane == 31) sums[warp] = upto;
  __syncthreads();
  const unsigned of_warp = lane < blockDim.x / 32 ? sums[lane] : 0;
  const unsigned warps_before = lane_sum(lane < warp ? of_warp : 0);
  const unsigned total = lane_sum(of_warp);
  __syncthreads();  // the next call may write
  return {warps_before + upto - x, total};
}

}  // namespace apb::cuda
