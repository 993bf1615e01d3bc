// Scores of a block's tokens. The C++ counterpart is in src/cpu/selection.cpp.
#include <cuda_runtime.h>

#include "cuda/heads.cuh"

namespace apb::cuda {
namespace {

constexpr int mean_threads = 512;

/// One block a KV head: its threads add rows and heads of the group in turns. Budget: 64 registers, 16 KiB shared.
template <int HeadDim>
__global__ void __launch_bounds__(mean_threads, 2)
    mean_query_heads(Rows<const Bf16> query, std::int64_t rows, int group, float weight, Rows<float> mean) {
  constexpr int lanes = HeadDim / 8;
  constexpr int at_a_time = mean_threads / lanes;
  __shared__ __align__(16) float sums[at_a_time][HeadDim];
  const int column = static_cast<int>(threadIdx.x) % lanes * 8;
  const int turn = static_cast<int>(threadIdx.x) / lanes;
  const int first_head = static_cast<int>(blockIdx.x) * group;
  Floats<8> sum{};
  for (std::int64_t item = turn; item < rows * group; item += at_a_time) {
    const auto head = static_cast<int>(item % group);
    const Floats<8> x = load<8>(query.row(item / group) + (first_head + head) * HeadDim + column);
#pragma unroll
    for (int i = 0; i < 8; ++i) sum.at[i] += x.at[i];
  }
#pragma unroll
  for (int i = 0; i < 8; i += 4) {
    store(&sums[turn][column + i], Floats<4>{sum.at[i], sum.at[i + 1], sum.at[i + 2], sum.at[i + 3]});
  }
  __syncthreads();
  if (threadIdx.x < HeadDim) {
    float total = 0.0F;
#pragma unroll 8
    for (int i = 0; i < at_a_time; ++i) total += sums[i][threadIdx.x];
    mean.row(blockIdx.x)[threadIdx.x] = total * weight;
  }
}

constexpr int similarity_threads = 256;
constexpr int similarity_tokens = 32;  // of a block
constexpr int tokens_at_a_time = 16;   // of a warp, of one KV head

/// One block for `similarity_tokens` tokens, all KV heads; the scores are written in whole rows.
/// Budget: 64 registers, 4 similarity_tokens kv_heads bytes shared.
template <int HeadDim>
__global__ void __launch_bounds__(similarity_threads, 4)
    score_similarity_tokens(Rows<const float> mean, SlotRows<HeadDim> keys, int tokens, int kv_heads,
                            Rows<float> scores) {
  constexpr int lanes = HeadDim / 8;
  constexpr int keys_at_a_time = 32 / lanes;
  extern __shared__ float block_scores[];  // [similarity_tokens, kv_heads]
  const int lane = static_cast<int>(threadIdx.x % 32);
  const int column = lane % lanes * 8;
  const int block_first = static_cast<int>(blockIdx.x) * similarity_tokens;
  for (int item = static_cast<int>(threadIdx.x / 32); item < kv_heads * (similarity_tokens / tokens_at_a_time);
       item += similarity_threads / 32) {
    const int head = item % kv_heads;
    const int first = item / kv_heads * tokens_at_a_time + lane / lanes;
    const Floats<8> weights = load_spread<HeadDim>(mean.row(head)).eight(column);
#pragma unroll
    for (int i = 0; i < tokens_at_a_time; i += keys_at_a_time) {
      const int token = first + i;
      Floats<8> key{};
      if (block_first + token < tokens) key = load<8>(keys.key(head, block_first + token) + column);
      float sum = 0.0F;
#pragma unroll
      for (int k = 0; k < 8; ++k) sum += weights.at[k] * key.at[k];
      sum = lane_sum<lanes>(sum);
      if (lane % lanes == 0) block_scores[token * kv_heads + head] = sum;
    }
  }
  __syncthreads();
  for (int i = static_cast<int>(threadIdx.x); i < similarity_tokens * kv_heads; i += similarity_threads) {
    const int token = i / kv_heads;
    if (block_first + token < tokens) scores.row(block_first + token)[i % kv_heads] = block_scores[i];
  }
}

/// One step of the splitmix64 generator from state x.
__host__ __device__ inline std::uint64_t mix(std::uint64_t x) {
  x += 0x9E3779B97F4A7C15U;
  x = (x ^ (x >> 30U)) * 0xBF58476D1CE4E5B9U;
  x = (x ^ (x >> 27U)) * 0x94D049BB133111EBU;
  return x ^ (x >> 31U);
}

struct RandomScore {
  static constexpr int width = 1;
  std::uint64_t layer_state;
  std::int64_t first_position;
  Rows<float> scores;

  __device__ void operator()(std::int64_t token, int head) const {
    const std::uint64_t head_state = mix(layer_state ^ static_cast<std::uint64_t>(head));
    const std::uint64_t hash = mix(head_state ^ static_cast<std::uint64_t>(first_position + token));
    scores.row(token)[head] = static_cast<float>(hash >> 40U) * 0x1p-24F;
  }
};

struct RecentScore {
  static constexpr int width = 1;
  std::int64_t first_position;
  Rows<float> scores;

  __device__ void operator()(std::int64_t token, int head) const {
    scores.row(token)[head] = static_cast<float>(first_position + token);
  }
};

}  // namespace

cudaError_t mean_query(cudaStream_t stream, const HeadShape& shape, ConstView query, View mean) {
  const int group = shape.heads / shape.kv_heads;
  const float weight = 1.0F / static_cast<float>(std::max<std::int64_t>(1, query.rows * group));
  return with_head_dim(shape.head_dim, [&](auto head_dim) {
    return launch(stream, {dim3(static_cast<unsigned>(shape.kv_heads)), dim3(mean_threads)},
                  mean_query_heads<head_dim()>, rows_of<Bf16>(query), query.rows, group, weight, rows_of<float>(mean));
  });
}

cudaError_t score_similarity(cudaStream_t stream, const HeadShape& shape, ConstView mean, SlotRange keys, View scores) {
  if (scores.rows == 0) return cudaSuccess;
  return with_head_dim(shape.head_dim, [&](auto head_dim) {
    const auto blocks = static_cast<unsigned>((scores.rows + similarity_tokens - 1) / similarity_tokens);
    const std::size_t shared_bytes = sizeof(float) * similarity_tokens * static_cast<std::size_t>(shape.kv_heads);
    return launch(stream, {dim3(blocks), dim3(similarity_threads), shared_bytes}, score_similarity_tokens<head_dim()>,
                  rows_of<float>(mean), rows_of<head_dim()>(keys.slot), static_cast<int>(scores.rows), shape.kv_heads,
                  rows_of<float>(scores));
  });
}

cudaError_t score_random(cudaStream_t stream, const RandomScoreKey& key, std::int64_t first_position, View scores) {
  const std::uint64_t layer_state = mix(mix(mix(key.seed) ^ key.document) ^ key.layer);
  return launch_elementwise(stream, scores.rows, scores.columns,
                            RandomScore{layer_state, first_position, rows_of<float>(scores)});
}

cudaError_t score_recent(cudaStream_t stream, std::int64_t first_position, View scores) {
  return launch_elementwise(stream, scores.rows, scores.columns, RecentScore{first_position, rows_of<float>(scores)});
}

}  // namespace apb::cuda
