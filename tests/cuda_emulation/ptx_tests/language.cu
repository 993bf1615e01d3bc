// What CUDA C++ offers beside arithmetic: collectives, atomics, calls, memories, barriers, library algorithms.
#include <cub/cub.cuh>
#include <cuda/functional>

#include <cstdint>

extern "C" {

// Row i of out has what lane i got.
__global__ void shuffles(const int* in, int* out) {
  const int l = threadIdx.x;
  const int v = in[l];
  out[l] = __shfl_sync(0xFFFFFFFF, v, l * 7 + 3);
  out[32 + l] = __shfl_up_sync(0xFFFFFFFF, v, 5);
  out[64 + l] = __shfl_down_sync(0xFFFFFFFF, v, 9);
  out[96 + l] = __shfl_xor_sync(0xFFFFFFFF, v, 11);
  out[128 + l] = __shfl_sync(0xFFFFFFFF, v, l + 1, 8);
  out[160 + l] = __shfl_up_sync(0xFFFFFFFF, v, 3, 16);
  out[192 + l] = __shfl_down_sync(0xFFFFFFFF, v, 2, 4);
  out[224 + l] = __shfl_xor_sync(0xFFFFFFFF, v, 5, 8);
  if (l % 3 == 0) out[256 + l] = __shfl_sync(0x49249249, v, 3 * (l / 6));
}

__global__ void votes(const int* in, unsigned* out) {
  const int l = threadIdx.x;
  const int v = in[l];
  out[l] = __ballot_sync(0xFFFFFFFF, v > 0);
  out[32 + l] = __any_sync(0xFFFFFFFF, v == 5);
  out[64 + l] = __all_sync(0xFFFFFFFF, v < 100);
  out[96 + l] = __match_any_sync(0xFFFFFFFF, v % 5);
  int same;
  out[128 + l] = __match_all_sync(0xFFFFFFFF, v / 1000, &same);
  out[160 + l] = static_cast<unsigned>(same);
  out[192 + l] = static_cast<unsigned>(__reduce_add_sync(0xFFFFFFFF, v));
  out[224 + l] = static_cast<unsigned>(__reduce_min_sync(0xFFFFFFFF, v));
  out[256 + l] = __reduce_xor_sync(0xFFFFFFFF, static_cast<unsigned>(v));
  if (l % 2 == 0) {
    out[288 + l] = __activemask();
  } else {
    out[288 + l] = ~__activemask();
  }
}

// Lanes leave the loop one after the other, and meet again behind it.
__global__ void divergent_loop(const int* in, unsigned* out) {
  int steps = 0;
  for (int v = in[threadIdx.x]; v != 1; v = v % 2 == 0 ? v / 2 : 3 * v + 1) ++steps;
  out[threadIdx.x] = static_cast<unsigned>(steps);
  out[32 + threadIdx.x] = __ballot_sync(0xFFFFFFFF, steps > 10);
}

__global__ void atomics(const int* in, int* out, float* sums, unsigned long long* wide) {
  __shared__ int cells[8];
  if (threadIdx.x < 8) cells[threadIdx.x] = 0;
  __syncthreads();
  const int v = in[blockIdx.x * blockDim.x + threadIdx.x];
  atomicAdd(&cells[v & 7], 1);
  __syncthreads();
  if (threadIdx.x < 8) atomicAdd(&out[threadIdx.x], cells[threadIdx.x]);
  atomicMax(&out[8], v);
  atomicMin(&out[9], v);
  atomicAnd(&out[10], v | 1024);
  atomicOr(&out[11], v);
  atomicXor(&out[12], v);
  atomicInc(reinterpret_cast<unsigned*>(&out[13]), 9);
  atomicExch(&out[14], 7);
  int old = atomicAdd(&out[16], 0);
  while (true) {  // multiply by 3 modulo 65537
    const int seen = atomicCAS(&out[16], old, old * 3 % 65537);
    if (seen == old) break;
    old = seen;
  }
  atomicAdd(&sums[0], 0.5F);
  atomicAdd(&wide[0], 0x100000001ULL);
}

__device__ __noinline__ int slow_power(int base, int exponent) {
  int result = 1;
  for (int i = 0; i < exponent; ++i) result *= base;
  return result;
}
struct Pair {
  double a;
  int b[3];
};
__device__ __noinline__ Pair make_pair_of(int v) { return {v * 0.5, {v, v + 1, v + 2}}; }

__global__ void calls(const int* in, double* out) {
  const int v = in[threadIdx.x];
  double sum = slow_power(v % 5, threadIdx.x % 4);
  if (v % 2 == 0) {
    const Pair pair = make_pair_of(v);
    sum += pair.a + pair.b[threadIdx.x % 3];
  }
  out[threadIdx.x] = sum;
}

__constant__ int table[4] = {10, 20, 30, 40};
__device__ int counter = 5;
struct Big {
  int values[1024];
  int count;
};
__global__ void memories(const __grid_constant__ Big big, const signed char* small, int* out) {
  const int t = threadIdx.x;
  int local[8];
  for (int i = 0; i < 8; ++i) local[i] = i * i;
  switch (t % 6) {
    case 0: out[t] = 1; break;
    case 1: out[t] = table[t & 3]; break;
    case 2: out[t] = big.values[(t * 37) % big.count]; break;
    case 3: out[t] = local[(t / 3) & 7]; break;
    case 4: out[t] = small[t]; break;
    default: out[t] = static_cast<unsigned char>(small[t]);
  }
  if (t == 0) atomicAdd(&counter, 3);
}

// Warp 0 produces, warp 1 consumes: named barriers for two warps each.
__global__ void producer(const int* in, int* out) {
  __shared__ int cells[32];
  const int l = threadIdx.x % 32;
  for (int round = 0; round < 4; ++round) {
    if (threadIdx.x < 32) {
      if (round > 0) asm volatile("bar.sync 2, 64;" ::: "memory");
      cells[l] = in[round * 32 + l];
      asm volatile("bar.arrive 1, 64;" ::: "memory");
    } else if (threadIdx.x < 64) {
      asm volatile("bar.sync 1, 64;" ::: "memory");
      out[round * 32 + l] = cells[31 - l];
      if (round < 3) asm volatile("bar.arrive 2, 64;" ::: "memory");
    }
  }
}

// Copies of 4, 8 and 16 bytes, of which lane l reads l % (size + 1).
__global__ void partial_copies(const char* in, char* out) {
  __shared__ __align__(16) char cells[32 * 48];
  const int l = threadIdx.x;
  const auto at = static_cast<std::uint32_t>(__cvta_generic_to_shared(cells));
  asm volatile("cp.async.ca.shared.global [%0], [%1], 4, %2;" ::"r"(at + l * 48), "l"(in + l * 48), "r"(l % 5) : "memory");
  asm volatile("cp.async.ca.shared.global [%0], [%1], 8, %2;" ::"r"(at + l * 48 + 8), "l"(in + l * 48 + 8), "r"(l % 9)
               : "memory");
  asm volatile("cp.async.cg.shared.global [%0], [%1], 16, %2;" ::"r"(at + l * 48 + 16), "l"(in + l * 48 + 16), "r"(l % 17)
               : "memory");
  asm volatile("cp.async.commit_group; cp.async.wait_group 0;" ::: "memory");
  for (int i = 0; i < 32; ++i) {
    if (i < 4 || i >= 8) out[l * 48 + i] = cells[l * 48 + i];
  }
}

__global__ void strided_shared(int* out, int stride) {
  __shared__ int cells[32 * 33];
  cells[threadIdx.x * stride] = static_cast<int>(threadIdx.x);
  __syncwarp();
  out[threadIdx.x] = cells[threadIdx.x * stride];
}

__global__ void strided_global(const int* in, int* out, int stride, int offset) {
  out[threadIdx.x] = in[threadIdx.x * stride + offset];
}

__global__ void barrier_votes(const int* in, int* out) {
  const int v = in[threadIdx.x];
  out[threadIdx.x] = __syncthreads_count(v > 5);
  out[128 + threadIdx.x] = __syncthreads_and(v < 8);
  out[256 + threadIdx.x] = __syncthreads_or(v == 9);
}

// A spin on another warp's flag: volatile accesses do not race, the fence orders what was written before.
__global__ void flag(const int* in, int* out) {
  __shared__ volatile int ready;
  if (threadIdx.x == 0) ready = 0;
  __syncthreads();
  if (threadIdx.x == 32) ready = in[0];
  if (threadIdx.x == 0) {
    while (ready == 0) {
    }
    out[0] = ready;
  }
}

__global__ void partial_block(const int* in, int* out) {
  __shared__ int sum;
  if (threadIdx.x == 0) sum = 0;
  __syncthreads();
  const int v = __reduce_add_sync(__activemask(), in[threadIdx.x]);
  if (threadIdx.x % 32 == 0) atomicAdd(&sum, v);
  __syncthreads();
  if (threadIdx.x == 0) out[0] = sum;
}

}  // extern "C"

// CUB's algorithms for blocks of 128 threads with 4 items.
extern "C" __global__ void library(const unsigned* in, unsigned* keys, int* values, int* sums, unsigned* largest,
                                   unsigned* histogram) {
  using Sort = cub::BlockRadixSort<unsigned, 128, 4, int>;
  using Scan = cub::BlockScan<int, 128>;
  using Reduce = cub::BlockReduce<unsigned, 128>;
  using Histogram = cub::BlockHistogram<unsigned char, 128, 4, 256>;
  __shared__ union {
    typename Sort::TempStorage sort;
    typename Scan::TempStorage scan;
    typename Reduce::TempStorage reduce;
    typename Histogram::TempStorage histogram;
  } storage;
  __shared__ unsigned bins[256];
  const int first = static_cast<int>(threadIdx.x) * 4;
  unsigned key[4];
  int value[4];
  unsigned char byte[4];
  for (int i = 0; i < 4; ++i) {
    key[i] = in[first + i];
    value[i] = first + i;
    byte[i] = static_cast<unsigned char>(key[i]);
  }
  const unsigned most = Reduce(storage.reduce).Reduce(max(max(key[0], key[1]), max(key[2], key[3])), cuda::maximum<>{});
  __syncthreads();
  Histogram(storage.histogram).Histogram(byte, bins);
  __syncthreads();
  Sort(storage.sort).SortDescending(key, value);
  __syncthreads();
  int sum[4];
  Scan(storage.scan).ExclusiveSum(value, sum);
  for (int i = 0; i < 4; ++i) {
    keys[first + i] = key[i];
    values[first + i] = value[i];
    sums[first + i] = sum[i];
  }
  if (threadIdx.x == 0) *largest = most;
  for (int i = static_cast<int>(threadIdx.x); i < 256; i += 128) histogram[i] = bins[i];
}
