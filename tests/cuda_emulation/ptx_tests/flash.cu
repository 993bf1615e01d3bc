// A small attention kernel of the kind that the judge is for: cp.async into swizzled tiles, ldmatrix, mma, shuffles.
// Head dimension 64, tiles of 64 rows and 64 keys, 4 warps. `Bug` plants one of the bugs that such kernels have.
#include <cuda_bf16.h>

#include <cmath>
#include <cstdint>

namespace {

enum Bug { none, no_barrier_before_values, no_barrier_after_scores, no_copy_wait, store_past_end };

__device__ std::uint32_t shared_address(const void* p) { return static_cast<std::uint32_t>(__cvta_generic_to_shared(p)); }
__device__ void copy16(void* to, const void* from, bool valid) {
  asm volatile("cp.async.cg.shared.global [%0], [%1], 16, %2;" ::"r"(shared_address(to)), "l"(from), "r"(valid ? 16 : 0)
               : "memory");
}
__device__ void commit() { asm volatile("cp.async.commit_group;" ::: "memory"); }
__device__ void wait() { asm volatile("cp.async.wait_group 0;" ::: "memory"); }
__device__ void load4(std::uint32_t* r, const void* p) {
  asm volatile("ldmatrix.sync.aligned.m8n8.x4.shared.b16 {%0,%1,%2,%3}, [%4];"
               : "=r"(r[0]), "=r"(r[1]), "=r"(r[2]), "=r"(r[3])
               : "r"(shared_address(p))
               : "memory");
}
__device__ void load4_transposed(std::uint32_t* r, const void* p) {
  asm volatile("ldmatrix.sync.aligned.m8n8.x4.trans.shared.b16 {%0,%1,%2,%3}, [%4];"
               : "=r"(r[0]), "=r"(r[1]), "=r"(r[2]), "=r"(r[3])
               : "r"(shared_address(p))
               : "memory");
}
__device__ void multiply(float* d, const std::uint32_t* a, const std::uint32_t* b) {
  asm volatile("mma.sync.aligned.m16n8k16.row.col.f32.bf16.bf16.f32 {%0,%1,%2,%3}, {%4,%5,%6,%7}, {%8,%9}, {%0,%1,%2,%3};"
               : "+f"(d[0]), "+f"(d[1]), "+f"(d[2]), "+f"(d[3])
               : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b[0]), "r"(b[1]));
}
/// Chunks of 8 numbers are exchanged so that no two rows of an 8 x 8 matrix share banks.
__device__ int place(int row, int chunk) { return row * 64 + (chunk ^ (row & 7)) * 8; }

struct Arguments {
  const __nv_bfloat16 *q, *k, *v;  // [rows, heads, 64]
  __nv_bfloat16* o;
  float* lse;  // [heads, rows]
  int rows, keys, heads;
  float scale;  // of base 2
};

__device__ void load_tile(__nv_bfloat16* tile, const __nv_bfloat16* from, int first, int end, int head, int heads) {
  for (int i = threadIdx.x; i < 64 * 8; i += 128) {
    const int row = i / 8, chunk = i % 8;
    const bool valid = first + row < end;
    const auto source = (static_cast<std::size_t>(valid ? first + row : 0) * heads + head) * 64 + chunk * 8;
    copy16(tile + place(row, chunk), from + source, valid);
  }
  commit();
}

}  // namespace

template <int Planted>
__global__ void __launch_bounds__(128) flash(const __grid_constant__ Arguments arguments) {
  extern __shared__ __align__(128) __nv_bfloat16 tiles[];
  __nv_bfloat16 *q_tile = tiles, *k_tile = q_tile + 64 * 64, *v_tile = k_tile + 64 * 64;
  const int warp = threadIdx.x / 32, lane = threadIdx.x % 32, head = blockIdx.y, heads = arguments.heads;
  const int first = blockIdx.x * 64;
  load_tile(q_tile, arguments.q, first, arguments.rows, head, heads);
  load_tile(k_tile, arguments.k, 0, arguments.keys, head, heads);
  float o[8][4] = {};
  float most[2] = {-INFINITY, -INFINITY}, sum[2] = {};
  std::uint32_t q[4][4];
  const int count = (arguments.keys + 63) / 64;
  for (int tile = 0; tile < count; ++tile) {
    if (Planted != no_copy_wait) wait();
    if (Planted != no_barrier_before_values) __syncthreads();
    load_tile(v_tile, arguments.v, tile * 64, arguments.keys, head, heads);
    if (tile == 0) {
      for (int k = 0; k < 4; ++k) load4(q[k], q_tile + place(warp * 16 + lane % 16, k * 2 + lane / 16));
    }
    float s[8][4] = {};
    for (int k = 0; k < 4; ++k) {
      for (int n = 0; n < 8; n += 2) {
        std::uint32_t b[4];
        load4(b, k_tile + place(n * 8 + lane % 8 + lane / 16 * 8, k * 2 + lane / 8 % 2));
        multiply(s[n], q[k], b);
        multiply(s[n + 1], q[k], b + 2);
      }
    }
    wait();
    if (Planted != no_barrier_after_scores) __syncthreads();
    if (tile + 1 < count) load_tile(k_tile, arguments.k, (tile + 1) * 64, arguments.keys, head, heads);
    for (int r = 0; r < 2; ++r) {
      float now = most[r];
      for (int n = 0; n < 8; ++n) {
        for (int j = 0; j < 2; ++j) {
          float& x = s[n][r * 2 + j];
          x = tile * 64 + n * 8 + lane % 4 * 2 + j < arguments.keys ? x * arguments.scale : -INFINITY;
          now = fmaxf(now, x);
        }
      }
      now = fmaxf(now, __shfl_xor_sync(0xFFFFFFFF, now, 1));
      now = fmaxf(now, __shfl_xor_sync(0xFFFFFFFF, now, 2));
      const float fade = exp2f(most[r] - now);
      most[r] = now;
      sum[r] *= fade;
      for (int n = 0; n < 8; ++n) {
        for (int j = 0; j < 2; ++j) {
          float& x = s[n][r * 2 + j];
          x = exp2f(x - now);
          sum[r] += x;
          o[n][r * 2 + j] *= fade;
        }
      }
    }
    for (int k = 0; k < 4; ++k) {
      std::uint32_t a[4];
      for (int i = 0; i < 4; ++i) {
        const float* pair = &s[k * 2 + i / 2][i % 2 * 2];
        const __nv_bfloat162 both = __floats2bfloat162_rn(pair[0], pair[1]);
        memcpy(&a[i], &both, 4);
      }
      for (int n = 0; n < 8; n += 2) {
        std::uint32_t b[4];
        load4_transposed(b, v_tile + place(k * 16 + lane % 16, n + lane / 16));
        multiply(o[n], a, b);
        multiply(o[n + 1], a, b + 2);
      }
    }
  }
  for (int r = 0; r < 2; ++r) {
    float total = sum[r];
    total += __shfl_xor_sync(0xFFFFFFFF, total, 1);
    total += __shfl_xor_sync(0xFFFFFFFF, total, 2);
    const int row = first + warp * 16 + lane / 4 + r * 8;
    if (row >= arguments.rows + (Planted == store_past_end ? 1 : 0)) continue;
    for (int n = 0; n < 8; ++n) {
      const auto at = (static_cast<std::size_t>(row) * heads + head) * 64 + n * 8 + lane % 4 * 2;
      *reinterpret_cast<__nv_bfloat162*>(arguments.o + at) =
          __floats2bfloat162_rn(o[n][r * 2] / total, o[n][r * 2 + 1] / total);
    }
    if (lane % 4 == 0 && row < arguments.rows) {
      arguments.lse[head * arguments.rows + row] = most[r] * 0.69314718F + logf(total);
    }
  }
}

template __global__ void flash<none>(const __grid_constant__ Arguments);
template __global__ void flash<no_barrier_before_values>(const __grid_constant__ Arguments);
template __global__ void flash<no_barrier_after_scores>(const __grid_constant__ Arguments);
template __global__ void flash<no_copy_wait>(const __grid_constant__ Arguments);
template __global__ void flash<store_past_end>(const __grid_constant__ Arguments);
