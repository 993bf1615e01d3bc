// Keys and values into slots. The C++ counterpart is src/cpu/slots.cpp; but values behind the last token are left as
// they are, since attention does not read them.
#include <cuda_runtime.h>

#include "cuda/heads.cuh"

namespace apb::cuda {
namespace {

constexpr int rotate_threads = 256;
/// Of a warp whose lanes take 16 elements each.
template <int HeadDim>
constexpr int heads_at_a_time = 512 / HeadDim;

template <int HeadDim>
struct RotateArguments {
  int heads;
  int kv_heads;
  int query_steps;  // that a warp's worth of Q's heads takes; none where Q is not wanted
  int key_steps;    // of K's heads, and of V's
  Rows<const Bf16> qkv;
  const float* query_norm;  // [HeadDim], null where the model has none
  const float* key_norm;
  float epsilon;
  Rows<const float> rotary;  // of the first row's position on
  Rows<Bf16> query_out;      // null: nowhere
  SlotRows<HeadDim> slot;
  std::int64_t first_token;
};

/// A lane's share of a head: 8 elements of the lower half and the 8 that turn with them.
struct Halves {
  Floats<8> low;
  Floats<8> high;
};

/// x / rms(x) * norm of the head that `Lanes` neighbouring lanes share.
template <int Lanes>
__device__ void normalise(Halves& x, const Halves& norm, float epsilon) {
  float squares = 0.0F;
#pragma unroll
  for (int i = 0; i < 8; ++i) squares += x.low.at[i] * x.low.at[i] + x.high.at[i] * x.high.at[i];
  const float scale = 1.0F / sqrtf(lane_sum<Lanes>(squares) / static_cast<float>(16 * Lanes) + epsilon);
#pragma unroll
  for (int i = 0; i < 8; ++i) {
    x.low.at[i] *= scale * norm.low.at[i];
    x.high.at[i] *= scale * norm.high.at[i];
  }
}

__device__ inline void rotate(Halves& x, const Floats<8>& cosines, const Floats<8>& sines) {
#pragma unroll
  for (int i = 0; i < 8; ++i) {
    const float low = x.low.at[i];
    x.low.at[i] = low * cosines.at[i] - x.high.at[i] * sines.at[i];
    x.high.at[i] = x.high.at[i] * cosines.at[i] + low * sines.at[i];
  }
}

/// One block a row. A warp's step is some heads of Q, of K or of V. Budget: 64 registers, no shared
/// memory.
template <int HeadDim>
__global__ void __launch_bounds__(rotate_threads, 4)
    rotate_and_store_rows(const __grid_constant__ RotateArguments<HeadDim> arguments) {
  constexpr int half = HeadDim / 2;
  constexpr int lanes = half / 8;
  constexpr int at_a_time = heads_at_a_time<HeadDim>;
  const auto& [heads, kv_heads, query_steps, key_steps, qkv, query_norm, key_norm, epsilon, rotary, query_out, slot,
               first_token] = arguments;
  const int lane = static_cast<int>(threadIdx.x % 32);
  const int column = lane % lanes * 8;
  const std::int64_t row = blockIdx.x;
  const SpreadRow angles = load_spread<HeadDim>(rotary.row(row));
  const Floats<8> cosines = angles.eight(column);
  const Floats<8> sines = angles.eight(half + column);

  const int warps = static_cast<int>(blockDim.x / 32);
  for (int step = static_cast<int>(threadIdx.x / 32); step < query_steps + 2 * key_steps; step += warps) {
    const bool is_query = step < query_steps;
    const bool is_value = step >= query_steps + key_steps;
    const int step_of_kind = is_query ? step : (step - query_steps) % key_steps;
    const int head = step_of_kind * at_a_time + lane / lanes;
    const bool exists = head < (is_query ? heads : kv_heads);
    const int head_of_row = head + (is_query ? 0 : heads) + (is_value ? kv_heads : 0);
    Halves x{};
    if (exists) {
      const Bf16* from = qkv.row(row) + head_of_row * HeadDim + column;
      x = {load<8>(from), load<8>(from + half)};
    }
    if (!is_value) {
      if (query_norm != nullptr) {
        const SpreadRow norm = load_spread<HeadDim>(is_query ? query_norm : key_norm);
        normalise<lanes>(x, {norm.eight(column), norm.eight(half + column)}, epsilon);
      }
      rotate(x, cosines, sines);
    }
    if (exists) {
      Bf16* to = is_query   ? query_out.row(row) + head * HeadDim
                 : is_value ? slot.value(head, first_token + row)
                            : slot.key(head, first_token + row);
      store(to + column, x.low);
      store(to + half + column, x.high);
    }
  }
}

/// Row h * count + i: token positions[h][i] of the source to token i of the destination, both of KV head h.
template <int HeadDim>
struct Gather {
  static constexpr int width = 8;
  SlotRows<HeadDim> source;
  Rows<const std::int32_t> positions;
  unsigned count;
  SlotRows<HeadDim> destination;

  __device__ void operator()(std::int64_t row, int column) const {
    const auto head = static_cast<int>(static_cast<unsigned>(row) / count);
    const unsigned to = static_cast<unsigned>(row) % count;
    const std::int64_t from = positions.row(head)[to];
    const auto key = *reinterpret_cast<const uint4*>(source.key(head, from) + column);
    const auto value = *reinterpret_cast<const uint4*>(source.value(head, from) + column);
    *reinterpret_cast<uint4*>(destination.key(head, to) + column) = key;
    *reinterpret_cast<uint4*>(destination.value(head, to) + column) = value;
  }
};

}  // namespace

cudaError_t rotate_and_store(cudaStream_t stream, const HeadShape& shape, ConstView qkv, const HeadNorms& norms,
                             ConstView rotary, std::int64_t first_position, View query_out, Slot slot,
                             int first_token) {
  if (qkv.rows == 0) return cudaSuccess;
  return with_head_dim(shape.head_dim, [&](auto head_dim) {
    constexpr int at_a_time = heads_at_a_time<head_dim()>;
    const int query_steps = query_out.empty() ? 0 : (shape.heads + at_a_time - 1) / at_a_time;
    const int key_steps = (shape.kv_heads + at_a_time - 1) / at_a_time;
    const auto* first_angles = reinterpret_cast<const float*>(rotary.row(first_position));
    const RotateArguments<head_dim()> arguments{shape.heads,
                                                shape.kv_heads,
                                                query_steps,
                                                key_steps,
                                                rows_of<Bf16>(qkv),
                                                reinterpret_cast<const float*>(norms.query.data),
                                                reinterpret_cast<const float*>(norms.key.data),
                                                norms.epsilon,
                                                {first_angles, rotary.stride},
                                                rows_of<Bf16>(query_out),
                                                rows_of<head_dim()>(slot),
                                                first_token};
    const int steps = query_steps + 2 * key_steps;
    const int turns = (steps * 32 + rotate_threads - 1) / rotate_threads;
    const int threads = (steps + turns - 1) / turns * 32;  // warps that all have as much to do
    return launch(stream, {dim3(static_cast<unsigned>(qkv.rows)), dim3(static_cast<unsigned>(threads))},
                  rotate_and_store_rows<head_dim()>, arguments);
  });
}

cudaError_t gather(cudaStream_t stream, const HeadShape& shape, SlotRange source, ConstView positions,
                   Slot destination) {
  return with_head_dim(shape.head_dim, [&](auto head_dim) {
    return launch_elementwise(
        stream, positions.rows * positions.columns, head_dim(),
        Gather<head_dim()>{rows_of<head_dim()>(source.slot), rows_of<std::int32_t>(positions),
                           static_cast<unsigned>(positions.columns), rows_of<head_dim()>(destination)});
  });
}

}  // namespace apb::cuda
