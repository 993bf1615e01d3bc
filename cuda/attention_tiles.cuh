// What one launch of attention is told, how its tiles are numbered, and how they get into shared memory.
#pragma once

#include <cuda_runtime.h>

#include <cstddef>
#include <cstdint>

#include "attention_rows.cuh"
#include "kernels.hpp"
#include "ptx.cuh"

namespace apb::cuda {

/// Where a kernel writes: rows of bf16 or float32, and their log-sum-exp unless null.
struct AttentionTarget {
  void* output;
  std::int64_t output_stride;
  float* log_sum_exp;
  std::int64_t log_sum_exp_stride;
  bool is_f32;
};

/// The visible slots that hold anything, at most `entries`, and behind them the causal slot.
template <int entries>
struct SlotTable {
  const std::byte* data[entries + 1];
  int capacity[entries + 1];
  int count[entries + 1];
  int first_tile[entries + 1];  // tiles of the slots before
  int visible;                  // the causal slot's entry
};

/// A launch costs time by the bytes of its parameters, so that short tables have kernels of their own.
inline constexpr int short_slot_table = 32;

template <int entries>
struct AttentionParameters {
  const std::byte* query;
  std::int64_t query_stride;  // bytes
  AttentionTarget target;     // of part 0; a part's rows follow on the rows of the one before
  int rows;
  int group;
  int causal_before;
  float scale;
  SlotTable<entries> slots;
};

/// A tile of rows is shared by `warps` of `row_blocks` times 16 rows each.
template <int head_dim_, int warps, int row_blocks_>
struct AttentionTiling {
  static constexpr int head_dim = head_dim_;
  static constexpr int row_blocks = row_blocks_;
  static constexpr int threads = 32 * warps;
  static constexpr int warp_rows = 16 * row_blocks;
  static constexpr int rows = warps * warp_rows;
  static constexpr int row_bytes = 2 * head_dim;
  static constexpr int stage_bytes = tile * row_bytes;  // a tile's keys, or its values
  static constexpr int stages = 3;
  static constexpr int shared_bytes = rows * row_bytes + stages * stage_bytes + rows * 4;
  /// The last tiles of keys, at most, of which not every row of a causal tile sees all.
  static constexpr int diagonal_tiles = (rows - 1 + tile - 1) / tile + 1;
  /// Resident on a multiprocessor, as far as registers go.
  static constexpr int blocks = warps == 1 ? 4 : row_blocks == 1 ? (head_dim == 64 ? 4 : 3) : (head_dim == 64 ? 3 : 2);
};

static_assert(AttentionTiling<128, 4, 2>::shared_bytes == 82432 && AttentionTiling<64, 4, 2>::shared_bytes == 41472 &&
              AttentionTiling<128, 4, 1>::shared_bytes == 65792 && AttentionTiling<64, 4, 1>::shared_bytes == 33024 &&
              AttentionTiling<128, 1, 1>::shared_bytes == 53312 && AttentionTiling<64, 1, 1>::shared_bytes == 26688);

/// A tile of keys: tokens [first, first + 64) of a slot.
struct TileCursor {
  int slot;
  int first;

  template <typename Slots>
  __device__ __forceinline__ void advance(const Slots& slots) {
    first += tile;
    if (slot < slots.visible && first >= slots.count[slot]) {
      ++slot;
      first = 0;
    }
  }
};

template <typename Slots>
__device__ __forceinline__ TileCursor find_tile(const Slots& slots, int index) {
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

/// Position and query head of a stacked row.
struct StackedRow {
  int position;
  int head;
};

template <typename P>
__device__ __forceinline__ StackedRow place_of(const P& p, int row, int kv_head) {
  const int position = static_cast<int>(static_cast<unsigned>(row) / static_cast<unsigned>(p.group));
  return {position, kv_head * p.group + row - position * p.group};
}

/// How many tokens of the causal slot a stacked row sees; rows behind the last one see what it sees.
template <typename P>
__device__ __forceinline__ int causal_count(const P& p, int row) {
  const int seen = p.causal_before + min(place_of(p, row, 0).position, p.rows - 1) + 1;
  return min(max(seen, 0), p.slots.count[p.slots.visible]);
}

/// Which 16 bytes of a tile of rows a thread copies: chunk `chunk` of row `row` and of every `step`-th after it.
template <typename T>
struct TileCopier {
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

enum class TileHalf { keys, values };

/// Begins to copy a tile's keys or values; zeros behind the slot's last token.
template <typename T, typename Slots>
__device__ __forceinline__ void load_half(const Slots& slots, const TileCursor& at, int kv_head, TileHalf half,
                                          std::uint32_t destination) {
  const TileCopier<T> copier;
  const std::int64_t matrix = 2 * kv_head + (half == TileHalf::values ? 1 : 0);
  const std::int64_t first = matrix * slots.capacity[at.slot] + at.first;
  const std::byte* source = slots.data[at.slot] + first * T::row_bytes + 16 * copier.thread;
  const int valid = slots.count[at.slot] - at.first - copier.row;
#pragma unroll
  for (int i = 0; i < tile / copier.step; ++i) {
    ptx::copy_async(destination + copier.offset(i), source + i * 16 * T::threads, i * copier.step < valid);
  }
}

/// Begins to copy a tile's query rows; zeros behind the last one.
template <typename T, typename P>
__device__ __forceinline__ void load_query(const P& p, int first_row, int kv_head, std::uint32_t destination) {
  const TileCopier<T> copier;
#pragma unroll
  for (int i = 0; i < T::rows / copier.step; ++i) {
    const int row = first_row + copier.row + i * copier.step;
    const bool valid = row < p.rows * p.group;
    const StackedRow place = place_of(p, valid ? row : 0, kv_head);
    const std::byte* source = p.query + place.position * p.query_stride + place.head * T::row_bytes + 16 * copier.chunk;
    ptx::copy_async(destination + copier.offset(i), source, valid);
  }
}

}  // namespace apb::cuda
