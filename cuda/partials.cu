// Merging partial attention outputs in place, by their log-sum-exp. The C++ counterpart is src/cpu/merge.cpp.
#include <cuda_runtime.h>

#include "kernels.hpp"
#include "rows.cuh"

namespace apb::cuda {
namespace {

constexpr int warps = 8;

/// A warp for each head of a row. Budget: 40 registers, no shared memory.
__global__ void __launch_bounds__(32 * warps, 6)
    add_partial_heads(std::int64_t rows, int heads, int head_dim, Rows<const float> added_output,
                      Rows<const float> added_log_sum_exp, Rows<float> output, Rows<float> log_sum_exp) {
  const std::int64_t index = static_cast<std::int64_t>(blockIdx.x) * warps + threadIdx.x / 32;
  if (index >= rows * heads) return;
  const std::int64_t row = index / heads;
  const auto head = static_cast<int>(index % heads);
  const float added = added_log_sum_exp.row(row)[head];
  float* running = log_sum_exp.row(row) + head;
  const float before = *running;
  __syncwarp();
  if (added == -INFINITY) return;
  const float largest = fmaxf(before, added);
  const float before_weight = expf(before - largest);
  const float added_weight = expf(added - largest);
  const float sum = before_weight + added_weight;
  const int lane = static_cast<int>(threadIdx.x) % 32;
  const float* from = added_output.row(row) + head * head_dim;
  float* to = output.row(row) + head * head_dim;
  for (int column = lane; column < head_dim; column += 32) {
    to[column] = (before_weight * to[column] + added_weight * from[column]) / sum;
  }
  if (lane == 0) *running = largest + logf(sum);
}

}  // namespace

cudaError_t add_partial(cudaStream_t stream, const HeadShape& shape, const PartialAttention& partial, View output,
                        View log_sum_exp) {
  if (output.empty()) return cudaSuccess;
  const std::int64_t blocks = (output.rows * shape.heads + warps - 1) / warps;
  return launch(stream, {dim3(static_cast<unsigned>(blocks)), dim3(32 * warps)}, add_partial_heads, output.rows,
                shape.heads, shape.head_dim, rows_of<float>(partial.output), rows_of<float>(partial.log_sum_exp),
                rows_of<float>(output), rows_of<float>(log_sum_exp));
}

}  // namespace apb::cuda
