// The kernels' launchers: each enqueues one operation of the Device interface on a stream. Plain C++, for host
// compilers and nvcc alike.
//
// Views are of device memory, in bf16 where Device says "compute type"; every row starts at a multiple of 16 bytes.
// Scalars, views and slot tables are passed by value, so the caller's memory is free on return. Nothing is allocated:
// what a kernel needs besides comes as a workspace, of the size that the function beside it states. Returned is the
// launch's own error; shapes have been checked by the caller.
#pragma once

#include <cuda_runtime_api.h>

#include <cstddef>
#include <cstdint>
#include <span>

#include "device/device.hpp"

namespace apb::cuda {

/// Slot capacities are multiples of this many tokens.
inline constexpr int tile = 64;
/// Entries of one attention's `visible`, at most.
inline constexpr int largest_slot_table = 1024;
/// Tokens that a selection pools over, at most.
inline constexpr int largest_pool_window = 1025;

/// A slot holds, per KV head, keys [capacity, head_dim] and then values [capacity, head_dim], row-major bf16.
inline std::size_t slot_bytes(int capacity, const HeadShape& shape) {
  return 2 * sizeof(std::uint16_t) * static_cast<std::size_t>(capacity) * static_cast<std::size_t>(shape.kv_heads) *
         static_cast<std::size_t>(shape.head_dim);
}

/// Memory that one operation at a time may use.
struct Workspace {
  std::byte* data = nullptr;
  std::size_t bytes = 0;
};

// --- attention.cu
// -----------------------------------------------------------------------------------------------------
/// Enough for any number of rows and keys on a GPU of so many multiprocessors.
std::size_t attention_workspace(int multiprocessors, const HeadShape& shape);
/// Device::attention. Head dimensions 64 and 128; where few rows leave multiprocessors idle, the keys are split and the
/// parts merged.
cudaError_t attention(cudaStream_t stream, const AttentionArguments& arguments, int multiprocessors,
                      Workspace workspace);

// --- elementwise.cu
// ---------------------------------------------------------------------------------------------------
/// A token that the table does not have makes a row of NaN.
cudaError_t embed(cudaStream_t stream, ConstView tokens, ConstView table, View out);
cudaError_t rms_norm(cudaStream_t stream, ConstView x, ConstView weight, float epsilon, View out);
/// Device::merge; as many partials as `largest_slot_table`.
cudaError_t merge(cudaStream_t stream, const HeadShape& shape, std::span<const PartialAttention> partials, View out);
cudaError_t silu(cudaStream_t stream, View x);
cudaError_t silu_multiply(cudaStream_t stream, ConstView gate_up, View out);
cudaError_t argmax(cudaStream_t stream, ConstView x, View out);
/// destination (f32 or bf16) = source (f32, bf16 or f16), both on the device.
cudaError_t convert(cudaStream_t stream, ConstView source, View destination);

// --- partials.cu
// ------------------------------------------------------------------------------------------------------
cudaError_t add_partial(cudaStream_t stream, const HeadShape& shape, const PartialAttention& partial, View output,
                        View log_sum_exp);

// --- slots.cu
// ---------------------------------------------------------------------------------------------------------
// Head dimensions 64 and 128, here and in scores.cu.
cudaError_t rotate_and_store(cudaStream_t stream, const HeadShape& shape, ConstView qkv, const HeadNorms& norms,
                             ConstView rotary, std::int64_t first_position, View query_out, Slot slot, int first_token);
/// Positions are not checked.
cudaError_t gather(cudaStream_t stream, const HeadShape& shape, SlotRange source, ConstView positions,
                   Slot destination);

// --- scores.cu
// --------------------------------------------------------------------------------------------------------
cudaError_t mean_query(cudaStream_t stream, const HeadShape& shape, ConstView query, View mean);
cudaError_t score_similarity(cudaStream_t stream, const HeadShape& shape, ConstView mean, SlotRange keys, View scores);
cudaError_t score_random(cudaStream_t stream, const RandomScoreKey& key, std::int64_t first_position, View scores);
cudaError_t score_recent(cudaStream_t stream, std::int64_t first_position, View scores);

// --- selection.cu
// -----------------------------------------------------------------------------------------------------
std::size_t select_workspace(std::int64_t tokens, int kv_heads);
/// `pool_window` at most `largest_pool_window`.
cudaError_t select(cudaStream_t stream, ConstView scores, int pool_window, int excluded, View positions,
                   Workspace workspace);

}  // namespace apb::cuda
