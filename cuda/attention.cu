// Attention over slots, forward: online softmax in registers, products on the tensor cores (the algorithm of
// FlashAttention-2), bf16 in, float32 accumulation.
//
// The rows of a tile are a KV head's: positions times the query heads of its group, stacked, so that keys and values
// are read once for all of them. A block of threads walks over the tiles of 64 keys that its last row sees; keys and
// values pass through a ring in shared memory, filled by asynchronous copies two steps ahead. Where few rows leave
// multiprocessors idle, the tiles are dealt to several blocks ("parts") and a second kernel merges their results.
#include <cuda_runtime.h>

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <limits>
#include <type_traits>

#include "cuda/kernels.hpp"
#include "cuda/launch.cuh"
#include "cuda/ptx.cuh"

namespace apb::cuda {
namespace {

constexpr float infinity = std::numeric_limits<float>::infinity();
constexpr float log2_e = 1.4426950408889634F;
constexpr unsigned all_lanes = 0xFFFFFFFFU;
/// Weights may exceed 1 by this power of two before a row's sums are scaled to a new maximum: nearly always not.
constexpr float tolerated_growth = 8.0F;

/// Where a kernel writes: rows of bf16 or float32, and their log-sum-exp unless null.
struct Target {
  void* output;
  std::int64_t output_stride;
  float* log_sum_exp;
  std::int64_t log_sum_exp_stride;
  bool is_f32;
};

/// The visible slots that hold anything, behind them the causal slot; by member, for 4-byte alignment of all.
struct SlotTable {
  const std::byte* data[largest_slot_table + 1];
  int capacity[largest_slot_table + 1];
  int count[largest_slot_table + 1];
  int first_tile[largest_slot_table + 1];  // tiles of the slots before
  int visible;                             // entry of the causal slot
};

struct Parameters {
  const std::byte* query;
  std::int64_t query_stride;  // bytes
  Target target;              // of part 0
  std::int64_t part_rows;     // from a part's target to the next one's
  int rows;
  int group;
  std::int64_t causal_before;
  float scale;
  SlotTable slots;
};

/// `warps` times `row_blocks` times 16 rows by 64 keys.
template <int head_dim, int warps, int row_blocks>
struct Tiling {
  static constexpr int threads = 32 * warps;
  static constexpr int rows = 16 * row_blocks * warps;
  static constexpr int row_bytes = 2 * head_dim;
  static constexpr int query_bytes = rows * row_bytes;
  static constexpr int stage_bytes = tile * row_bytes;  // a tile's keys, or its values
  static constexpr int stages = 3;
  static constexpr int shared_bytes = query_bytes + stages * stage_bytes;
  /// That should be resident on a multiprocessor.
  static constexpr int blocks = warps == 1 ? 4 : row_blocks == 1 ? (head_dim == 64 ? 4 : 3) : (head_dim == 64 ? 3 : 2);
};

/// Offset of 16 bytes in a tile of rows. Eight rows' chunks of the same number lie in different banks, and so do a
/// row's eight.
template <int row_bytes>
__device__ __forceinline__ std::uint32_t swizzled(int row, int chunk) {
  return static_cast<std::uint32_t>(row * row_bytes + ((chunk ^ (row & 7)) << 4));
}

/// A tile of keys: tokens [first, first + 64) of a slot.
struct Cursor {
  int slot;
  int first;

  __device__ __forceinline__ void advance(const SlotTable& slots) {
    first += tile;
    if (slot < slots.visible && first >= slots.count[slot]) {
      ++slot;
      first = 0;
    }
  }
};

__device__ __forceinline__ Cursor find_tile(const SlotTable& slots, int index) {
  int low = 0;
  int high = slots.visible;
  while (low < high) {
    const int middle = (low + high + 1) / 2;
    if (slots.first_tile[middle] <= index) {
      low = middle;
    } else {
      high = middle - 1;
    }
  }
  return {low, (index - slots.first_tile[low]) * tile};
}

/// Which 16 bytes of a tile of rows a thread copies: chunk `chunk` of row `row` and of every `step`-th after it.
template <typename T>
struct Copier {
  static constexpr int chunks = T::row_bytes / 16;
  static constexpr int step = T::threads / chunks;
  int thread = ptx::thread_index();
  int row = thread / chunks;
  int chunk = thread % chunks;

  /// Offset of the i-th in shared memory. Rows eight apart are swizzled alike.
  __device__ __forceinline__ std::uint32_t offset(int i) const {
    if constexpr (step % 8 == 0) return swizzled<T::row_bytes>(row, chunk) + i * step * T::row_bytes;
    return swizzled<T::row_bytes>(row + i * step, chunk);
  }
};

/// Begins to copy `valid` rows from `source`, one behind another, and zeros behind them up to a tile.
template <typename T>
__device__ __forceinline__ void load_tile(std::uint32_t destination, const std::byte* source, int valid) {
  const Copier<T> copier;
  const std::byte* own = source + 16 * copier.thread;
  const int own_valid = valid - copier.row;
#pragma unroll
  for (int i = 0; i < tile / copier.step; ++i) {
    ptx::copy_async(destination + copier.offset(i), own + i * 16 * T::threads, i * copier.step < own_valid);
  }
}

enum class Half { keys, values };

template <typename T>
__device__ __forceinline__ void load_half(const SlotTable& slots, const Cursor& at, int kv_head, Half half,
                                          std::uint32_t destination) {
  const std::int64_t matrix = 2 * kv_head + (half == Half::values ? 1 : 0);
  const std::int64_t row = matrix * slots.capacity[at.slot] + at.first;
  load_tile<T>(destination, slots.data[at.slot] + row * T::row_bytes, slots.count[at.slot] - at.first);
}

/// Begins to copy the rows of a tile, stacked (position, head of the group); zeros behind the last one.
template <typename T>
__device__ __forceinline__ void load_query(const Parameters& p, std::uint32_t destination, int first_row, int kv_head) {
  const Copier<T> copier;
#pragma unroll
  for (int i = 0; i < T::rows / copier.step; ++i) {
    const int row = first_row + copier.row + i * copier.step;
    const bool valid = row < p.rows * p.group;
    const int position = valid ? row / p.group : 0;
    const int head = valid ? kv_head * p.group + row % p.group : 0;
    const std::byte* source = p.query + position * p.query_stride + head * T::row_bytes + 16 * copier.chunk;
    ptx::copy_async(destination + copier.offset(i), source, valid);
  }
}

/// scores = query rows times keys^T; element (row block, 8 keys) as multiply_add holds it.
template <int head_dim, int row_blocks>
__device__ __forceinline__ void multiply_keys(std::uint32_t query, std::uint32_t keys,
                                              float (&scores)[row_blocks][tile / 8][4]) {
  constexpr int row_bytes = 2 * head_dim;
#pragma unroll
  for (int r = 0; r < row_blocks; ++r) {
#pragma unroll
    for (int n = 0; n < tile / 8; ++n) {
#pragma unroll
      for (int i = 0; i < 4; ++i) scores[r][n][i] = 0.0F;
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

/// sums += weights, rounded to bf16, times values.
template <int head_dim, int row_blocks>
__device__ __forceinline__ void add_values(const float (&weights)[row_blocks][tile / 8][4], std::uint32_t values,
                                           float (&sums)[row_blocks][head_dim / 8][4]) {
  constexpr int row_bytes = 2 * head_dim;
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

/// Scores of keys that a row does not see become -infinity. `seen` counts the keys, from the tile's first on, that the
/// lane's rows see: of each row block, rows lane / 4 and lane / 4 + 8.
template <int row_blocks>
__device__ __forceinline__ void mask(float (&scores)[row_blocks][tile / 8][4], const int (&seen)[row_blocks][2]) {
  const int column = static_cast<int>(threadIdx.x % 4) * 2;
#pragma unroll
  for (int r = 0; r < row_blocks; ++r) {
#pragma unroll
    for (int n = 0; n < tile / 8; ++n) {
#pragma unroll
      for (int i = 0; i < 4; ++i) {
        if (8 * n + column + i % 2 >= seen[r][i / 2]) scores[r][n][i] = -infinity;
      }
    }
  }
}

__device__ __forceinline__ float largest_in_quad(float x) {
  x = fmaxf(x, __shfl_xor_sync(all_lanes, x, 1));
  return fmaxf(x, __shfl_xor_sync(all_lanes, x, 2));
}

__device__ __forceinline__ float sum_of_quad(float x) {
  x += __shfl_xor_sync(all_lanes, x, 1);
  return x + __shfl_xor_sync(all_lanes, x, 2);
}

/// A warp's rows, two a row block and lane: weights are 2^((score - maximum) * scale), `sum` is this lane's share.
template <int head_dim, int row_blocks>
struct Rows {
  float maximum[row_blocks][2];
  float sum[row_blocks][2];
  float sums[row_blocks][head_dim / 8][4];  // weights times values

  __device__ __forceinline__ void clear() {
#pragma unroll
    for (int r = 0; r < row_blocks; ++r) {
#pragma unroll
      for (int half = 0; half < 2; ++half) {
        maximum[r][half] = -infinity;
        sum[r][half] = 0.0F;
      }
#pragma unroll
      for (int n = 0; n < head_dim / 8; ++n) {
#pragma unroll
        for (int i = 0; i < 4; ++i) sums[r][n][i] = 0.0F;
      }
    }
  }

  /// Turns scores into weights, by `scale` = log2(e) / sqrt(head_dim), and adds them to the rows' sums.
  __device__ __forceinline__ void weigh(float (&scores)[row_blocks][tile / 8][4], float scale) {
    float largest[row_blocks][2];
    bool grows = false;
#pragma unroll
    for (int r = 0; r < row_blocks; ++r) {
#pragma unroll
      for (int half = 0; half < 2; ++half) {
        float x = scores[r][0][2 * half];
#pragma unroll
        for (int n = 0; n < tile / 8; ++n) x = fmaxf(x, fmaxf(scores[r][n][2 * half], scores[r][n][2 * half + 1]));
        largest[r][half] = largest_in_quad(x);
        grows = grows || largest[r][half] * scale > maximum[r][half] * scale + tolerated_growth;
      }
    }
    if (__any_sync(all_lanes, grows)) raise_maximum(largest, scale);
#pragma unroll
    for (int r = 0; r < row_blocks; ++r) {
#pragma unroll
      for (int half = 0; half < 2; ++half) {
        const float offset = blind(r, half) ? 0.0F : maximum[r][half] * scale;
#pragma unroll
        for (int n = 0; n < tile / 8; ++n) {
#pragma unroll
          for (int i = 2 * half; i < 2 * half + 2; ++i) {
            scores[r][n][i] = ptx::power_of_two(scores[r][n][i] * scale - offset);
            sum[r][half] += scores[r][n][i];
          }
        }
      }
    }
  }

  __device__ __forceinline__ bool blind(int r, int half) const { return maximum[r][half] == -infinity; }

 private:
  __device__ __forceinline__ void raise_maximum(const float (&largest)[row_blocks][2], float scale) {
#pragma unroll
    for (int r = 0; r < row_blocks; ++r) {
#pragma unroll
      for (int half = 0; half < 2; ++half) {
        const float before = maximum[r][half];
        maximum[r][half] = fmaxf(before, largest[r][half]);
        const float factor = blind(r, half) ? 1.0F : ptx::power_of_two((before - maximum[r][half]) * scale);
        sum[r][half] *= factor;
#pragma unroll
        for (int n = 0; n < head_dim / 8; ++n) {
          sums[r][n][2 * half] *= factor;
          sums[r][n][2 * half + 1] *= factor;
        }
      }
    }
  }
};

/// Writes a warp's rows, stacked from `first_row` on; `shared`, the warp's own rows of the query, is overwritten.
template <int head_dim, int row_blocks>
__device__ __forceinline__ void write_rows(const Parameters& p, const Target& target, int first_row, int kv_head,
                                           Rows<head_dim, row_blocks>& rows, std::byte* shared) {
  constexpr int row_bytes = 2 * head_dim;
  const int lane = static_cast<int>(threadIdx.x % 32);
  const int end = p.rows * p.group;
  __syncwarp();
#pragma unroll
  for (int r = 0; r < row_blocks; ++r) {
#pragma unroll
    for (int half = 0; half < 2; ++half) {
      const int in_warp = 16 * r + 8 * half + lane / 4;
      const int row = first_row + in_warp;
      const int position = row / p.group;
      const int head = kv_head * p.group + row % p.group;
      const float sum = sum_of_quad(rows.sum[r][half]);
      const float factor = sum == 0.0F ? 0.0F : 1.0F / sum;
      if (target.log_sum_exp != nullptr && row < end && lane % 4 == 0) {
        target.log_sum_exp[position * target.log_sum_exp_stride + head] =
            rows.blind(r, half) && sum == 0.0F ? rows.maximum[r][half] : rows.maximum[r][half] * p.scale + logf(sum);
      }
      auto* out = static_cast<float*>(target.output) + position * target.output_stride + head * head_dim;
#pragma unroll
      for (int n = 0; n < head_dim / 8; ++n) {
        const float low = rows.sums[r][n][2 * half] * factor;
        const float high = rows.sums[r][n][2 * half + 1] * factor;
        const int column = 8 * n + 2 * (lane % 4);
        if (!target.is_f32) {
          *reinterpret_cast<std::uint32_t*>(shared + swizzled<row_bytes>(in_warp, n) + 4 * (lane % 4)) =
              ptx::pack_bf16(low, high);
        } else if (row < end) {
          *reinterpret_cast<float2*>(out + column) = make_float2(low, high);
        }
      }
    }
  }
  if (target.is_f32) return;
  __syncwarp();
  constexpr int chunks = row_bytes / 16;
#pragma unroll
  for (int i = 0; i < 16 * row_blocks * chunks / 32; ++i) {
    const int index = lane + 32 * i;
    const int row = first_row + index / chunks;
    if (row >= end) continue;
    const int head = kv_head * p.group + row % p.group;
    auto* out = static_cast<std::byte*>(target.output) + 2 * (row / p.group * target.output_stride + head * head_dim) +
                index % chunks * 16;
    *reinterpret_cast<uint4*>(out) =
        *reinterpret_cast<const uint4*>(shared + swizzled<row_bytes>(index / chunks, index % chunks));
  }
}

/// Grid: KV heads, tiles of rows (the last ones first: with a causal slot they see most), parts.
template <int head_dim, int warps, int row_blocks>
__global__ __launch_bounds__(
    Tiling<head_dim, warps, row_blocks>::threads,
    Tiling<head_dim, warps, row_blocks>::blocks) void attend(const __grid_constant__ Parameters p) {
  using T = Tiling<head_dim, warps, row_blocks>;
  extern __shared__ __align__(1024) std::byte shared[];
  const int lane = static_cast<int>(threadIdx.x % 32);
  const int kv_head = static_cast<int>(blockIdx.x);
  const int first_row = static_cast<int>(gridDim.y - 1 - blockIdx.y) * T::rows;
  const int warp_rows = static_cast<int>(threadIdx.x / 32) * 16 * row_blocks;  // first of the warp's

  // What a stacked row sees of the causal slot.
  const auto causal_count = [&](int row) {
    const int position = min(row / p.group, p.rows - 1);
    const std::int64_t seen = p.causal_before + position + 1;
    return static_cast<int>(min(max(seen, std::int64_t{0}), std::int64_t{p.slots.count[p.slots.visible]}));
  };
  const int causal_least = causal_count(first_row);
  const int causal_most = causal_count(first_row + T::rows - 1);
  const int tiles = p.slots.first_tile[p.slots.visible] + (causal_most + tile - 1) / tile;

  // The parts' shares of the tiles differ by one at most.
  const auto part = static_cast<int>(blockIdx.z);
  const auto parts = static_cast<int>(gridDim.z);
  int left = tiles / parts + (part < tiles % parts ? 1 : 0);

  Rows<head_dim, row_blocks> rows;
  rows.clear();
  if (left > 0) {
    const std::uint32_t query = ptx::shared_address(shared);
    const std::uint32_t ring = query + T::query_bytes;
    const std::uint32_t last_stage = ring + (T::stages - 1) * T::stage_bytes;
    const auto after = [&](std::uint32_t stage) { return stage == last_stage ? ring : stage + T::stage_bytes; };
    const auto before = [&](std::uint32_t stage) { return stage == ring ? last_stage : stage - T::stage_bytes; };
    // A lane's address in an operand's tile; chunks are added by XOR.
    const std::uint32_t of_16_rows = swizzled<T::row_bytes>(lane % 16, lane / 16);
    const std::uint32_t of_keys = swizzled<T::row_bytes>(lane % 8 + lane / 16 * 8, lane / 8 % 2);
    const std::uint32_t warp_query = query + warp_rows * T::row_bytes + of_16_rows;

    Cursor at = find_tile(p.slots, tiles / parts * part + min(part, tiles % parts));
    std::uint32_t stage = ring;  // of the keys or values that come next
    load_query<T>(p, query, first_row, kv_head);
    load_half<T>(p.slots, at, kv_head, Half::keys, ring);
    ptx::commit_copies();
    load_half<T>(p.slots, at, kv_head, Half::values, after(ring));
    ptx::commit_copies();

    for (; left > 0; --left) {
      const bool is_causal = at.slot == p.slots.visible;
      const int seen_by_all = (is_causal ? causal_least : p.slots.count[at.slot]) - at.first;
      at.advance(p.slots);  // to the tile that is loaded meanwhile
      const bool more = left > 1;

      // Behind the barrier all warps have the keys, and are done with the values before them: their stage is free.
      ptx::wait_copies<1>();
      __syncthreads();
      if (more) load_half<T>(p.slots, at, kv_head, Half::keys, before(stage));
      ptx::commit_copies();
      float scores[row_blocks][tile / 8][4];
      multiply_keys<head_dim, row_blocks>(warp_query, stage + of_keys, scores);
      stage = after(stage);

      ptx::wait_copies<1>();
      __syncthreads();
      if (more) load_half<T>(p.slots, at, kv_head, Half::values, before(stage));
      ptx::commit_copies();
      if (seen_by_all < tile) {
        int seen[row_blocks][2];
#pragma unroll
        for (int r = 0; r < row_blocks; ++r) {
          // The causal slot is the last: `at` has gone on in it by one tile.
          const int row = first_row + warp_rows + 16 * r + lane / 4;
          seen[r][0] = is_causal ? causal_count(row) - (at.first - tile) : seen_by_all;
          seen[r][1] = is_causal ? causal_count(row + 8) - (at.first - tile) : seen_by_all;
        }
        mask<row_blocks>(scores, seen);
      }
      rows.weigh(scores, p.scale * log2_e);
      add_values<head_dim, row_blocks>(scores, stage + of_16_rows, rows.sums);
      stage = after(stage);
    }
  }

  Target target = p.target;
  if (gridDim.z > 1) {
    target.output = static_cast<float*>(target.output) + part * p.part_rows * target.output_stride;
    target.log_sum_exp += part * p.part_rows * target.log_sum_exp_stride;
  }
  write_rows<head_dim, row_blocks>(p, target, first_row + warp_rows, kv_head, rows, shared + warp_rows * T::row_bytes);
}

struct MergeParameters {
  const float* outputs;       // [parts, rows, heads, head_dim]
  const float* log_sum_exps;  // [parts, rows, heads]
  int parts;
  int rows;
  int heads;
  Target target;
};

/// Sums of values under weights e^(log-sum-exp - maximum).
struct Merged {
  float maximum = -infinity;
  float weights = 0.0F;
  float4 sums{0.0F, 0.0F, 0.0F, 0.0F};

  /// Adds values that are the mean of others, of those weights.
  __device__ __forceinline__ void add(const Merged& other) {
    const float before = maximum;
    maximum = fmaxf(before, other.maximum);
    const float base = maximum == -infinity ? 0.0F : maximum;
    const float own = expf(before - base);
    const float others = expf(other.maximum - base);
    weights = weights * own + other.weights * others;
    sums.x = sums.x * own + other.sums.x * others;
    sums.y = sums.y * own + other.sums.y * others;
    sums.z = sums.z * own + other.sums.z * others;
    sums.w = sums.w * own + other.sums.w * others;
  }
};

constexpr int merge_threads = 512;

/// Grid: rows times heads. Threads that share four columns take every so many parts each, and then go in order.
template <int head_dim>
__global__ __launch_bounds__(merge_threads, 2) void merge_parts(const __grid_constant__ MergeParameters p) {
  constexpr int lanes = head_dim / 4;
  __shared__ Merged shared[merge_threads];
  const std::int64_t index = blockIdx.x;
  const std::int64_t stride = std::int64_t{p.rows} * p.heads;
  const auto thread = static_cast<int>(threadIdx.x);
  const int column = 4 * (thread % lanes);
  const auto strands = static_cast<int>(blockDim.x) / lanes;

  Merged merged;
#pragma unroll 4
  for (int part = thread / lanes; part < p.parts; part += strands) {
    const std::int64_t row = part * stride + index;
    merged.add({p.log_sum_exps[row], 1.0F, *reinterpret_cast<const float4*>(p.outputs + row * head_dim + column)});
  }
  shared[thread] = merged;
  __syncthreads();
  if (thread >= lanes) return;
  for (int strand = 1; strand < strands; ++strand) merged.add(shared[strand * lanes + thread]);

  const std::int64_t row = index / p.heads;
  const std::int64_t head = index % p.heads;
  if (p.target.log_sum_exp != nullptr && thread == 0) {
    p.target.log_sum_exp[row * p.target.log_sum_exp_stride + head] = merged.maximum + logf(merged.weights);
  }
  const float factor = merged.weights == 0.0F ? 0.0F : 1.0F / merged.weights;
  const std::int64_t at = row * p.target.output_stride + head * head_dim + column;
  const float4 out{merged.sums.x * factor, merged.sums.y * factor, merged.sums.z * factor, merged.sums.w * factor};
  if (p.target.is_f32) {
    *reinterpret_cast<float4*>(static_cast<float*>(p.target.output) + at) = out;
  } else {
    *reinterpret_cast<uint2*>(static_cast<std::uint16_t*>(p.target.output) + at) =
        make_uint2(ptx::pack_bf16(out.x, out.y), ptx::pack_bf16(out.z, out.w));
  }
}

/// Drops the empty entries, numbers the tiles.
SlotTable slot_table(const AttentionArguments& arguments) {
  SlotTable table;
  table.visible = 0;
  int tiles = 0;
  const auto add = [&](const SlotRange& range) {
    const int entry = table.visible;
    table.data[entry] = range.slot.data;
    table.capacity[entry] = range.slot.capacity;
    table.count[entry] = range.count;
    table.first_tile[entry] = tiles;
  };
  for (const SlotRange& range : arguments.visible) {
    if (range.count == 0) continue;
    add(range);
    tiles += (range.count + tile - 1) / tile;
    ++table.visible;
  }
  add(arguments.causal);
  return table;
}

/// How many parts finish first, counted in tiles that a multiprocessor's place works through one after another.
int choose_parts(std::int64_t blocks, std::int64_t places, std::int64_t tiles) {
  constexpr std::int64_t start_cost = 1;
  constexpr std::int64_t merge_cost = 3;
  std::int64_t best = 1;
  std::int64_t best_cost = std::numeric_limits<std::int64_t>::max();
  for (std::int64_t parts = 1; parts == 1 || (parts <= tiles && parts * blocks <= 2 * places); ++parts) {
    const std::int64_t waves = (blocks * parts + places - 1) / places;
    const std::int64_t cost = waves * ((tiles + parts - 1) / parts + start_cost) + (parts > 1 ? merge_cost : 0);
    if (cost >= best_cost) continue;
    best = parts;
    best_cost = cost;
  }
  return static_cast<int>(best);
}

/// Enough for the parts of 2 * places blocks.
template <typename T>
std::size_t partial_bytes(int multiprocessors, int head_dim) {
  const auto places = static_cast<std::size_t>(multiprocessors) * T::blocks;
  return 2 * places * T::rows * static_cast<std::size_t>(head_dim + 1) * sizeof(float);
}

Target target_of(const View& output, const View& log_sum_exp) {
  return {.output = output.data,
          .output_stride = output.stride,
          .log_sum_exp = log_sum_exp.empty() ? nullptr : reinterpret_cast<float*>(log_sum_exp.data),
          .log_sum_exp_stride = log_sum_exp.stride,
          .is_f32 = output.type == DataType::f32};
}

template <int head_dim, int warps, int row_blocks>
cudaError_t attention_by(cudaStream_t stream, const AttentionArguments& arguments, int multiprocessors,
                         Workspace workspace) {
  using T = Tiling<head_dim, warps, row_blocks>;
  const HeadShape& shape = arguments.shape;
  const auto rows = static_cast<int>(arguments.query.rows);
  const int group = shape.heads / shape.kv_heads;
  Parameters p;
  p.query = arguments.query.data;
  p.query_stride = arguments.query.stride * 2;
  p.target = target_of(arguments.output, arguments.log_sum_exp);
  p.part_rows = rows;
  p.rows = rows;
  p.group = group;
  p.causal_before = arguments.causal_before;
  p.scale = 1.0F / std::sqrt(static_cast<float>(head_dim));
  p.slots = slot_table(arguments);

  const std::int64_t row_tiles = (std::int64_t{rows} * group + T::rows - 1) / T::rows;
  const std::int64_t causal =
      std::clamp(arguments.causal_before + rows, std::int64_t{0}, std::int64_t{arguments.causal.count});
  const std::int64_t tiles = p.slots.first_tile[p.slots.visible] + (causal + tile - 1) / tile;
  const int parts =
      choose_parts(row_tiles * shape.kv_heads, static_cast<std::int64_t>(multiprocessors) * T::blocks, tiles);
  const LaunchShape launch_shape{
      dim3(static_cast<unsigned>(shape.kv_heads), static_cast<unsigned>(row_tiles), static_cast<unsigned>(parts)),
      dim3(T::threads), T::shared_bytes};
  if (parts == 1) return launch(stream, launch_shape, attend<head_dim, warps, row_blocks>, p);

  const std::size_t row_heads = static_cast<std::size_t>(rows) * static_cast<std::size_t>(shape.heads);
  const std::size_t values = row_heads * static_cast<std::size_t>(parts);
  if (workspace.bytes < values * (head_dim + 1) * sizeof(float)) return cudaErrorInvalidValue;
  auto* outputs = reinterpret_cast<float*>(workspace.data);
  const Target target = p.target;
  p.target = {.output = outputs,
              .output_stride = shape.query_columns(),
              .log_sum_exp = outputs + values * head_dim,
              .log_sum_exp_stride = shape.heads,
              .is_f32 = true};
  const cudaError_t error = launch(stream, launch_shape, attend<head_dim, warps, row_blocks>, p);
  if (error != cudaSuccess) return error;
  const int threads = std::min(merge_threads, (parts * head_dim / 4 + 31) / 32 * 32);
  return launch(stream, {dim3(static_cast<unsigned>(row_heads)), dim3(static_cast<unsigned>(threads))},
                merge_parts<head_dim>,
                {.outputs = outputs,
                 .log_sum_exps = p.target.log_sum_exp,
                 .parts = parts,
                 .rows = rows,
                 .heads = shape.heads,
                 .target = target});
}

/// The smallest tile of rows that holds them all, or the largest.
template <int head_dim>
cudaError_t attention_of(cudaStream_t stream, const AttentionArguments& arguments, int multiprocessors,
                         Workspace workspace) {
  const std::int64_t rows = arguments.query.rows * (arguments.shape.heads / arguments.shape.kv_heads);
  if (rows <= 16) return attention_by<head_dim, 1, 1>(stream, arguments, multiprocessors, workspace);
  if (rows <= 64) return attention_by<head_dim, 4, 1>(stream, arguments, multiprocessors, workspace);
  return attention_by<head_dim, 4, 2>(stream, arguments, multiprocessors, workspace);
}

template <int head_dim>
std::size_t workspace_of(int multiprocessors) {
  return std::max({partial_bytes<Tiling<head_dim, 1, 1>>(multiprocessors, head_dim),
                   partial_bytes<Tiling<head_dim, 4, 1>>(multiprocessors, head_dim),
                   partial_bytes<Tiling<head_dim, 4, 2>>(multiprocessors, head_dim)});
}

}  // namespace

std::size_t attention_workspace(int multiprocessors, const HeadShape& shape) {
  return shape.head_dim == 64 ? workspace_of<64>(multiprocessors) : workspace_of<128>(multiprocessors);
}

cudaError_t attention(cudaStream_t stream, const AttentionArguments& arguments, int multiprocessors,
                      Workspace workspace) {
  if (arguments.query.empty()) return cudaSuccess;
  if (arguments.visible.size() > largest_slot_table) return cudaErrorInvalidValue;
  if (arguments.shape.head_dim == 64) return attention_of<64>(stream, arguments, multiprocessors, workspace);
  if (arguments.shape.head_dim == 128) return attention_of<128>(stream, arguments, multiprocessors, workspace);
  return cudaErrorInvalidValue;
}

}  // namespace apb::cuda
