// Kernels with one bug each, and the same without it. The judge must report the line that ends in the bug's mark.
#include <cuda_bf16.h>

#include <cassert>
#include <cstdint>

#define KERNEL(name) template <bool Right> __global__ void name(int* data, int* out)
#define INSTANCES(name)                              \
  template __global__ void name<true>(int*, int*);   \
  template __global__ void name<false>(int*, int*);

__device__ std::uint32_t shared_address(const void* p) { return static_cast<std::uint32_t>(__cvta_generic_to_shared(p)); }

__device__ void copy16(void* to, const void* from) {
  asm volatile("cp.async.cg.shared.global [%0], [%1], 16;" ::"r"(shared_address(to)), "l"(from) : "memory");
}
__device__ void wait_copies() { asm volatile("cp.async.wait_all;" ::: "memory"); }

// Threads of other warps read what was written before a barrier that is not there.
KERNEL(read_before_write) {
  __shared__ int cells[64];
  cells[threadIdx.x] = data[threadIdx.x];
  if (Right) __syncthreads();
  out[threadIdx.x] = cells[threadIdx.x ^ 32];  // BUG read_before_write
}
INSTANCES(read_before_write)

KERNEL(no_barrier_after_write) {
  __shared__ int cells[64];
  cells[threadIdx.x] = 0;
  __syncthreads();
  if (threadIdx.x < 32) cells[threadIdx.x] = data[threadIdx.x];
  if (Right) __syncthreads();
  out[threadIdx.x] = cells[threadIdx.x % 32];  // BUG no_barrier_after_write
}
INSTANCES(no_barrier_after_write)

KERNEL(no_barrier_before_write) {
  __shared__ int cells[64];
  cells[threadIdx.x] = data[threadIdx.x];
  __syncthreads();
  int value = cells[threadIdx.x ^ 32];  // BUG no_barrier_before_write
  if (Right) __syncthreads();
  cells[threadIdx.x] = value + 1;
  out[threadIdx.x] = value;
}
INSTANCES(no_barrier_before_write)

KERNEL(no_syncwarp) {
  __shared__ int cells[32];
  cells[threadIdx.x] = data[threadIdx.x];
  if (Right) __syncwarp();
  out[threadIdx.x] = cells[threadIdx.x ^ 1];  // BUG no_syncwarp
}
INSTANCES(no_syncwarp)

// Only half of the warp meets: the other half's values are read without order.
KERNEL(partial_syncwarp) {
  __shared__ int cells[32];
  cells[threadIdx.x] = data[threadIdx.x];
  if (threadIdx.x < 16) {
    __syncwarp(0x0000FFFF);
    out[threadIdx.x] = cells[threadIdx.x ^ (Right ? 1 : 16)];  // BUG partial_syncwarp
  }
}
INSTANCES(partial_syncwarp)

KERNEL(no_copy_wait) {
  __shared__ __align__(16) int cells[128];
  copy16(cells + 4 * threadIdx.x, data + 4 * threadIdx.x);
  if (Right) wait_copies();
  out[threadIdx.x] = cells[4 * threadIdx.x];  // BUG no_copy_wait
}
INSTANCES(no_copy_wait)

// The own copies have been waited for, those of the other warp not.
KERNEL(no_barrier_after_copy) {
  __shared__ __align__(16) int cells[256];
  copy16(cells + 4 * threadIdx.x, data + 4 * threadIdx.x);
  wait_copies();
  if (Right) __syncthreads();
  out[threadIdx.x] = cells[4 * (threadIdx.x ^ 32)];  // BUG no_barrier_after_copy
}
INSTANCES(no_barrier_after_copy)

KERNEL(no_barrier_before_copy) {
  __shared__ __align__(16) int cells[256];
  for (int i = 0; i < 4; ++i) cells[4 * threadIdx.x + i] = i;
  __syncthreads();
  out[threadIdx.x] = cells[4 * (threadIdx.x ^ 32)];  // BUG no_barrier_before_copy
  if (Right) __syncthreads();
  copy16(cells + 4 * threadIdx.x, data);
  wait_copies();
}
INSTANCES(no_barrier_before_copy)

// The last group that was committed is still under way.
KERNEL(copy_group_too_late) {
  __shared__ __align__(16) int cells[2][128];
  for (int i = 0; i < 2; ++i) {
    copy16(cells[i] + 4 * threadIdx.x, data + 4 * threadIdx.x);
    asm volatile("cp.async.commit_group;" ::: "memory");
  }
  if (Right) {
    asm volatile("cp.async.wait_group 0;" ::: "memory");
  } else {
    asm volatile("cp.async.wait_group 1;" ::: "memory");
  }
  out[threadIdx.x] = cells[0][4 * threadIdx.x];
  out[threadIdx.x] = cells[1][4 * threadIdx.x];  // BUG copy_group_too_late
}
INSTANCES(copy_group_too_late)

// (In C++ alone nvcc makes such a value zero, and there is nothing to find in the PTX.)
KERNEL(uninitialised_accumulator) {
  float sum;
  asm volatile("{ .reg .f32 sum; .reg .pred zero; setp.ne.s32 zero, %2, 0; @zero mov.f32 sum, 0f00000000; fma.rn.f32 %0, %1, %1, sum; }" : "=f"(sum) : "f"(__int_as_float(data[0])), "r"(Right ? 1 : data[threadIdx.x] & 4));  // BUG uninitialised_accumulator
  out[threadIdx.x] = __float_as_int(sum);
}
INSTANCES(uninitialised_accumulator)

KERNEL(unwritten_shared) {
  __shared__ int cells[64];
  if (Right || threadIdx.x != 5) cells[threadIdx.x] = data[threadIdx.x];
  __syncthreads();
  out[threadIdx.x] = cells[63 - threadIdx.x];  // BUG unwritten_shared
}
INSTANCES(unwritten_shared)

KERNEL(unwritten_global) {
  if (Right || threadIdx.x != 7) out[threadIdx.x] = data[threadIdx.x];
  out[threadIdx.x] += 1;  // BUG unwritten_global
}
INSTANCES(unwritten_global)

KERNEL(unwritten_local) {
  int cells[16];
  for (int i = 0; i < (Right ? 16 : 15); ++i) cells[i] = data[i];
  out[threadIdx.x] = cells[data[threadIdx.x] & 15];  // BUG unwritten_local
}
INSTANCES(unwritten_local)

KERNEL(store_past_end) {
  out[threadIdx.x + (Right ? 0 : 1)] = data[threadIdx.x];  // BUG store_past_end
}
INSTANCES(store_past_end)

KERNEL(load_before_start) {
  out[threadIdx.x] = data[static_cast<int>(threadIdx.x) - (Right ? 0 : 1)];  // BUG load_before_start
}
INSTANCES(load_before_start)

KERNEL(shared_past_end) {
  extern __shared__ int cells[];
  cells[threadIdx.x + (Right ? 0 : 1)] = data[threadIdx.x];  // BUG shared_past_end
}
INSTANCES(shared_past_end)

KERNEL(misaligned_global) {
  const int4 four = *reinterpret_cast<const int4*>(data + (Right ? 0 : 1));  // BUG misaligned_global
  out[threadIdx.x] = four.x + four.w;
}
INSTANCES(misaligned_global)

KERNEL(misaligned_shared) {
  __shared__ __align__(16) int cells[8];
  if (threadIdx.x < 8) cells[threadIdx.x] = data[threadIdx.x];
  __syncthreads();
  const int2 two = *reinterpret_cast<const int2*>(cells + (Right ? 2 : 3));  // BUG misaligned_shared
  out[threadIdx.x] = two.x + two.y;
}
INSTANCES(misaligned_shared)

KERNEL(divergent_barrier) {
  __shared__ int cells[64];
  if (Right || threadIdx.x != 3) {
    cells[threadIdx.x] = data[threadIdx.x];
    __syncthreads();  // BUG divergent_barrier
    out[threadIdx.x] = cells[threadIdx.x];
  }
}
INSTANCES(divergent_barrier)

// Warps wait at different barriers of the program.
KERNEL(two_barriers) {
  __shared__ int cells[64];
  cells[threadIdx.x] = data[threadIdx.x];
  if (threadIdx.x < 32 || Right) {
    __syncthreads();
    out[threadIdx.x] = cells[threadIdx.x ^ 32];
  } else {
    __syncthreads();  // BUG two_barriers
    out[threadIdx.x] = cells[threadIdx.x ^ 32] + 1;
  }
}
INSTANCES(two_barriers)

KERNEL(barrier_count) {
  if (Right || threadIdx.x < 32) asm volatile("bar.sync 1, 64;" ::: "memory");  // BUG barrier_count
  out[threadIdx.x] = data[threadIdx.x];
}
INSTANCES(barrier_count)

KERNEL(return_before_ballot) {
  if (!Right && threadIdx.x >= 30) return;
  out[threadIdx.x] = static_cast<int>(__ballot_sync(0xFFFFFFFF, data[threadIdx.x] > 0));  // BUG return_before_ballot
}
INSTANCES(return_before_ballot)

KERNEL(shuffle_in_branch) {
  int value = data[threadIdx.x];
  if (Right || value > 0) value += __shfl_xor_sync(0xFFFFFFFF, value, 1);  // BUG shuffle_in_branch
  out[threadIdx.x] = value;
}
INSTANCES(shuffle_in_branch)

KERNEL(lane_not_in_mask) {
  out[threadIdx.x] = __shfl_sync(Right ? 0xFFFFFFFF : 0x7FFFFFFF, data[threadIdx.x], 0);  // BUG lane_not_in_mask
}
INSTANCES(lane_not_in_mask)

KERNEL(mma_in_branch) {
  float d[4] = {};
  if (Right || threadIdx.x != 9) {
    asm volatile("mma.sync.aligned.m16n8k16.row.col.f32.bf16.bf16.f32 {%0,%1,%2,%3}, {%4,%4,%4,%4}, {%4,%4}, {%0,%1,%2,%3};" : "+f"(d[0]), "+f"(d[1]), "+f"(d[2]), "+f"(d[3]) : "r"(data[threadIdx.x]));  // BUG mma_in_branch
  }
  out[threadIdx.x] = __float_as_int(d[0] + d[1] + d[2] + d[3]);
}
INSTANCES(mma_in_branch)

// Blocks of a grid are concurrent.
KERNEL(counter_across_blocks) {
  if (threadIdx.x == 0) {
    if (Right) {
      atomicAdd(out, 1);
    } else {
      out[0] += 1;  // BUG counter_across_blocks
    }
  }
}
INSTANCES(counter_across_blocks)

KERNEL(read_of_other_block) {
  out[blockIdx.x * 32 + threadIdx.x] = data[threadIdx.x];
  if (!Right && blockIdx.x > 0) out[blockIdx.x * 32 + threadIdx.x] += out[(blockIdx.x - 1) * 32 + threadIdx.x];  // BUG read_of_other_block
}
INSTANCES(read_of_other_block)

KERNEL(write_after_other_block_read) {
  const int value = data[threadIdx.x];
  out[blockIdx.x * 32 + threadIdx.x] = value;
  if (!Right && blockIdx.x == 2) data[threadIdx.x] = value + 1;  // BUG write_after_other_block_read
}
INSTANCES(write_after_other_block_read)

KERNEL(same_cell_two_blocks) {
  if (threadIdx.x == 0) out[Right ? blockIdx.x : 0] = static_cast<int>(blockIdx.x);  // BUG same_cell_two_blocks
}
INSTANCES(same_cell_two_blocks)

KERNEL(global_without_barrier) {
  out[threadIdx.x] = data[threadIdx.x];
  if (Right) __syncthreads();
  out[threadIdx.x + 64] = out[threadIdx.x ^ 33];  // BUG global_without_barrier
}
INSTANCES(global_without_barrier)

// The last block to arrive adds up what all blocks wrote: the fence and the atomic order them.
KERNEL(last_block) {
  __shared__ bool last;
  out[1 + blockIdx.x * 32 + threadIdx.x] = data[threadIdx.x];
  if (Right) __threadfence();
  __syncthreads();
  if (threadIdx.x == 0) last = atomicAdd(out, 1) == static_cast<int>(gridDim.x) - 1;
  __syncthreads();
  if (!last) return;
  int sum = 0;
  for (int b = 0; b < static_cast<int>(gridDim.x); ++b) sum += out[1 + b * 32 + threadIdx.x];  // BUG last_block
  data[threadIdx.x] = sum;
}
INSTANCES(last_block)

KERNEL(atomic_and_plain) {
  __shared__ int cell;
  if (threadIdx.x == 0) cell = 0;
  __syncthreads();
  atomicAdd(&cell, data[threadIdx.x]);
  if (Right) __syncthreads();
  out[threadIdx.x] = cell;  // BUG atomic_and_plain
}
INSTANCES(atomic_and_plain)

KERNEL(two_values_one_place) {
  __shared__ int cell;
  cell = Right ? 1 : static_cast<int>(threadIdx.x);  // BUG two_values_one_place
  __syncwarp();
  out[threadIdx.x] = cell;
}
INSTANCES(two_values_one_place)

KERNEL(failed_assertion) {
  assert(Right || data[threadIdx.x] < 0);  // BUG failed_assertion
  out[threadIdx.x] = 0;
}
INSTANCES(failed_assertion)

KERNEL(endless_loop) {
  volatile int* flag = data;
  while (!Right && flag[0] != -1) {  // BUG endless_loop
  }
  out[threadIdx.x] = 0;
}
INSTANCES(endless_loop)
