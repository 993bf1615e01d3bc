// The choice of the highest scores: a radix select over integers that order as the scores do, 8 bits at a time from the
// top. Kernels pass what they found on in the workspace; nothing depends on the order in which blocks run.
//
// The C++ counterpart is in src/cpu/selection.cpp, with which the choice agrees in every entry.
#include <cuda_runtime.h>

#include "cuda/block.cuh"
#include "cuda/kernels.hpp"
#include "cuda/rows.cuh"

namespace apb::cuda {
namespace {

constexpr int threads = 256;
constexpr int digits = 256;             // values of 8 bits: one a thread
constexpr int passes = 4;               // of 8 bits
constexpr int step_keys = 4 * threads;  // keys that a block reads in one access a thread
constexpr int tile_keys = 2 * step_keys;
static_assert(digits == threads);

/// What the passes before have settled: the highest bits of the count-th largest key, and how many keys that begin with
/// them are to be chosen (all that begin with higher ones are).
struct Threshold {
  std::uint32_t prefix;
  std::uint32_t remaining;
};

/// The workspace, per KV head. `keys` are padded to whole tiles with 0, which is lower than any score's key.
struct Tables {
  std::uint32_t* keys;        // [kv_heads, tiles * tile_keys], of the tokens that are not excluded
  std::uint32_t* histograms;  // [kv_heads, passes, digits]
  Threshold* thresholds;      // [kv_heads, passes + 1], before each pass and after the last
  std::uint32_t* chosen;      // [kv_heads, tiles]: keys above the threshold << 16 | keys equal to it
  std::int64_t tiles;
  std::uint32_t count;  // keys to choose

  __device__ std::uint32_t* keys_of(int head) const { return keys + head * tiles * tile_keys; }
  __device__ std::uint32_t* histogram_of(int head, int pass) const {
    return histograms + (head * passes + pass) * digits;
  }
  __device__ Threshold* threshold_of(int head, int pass) const { return thresholds + head * (passes + 1) + pass; }
  __device__ std::uint32_t* chosen_of(int head) const { return chosen + head * tiles; }
};

std::int64_t tiles_of(std::int64_t tokens) { return (tokens + tile_keys - 1) / tile_keys; }

std::size_t histogram_bytes(int kv_heads) {
  return sizeof(std::uint32_t) * passes * digits * static_cast<std::size_t>(kv_heads);
}

/// Integers order as scores do; NaN is the lowest score, -0 equals 0.
__device__ inline std::uint32_t key_of(float score) {
  const std::uint32_t bits = __float_as_uint(score + 0.0F);
  return (bits & 0x80000000U) != 0 ? ~bits : bits | 0x80000000U;
}

constexpr int pooled_heads = 8;
constexpr int pooled_tokens = threads;

/// A block pools `pooled_tokens` tokens of up to `pooled_heads` KV heads. Budget: 40 registers, 32 (255 + window) bytes
/// shared.
__global__ void __launch_bounds__(threads, 6)
    pool(Rows<const float> scores, int tokens, int kv_heads, int window, int excluded, Tables tables) {
  extern __shared__ float near[];  // [pooled_heads, pitch]: the block's tokens and half a window on either side
  const int span = pooled_tokens + window - 1;
  const int pitch = span | 1;
  const int first_head = static_cast<int>(blockIdx.y) * pooled_heads;
  const int heads = min(pooled_heads, kv_heads - first_head);
  const std::int64_t first = static_cast<std::int64_t>(blockIdx.x) * pooled_tokens;
  const int lane_head = static_cast<int>(threadIdx.x) % pooled_heads;
  if (lane_head < heads) {
    for (int i = static_cast<int>(threadIdx.x) / pooled_heads; i < span; i += threads / pooled_heads) {
      const std::int64_t token = excluded + first - window / 2 + i;
      float score = -INFINITY;
      if (token >= 0 && token < tokens) score = fmaxf(score, scores.row(token)[first_head + lane_head]);
      near[lane_head * pitch + i] = score;
    }
  }
  __syncthreads();
  const bool exists = excluded + first + threadIdx.x < tokens;
  for (int head = 0; head < heads; ++head) {
    const float* from = near + head * pitch + threadIdx.x;
    float largest = from[0];
    for (int i = 1; i < window; ++i) largest = fmaxf(largest, from[i]);
    tables.keys_of(first_head + head)[first + threadIdx.x] = exists ? key_of(largest) : 0;
  }
}

/// The threshold before `pass`, from the one before the last pass and what that pass has counted; all threads call.
__device__ Threshold threshold_before(const Tables& tables, int head, int pass) {
  __shared__ Threshold found;
  if (pass == 0) {
    if (threadIdx.x == 0) found = {0, tables.count};
  } else {
    const Threshold last = *tables.threshold_of(head, pass - 1);
    const std::uint32_t digit = digits - 1 - threadIdx.x;
    const std::uint32_t here = tables.histogram_of(head, pass - 1)[digit];
    const std::uint32_t above = block_sum_before(here).sum;
    if (above < last.remaining && last.remaining <= above + here) {
      found = {last.prefix | digit << (32 - 8 * pass), last.remaining - above};
    }
  }
  __syncthreads();
  if (blockIdx.x == 0 && threadIdx.x == 0) *tables.threshold_of(head, pass) = found;
  return found;
}

/// Counts the pass's digit of the keys that begin with the threshold. Budget: 40 registers, 2 KiB shared.
__global__ void __launch_bounds__(threads, 6) count_digits(Tables tables, int pass) {
  __shared__ std::uint32_t counts[digits];
  const int head = static_cast<int>(blockIdx.y);
  counts[threadIdx.x] = 0;
  const std::uint32_t prefix = threshold_before(tables, head, pass).prefix;
  const std::uint32_t settled = pass == 0 ? 0 : ~0U << (32 - 8 * pass);
  const std::uint32_t* keys = tables.keys_of(head) + static_cast<std::int64_t>(blockIdx.x) * tile_keys;
#pragma unroll
  for (int step = 0; step < tile_keys; step += step_keys) {
    const uint4 four = reinterpret_cast<const uint4*>(keys + step)[threadIdx.x];
    for (const std::uint32_t key : {four.x, four.y, four.z, four.w}) {
      if ((key & settled) == prefix) atomicAdd(&counts[key >> (24 - 8 * pass) & 255U], 1U);
    }
  }
  __syncthreads();
  if (counts[threadIdx.x] != 0) atomicAdd(&tables.histogram_of(head, pass)[threadIdx.x], counts[threadIdx.x]);
}

/// Keys above the threshold << 16 | keys equal to it.
__device__ inline std::uint32_t count_chosen(const uint4& four, std::uint32_t threshold) {
  std::uint32_t count = 0;
  for (const std::uint32_t key : {four.x, four.y, four.z, four.w}) {
    count += key > threshold ? 0x10000U : key == threshold ? 1U : 0U;
  }
  return count;
}

/// Counts a tile's keys above and at the threshold. Budget: 40 registers, 2 KiB shared.
__global__ void __launch_bounds__(threads, 6) count_tiles(Tables tables) {
  const int head = static_cast<int>(blockIdx.y);
  const std::uint32_t threshold = threshold_before(tables, head, passes).prefix;
  const std::uint32_t* keys = tables.keys_of(head) + static_cast<std::int64_t>(blockIdx.x) * tile_keys;
  std::uint32_t count = 0;
#pragma unroll
  for (int step = 0; step < tile_keys; step += step_keys) {
    count += count_chosen(reinterpret_cast<const uint4*>(keys + step)[threadIdx.x], threshold);
  }
  count = block_sum(count);
  if (threadIdx.x == 0) tables.chosen_of(head)[blockIdx.x] = count;
}

/// Writes the tokens chosen of a tile behind those of the tiles before. Budget: 40 registers, 1 KiB shared.
__global__ void __launch_bounds__(threads, 6)
    write_positions(Tables tables, int excluded, Rows<std::int32_t> positions) {
  const int head = static_cast<int>(blockIdx.y);
  const auto [threshold, wanted_equal] = *tables.threshold_of(head, passes);
  std::uint32_t above = 0;
  std::uint32_t equal = 0;
  for (unsigned tile = threadIdx.x; tile < blockIdx.x; tile += threads) {
    const std::uint32_t count = tables.chosen_of(head)[tile];
    above += count >> 16U;
    equal += count & 0xFFFFU;
  }
  above = block_sum(above);
  equal = block_sum(equal);

  std::int32_t* out = positions.row(head);
  const std::int64_t first = static_cast<std::int64_t>(blockIdx.x) * tile_keys;
  for (int step = 0; step < tile_keys; step += step_keys) {
    const uint4 four = reinterpret_cast<const uint4*>(tables.keys_of(head) + first + step)[threadIdx.x];
    const Before before = block_sum_before(count_chosen(four, threshold));
    std::uint32_t above_before = above + (before.sum >> 16U);
    std::uint32_t equal_before = equal + (before.sum & 0xFFFFU);
    auto token = static_cast<std::int32_t>(excluded + first + step + 4 * threadIdx.x);
    for (const std::uint32_t key : {four.x, four.y, four.z, four.w}) {
      const bool is_equal = key == threshold;
      if (key > threshold || (is_equal && equal_before < wanted_equal)) {
        out[above_before + min(equal_before, wanted_equal)] = token;
      }
      above_before += key > threshold ? 1 : 0;
      equal_before += is_equal ? 1 : 0;
      ++token;
    }
    above += before.total >> 16U;
    equal += before.total & 0xFFFFU;
  }
}

Tables tables_in(std::byte* data, std::int64_t tiles, int kv_heads, std::int64_t count) {
  Tables tables{};
  tables.histograms = reinterpret_cast<std::uint32_t*>(data);
  tables.keys = reinterpret_cast<std::uint32_t*>(data + histogram_bytes(kv_heads));
  tables.chosen = tables.keys + kv_heads * tiles * tile_keys;
  tables.thresholds = reinterpret_cast<Threshold*>(tables.chosen + (kv_heads * tiles + 1) / 2 * 2);
  tables.tiles = tiles;
  tables.count = static_cast<std::uint32_t>(count);
  return tables;
}

}  // namespace

std::size_t select_workspace(std::int64_t tokens, int kv_heads) {
  const auto heads = static_cast<std::size_t>(kv_heads);
  const auto tiles = static_cast<std::size_t>(tiles_of(tokens));
  return histogram_bytes(kv_heads) + sizeof(std::uint32_t) * (heads * tiles * (tile_keys + 1) + 1) +
         sizeof(Threshold) * heads * (passes + 1);
}

cudaError_t select(cudaStream_t stream, ConstView scores, int pool_window, int excluded, View positions,
                   Workspace workspace) {
  if (positions.empty()) return cudaSuccess;
  const auto kv_heads = static_cast<int>(positions.rows);
  if (pool_window > largest_pool_window || workspace.bytes < select_workspace(scores.rows, kv_heads)) {
    return cudaErrorInvalidValue;
  }
  const std::int64_t tiles = tiles_of(scores.rows - excluded);
  const Tables tables = tables_in(workspace.data, tiles, kv_heads, positions.columns);
  const dim3 pool_blocks(static_cast<unsigned>(tiles * (tile_keys / pooled_tokens)),
                         static_cast<unsigned>((kv_heads + pooled_heads - 1) / pooled_heads));
  const dim3 tile_blocks(static_cast<unsigned>(tiles), static_cast<unsigned>(kv_heads));
  const std::size_t pitch = static_cast<std::size_t>(pooled_tokens + pool_window - 1) | 1U;

  cudaError_t error = cudaMemsetAsync(tables.histograms, 0, histogram_bytes(kv_heads), stream);
  if (error != cudaSuccess) return error;
  error = launch(stream, {pool_blocks, threads, sizeof(float) * pooled_heads * pitch}, pool, rows_of<float>(scores),
                 static_cast<int>(scores.rows), kv_heads, pool_window, excluded, tables);
  for (int pass = 0; pass < passes && error == cudaSuccess; ++pass) {
    error = launch(stream, {tile_blocks, threads}, count_digits, tables, pass);
  }
  if (error == cudaSuccess) error = launch(stream, {tile_blocks, threads}, count_tiles, tables);
  if (error != cudaSuccess) return error;
  return launch(stream, {tile_blocks, threads}, write_positions, tables, excluded, rows_of<std::int32_t>(positions));
}

}  // namespace apb::cuda
