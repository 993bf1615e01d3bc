// Attention over slots, forward: online softmax between two products on the tensor cores (the algorithm of
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
#include <numbers>

#include "attention_rows.cuh"
#include "attention_tiles.cuh"
#include "kernels.hpp"
#include "launch.cuh"
#include "ptx.cuh"

namespace apb::cuda {
namespace {

template <typename T, typename P, typename Rows>
__device__ __forceinline__ void write_log_sum_exp(const P& p, const AttentionTarget& target, int first_row, int kv_head,
                                                  const Rows& rows) {
  const int lane = ptx::thread_index() % 32;
  Rows::for_each_half([&](int r, int half) {
    const int row = first_row + 16 * r + 8 * half + lane / 4;
    if (row >= p.rows * p.group || lane % 4 != 0) return;
    const StackedRow place = place_of(p, row, kv_head);
    target.log_sum_exp[place.position * target.log_sum_exp_stride + place.head] = rows.maximum[r][half];
  });
}

template <typename T, typename P, typename Rows>
__device__ __forceinline__ void write_f32(const P& p, const AttentionTarget& target, int first_row, int kv_head,
                                          const Rows& rows) {
  const int lane = ptx::thread_index() % 32;
  Rows::for_each_half([&](int r, int half) {
    const int row = first_row + 16 * r + 8 * half + lane / 4;
    if (row >= p.rows * p.group) return;
    const StackedRow place = place_of(p, row, kv_head);
    float* out = static_cast<float*>(target.output) + place.position * target.output_stride + place.head * T::head_dim +
                 2 * (lane % 4);
#pragma unroll
    for (int n = 0; n < T::head_dim / 8; ++n) {
      *reinterpret_cast<float2*>(out + 8 * n) = make_float2(rows.sums[r][n][2 * half], rows.sums[r][n][2 * half + 1]);
    }
  });
}

/// By way of `shared`, room for the warp's rows, so that whole sectors are written.
template <typename T, typename P, typename Rows>
__device__ __forceinline__ void write_bf16(const P& p, const AttentionTarget& target, int first_row, int kv_head,
                                           const Rows& rows, std::byte* shared) {
  const int lane = ptx::thread_index() % 32;
  __syncwarp();
  Rows::for_each_half([&](int r, int half) {
#pragma unroll
    for (int n = 0; n < T::head_dim / 8; ++n) {
      const std::uint32_t at = swizzled<T::row_bytes>(16 * r + 8 * half + lane / 4, n) + 4 * (lane % 4);
      *reinterpret_cast<std::uint32_t*>(shared + at) =
          ptx::pack_bf16(rows.sums[r][n][2 * half], rows.sums[r][n][2 * half + 1]);
    }
  });
  __syncwarp();
  constexpr int chunks = T::row_bytes / 16;
#pragma unroll
  for (int i = 0; i < T::warp_rows * chunks / 32; ++i) {
    const int in_warp = (lane + 32 * i) / chunks;
    const int chunk = lane % chunks;
    if (first_row + in_warp >= p.rows * p.group) continue;
    const StackedRow place = place_of(p, first_row + in_warp, kv_head);
    std::byte* out = static_cast<std::byte*>(target.output) + 2 * place.position * target.output_stride +
                     place.head * T::row_bytes + 16 * chunk;
    *reinterpret_cast<uint4*>(out) = *reinterpret_cast<const uint4*>(shared + swizzled<T::row_bytes>(in_warp, chunk));
  }
}

/// Grid: KV heads, tiles of rows (the last ones first: with a causal slot they see most), parts.
/// Budget <128, 4, 2, *>: 255 registers, 82432 bytes shared.
/// Budget <128, 4, 1, *>: 168 registers, 65792 bytes shared.
/// Budget <128, 1, 1, *>: 168 registers, 53312 bytes shared.
/// Budget <64, 4, 2, *>: 168 registers, 41472 bytes shared.
/// Budget <64, 4, 1, *>: 128 registers, 33024 bytes shared.
/// Budget <64, 1, 1, *>: 168 registers, 26688 bytes shared.
template <int head_dim, int warps, int row_blocks, int entries>
__global__ __launch_bounds__(AttentionTiling<head_dim, warps, row_blocks>::threads,
                             AttentionTiling<head_dim, warps, row_blocks>::blocks)  //
    void attend(const __grid_constant__ AttentionParameters<entries> p) {
  using T = AttentionTiling<head_dim, warps, row_blocks>;
  extern __shared__ __align__(1024) std::byte shared[];
  const int lane = static_cast<int>(threadIdx.x % 32);
  const int kv_head = static_cast<int>(blockIdx.x);
  const int first_row = static_cast<int>(gridDim.y - 1 - blockIdx.y) * T::rows;
  const int in_tile = static_cast<int>(threadIdx.x / 32) * T::warp_rows;  // the warp's first row

  const int causal_most = causal_count(p, first_row + T::rows - 1);
  const int tiles = p.slots.first_tile[p.slots.visible] + (causal_most + tile - 1) / tile;
  // The parts' shares of the tiles differ by one at most.
  const auto part = static_cast<int>(blockIdx.z);
  const auto parts = static_cast<int>(gridDim.z);
  int left = tiles / parts + (part < tiles % parts ? 1 : 0);

  WarpRows<head_dim, row_blocks> rows;
  if (left > 0) {
    const std::uint32_t query = ptx::shared_address(shared);
    const std::uint32_t first_stage = query + T::rows * T::row_bytes;
    const std::uint32_t last_stage = first_stage + (T::stages - 1) * T::stage_bytes;
    const auto after = [&](std::uint32_t stage) { return stage == last_stage ? first_stage : stage + T::stage_bytes; };
    const auto before = [&](std::uint32_t stage) { return stage == first_stage ? last_stage : stage - T::stage_bytes; };
    // Where a lane points ldmatrix to: 16 rows by 2 chunks, either rows first (query, and values transposed), or of
    // eight rows the chunks first (keys).
    const std::uint32_t rows_first = swizzled<T::row_bytes>(lane % 16, lane / 16);
    const std::uint32_t chunks_first = swizzled<T::row_bytes>(lane % 8 + lane / 16 * 8, lane / 8 % 2);
    const std::uint32_t warp_query = query + in_tile * T::row_bytes + rows_first;

    TileCursor at = find_tile(p.slots, tiles / parts * part + min(part, tiles % parts));
    std::uint32_t stage = first_stage;  // of the keys or values that come next
    load_query<T>(p, first_row, kv_head, query);
    load_half<T>(p.slots, at, kv_head, TileHalf::keys, stage);
    ptx::commit_copies();
    load_half<T>(p.slots, at, kv_head, TileHalf::values, after(stage));
    ptx::commit_copies();

    // What each row of the tile sees of the causal slot.
    int* causal_counts = reinterpret_cast<int*>(shared + T::shared_bytes) - T::rows;
    if (threadIdx.x < T::rows) causal_counts[threadIdx.x] = causal_count(p, first_row + static_cast<int>(threadIdx.x));

    for (; left > 0; --left) {
      const bool is_causal = at.slot == p.slots.visible;
      const int valid = p.slots.count[at.slot] - at.first;
      const bool is_masked = is_causal ? parts > 1 || left <= T::diagonal_tiles : valid < tile;
      at.advance(p.slots);  // to the tile that is loaded meanwhile

      // Behind the barrier all warps have the keys, and are done with the values before them: their stage is free.
      ptx::wait_copies<1>();
      __syncthreads();
      if (left > 1) load_half<T>(p.slots, at, kv_head, TileHalf::keys, before(stage));
      ptx::commit_copies();
      float scores[row_blocks][tile / 8][4];
      rows.multiply(warp_query, stage + chunks_first, scores);
      stage = after(stage);

      if (is_masked) {
        const int* own_counts = causal_counts + ptx::thread_index() / 32 * T::warp_rows + ptx::thread_index() % 32 / 4;
        rows.mask(scores, [&](int r, int half) {
          // The causal slot is the last: `at` has gone on in it by one tile.
          return is_causal ? own_counts[16 * r + 8 * half] - (at.first - tile) : valid;
        });
      }
      rows.weigh(scores, p.scale * std::numbers::log2e_v<float>);

      // The same with the values, and the stage of the keys.
      ptx::wait_copies<1>();
      __syncthreads();
      if (left > 1) load_half<T>(p.slots, at, kv_head, TileHalf::values, before(stage));
      ptx::commit_copies();
      rows.add_values(scores, stage + rows_first);
      stage = after(stage);
    }
  }

  rows.finish(p.scale);
  const int first_in_tile = ptx::thread_index() / 32 * T::warp_rows;
  AttentionTarget target = p.target;
  const std::int64_t first_of_part = std::int64_t{part} * p.rows;
  if (target.log_sum_exp != nullptr) {
    target.log_sum_exp += first_of_part * target.log_sum_exp_stride;
    write_log_sum_exp<T>(p, target, first_row + first_in_tile, kv_head, rows);
  }
  if (target.is_f32) {
    target.output = static_cast<float*>(target.output) + first_of_part * target.output_stride;
    write_f32<T>(p, target, first_row + first_in_tile, kv_head, rows);
  } else {  // in the place of the warp's own rows of the query
    write_bf16<T>(p, target, first_row + first_in_tile, kv_head, rows, shared + first_in_tile * T::row_bytes);
  }
}

struct MergeParameters {
  const float* outputs;       // [parts, rows, heads, head_dim]
  const float* log_sum_exps;  // [parts, rows, heads]
  int parts;
  int rows;
  int heads;
  AttentionTarget target;
};

/// Sums of values under weights e^(log-sum-exp - maximum), and of the weights.
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

/// Budget: 48 registers, 16 KiB shared.
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
template <int entries>
SlotTable<entries> slot_table(const AttentionArguments& arguments) {
  SlotTable<entries> table;
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

/// In how many parts each block's tiles are done first, on so many places that work through one block after another.
/// Costs are in the time of a tile.
int choose_parts(std::int64_t blocks, std::int64_t tiles, std::int64_t places) {
  constexpr std::int64_t start_cost = 1;
  constexpr std::int64_t merge_cost = 4;
  std::int64_t best = 1;
  std::int64_t best_cost = std::numeric_limits<std::int64_t>::max();
  for (std::int64_t parts = 1; parts == 1 || (parts <= tiles && parts * blocks <= 2 * places); ++parts) {
    const std::int64_t waves = (parts * blocks + places - 1) / places;
    const std::int64_t cost = waves * ((tiles + parts - 1) / parts + start_cost) + (parts > 1 ? merge_cost : 0);
    if (cost >= best_cost) continue;
    best = parts;
    best_cost = cost;
  }
  return static_cast<int>(best);
}

/// Enough for the parts of 2 * places blocks.
template <typename T>
std::size_t partial_bytes(int multiprocessors) {
  const auto places = static_cast<std::size_t>(multiprocessors) * T::blocks;
  return 2 * places * T::rows * (T::head_dim + 1) * sizeof(float);
}

AttentionTarget target_of(const View& output, const View& log_sum_exp) {
  return {.output = output.data,
          .output_stride = output.stride,
          .log_sum_exp = log_sum_exp.empty() ? nullptr : reinterpret_cast<float*>(log_sum_exp.data),
          .log_sum_exp_stride = log_sum_exp.stride,
          .is_f32 = output.type == DataType::f32};
}

/// Launches `kernel`, of AttentionTiling T, and the merge where there are parts.
template <typename T, int entries>
cudaError_t attention_by(void (*kernel)(AttentionParameters<entries>), cudaStream_t stream,
                         const AttentionArguments& arguments, int multiprocessors, Workspace workspace) {
  const HeadShape& shape = arguments.shape;
  const auto rows = static_cast<int>(arguments.query.rows);
  constexpr std::int64_t far = 1 << 30;  // from there on, all rows see alike
  AttentionParameters<entries> p{.query = arguments.query.data,
                                 .query_stride = arguments.query.stride * 2,
                                 .target = target_of(arguments.output, arguments.log_sum_exp),
                                 .rows = rows,
                                 .group = shape.heads / shape.kv_heads,
                                 .causal_before = static_cast<int>(std::clamp(arguments.causal_before, -far, far)),
                                 .scale = 1.0F / std::sqrt(static_cast<float>(T::head_dim)),
                                 .slots = slot_table<entries>(arguments)};

  const std::int64_t row_tiles = (std::int64_t{rows} * p.group + T::rows - 1) / T::rows;
  const std::int64_t causal =
      std::clamp(arguments.causal_before + rows, std::int64_t{0}, std::int64_t{arguments.causal.count});
  const std::int64_t tiles = p.slots.first_tile[p.slots.visible] + (causal + tile - 1) / tile;
  const std::int64_t places = std::int64_t{multiprocessors} * T::blocks;
  const int parts = choose_parts(row_tiles * shape.kv_heads, tiles, places);
  const LaunchShape launch_shape{
      dim3(static_cast<unsigned>(shape.kv_heads), static_cast<unsigned>(row_tiles), static_cast<unsigned>(parts)),
      dim3(T::threads), T::shared_bytes};
  if (parts == 1) return launch(stream, launch_shape, kernel, p);

  const std::size_t row_heads = static_cast<std::size_t>(rows) * static_cast<std::size_t>(shape.heads);
  const std::size_t partials = row_heads * static_cast<std::size_t>(parts);
  if (workspace.bytes < partials * (T::head_dim + 1) * sizeof(float)) return cudaErrorInvalidValue;
  auto* outputs = reinterpret_cast<float*>(workspace.data);
  const AttentionTarget target = p.target;
  p.target = {.output = outputs,
              .output_stride = shape.query_columns(),
              .log_sum_exp = outputs + partials * T::head_dim,
              .log_sum_exp_stride = shape.heads,
              .is_f32 = true};
  const cudaError_t error = launch(stream, launch_shape, kernel, p);
  if (error != cudaSuccess) return error;
  const int threads = std::min(merge_threads, (parts * T::head_dim / 4 + 31) / 32 * 32);
  return launch(stream, {dim3(static_cast<unsigned>(row_heads)), dim3(static_cast<unsigned>(threads))},
                merge_parts<T::head_dim>,
                {.outputs = outputs,
                 .log_sum_exps = p.target.log_sum_exp,
                 .parts = parts,
                 .rows = rows,
                 .heads = shape.heads,
                 .target = target});
}

template <int head_dim, int warps, int row_blocks>
cudaError_t attention_by(cudaStream_t stream, const AttentionArguments& arguments, int multiprocessors,
                         Workspace workspace) {
  using T = AttentionTiling<head_dim, warps, row_blocks>;
  if (arguments.visible.size() <= short_slot_table) {
    return attention_by<T>(attend<head_dim, warps, row_blocks, short_slot_table>, stream, arguments, multiprocessors,
                           workspace);
  }
  return attention_by<T>(attend<head_dim, warps, row_blocks, largest_slot_table>, stream, arguments, multiprocessors,
                         workspace);
}

/// By the smallest tile of rows that holds them all, or the largest.
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
  return std::max({partial_bytes<AttentionTiling<head_dim, 1, 1>>(multiprocessors),
                   partial_bytes<AttentionTiling<head_dim, 4, 1>>(multiprocessors),
                   partial_bytes<AttentionTiling<head_dim, 4, 2>>(multiprocessors)});
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
