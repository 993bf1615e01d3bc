// Rows of views inside kernels: typed pointers, accesses of several elements at a time with f32 values, and the kernel
// that all operations on single elements share.
#pragma once

#include <cuda_bf16.h>
#include <cuda_fp16.h>

#include <algorithm>
#include <bit>
#include <cstdint>
#include <cstring>
#include <initializer_list>
#include <type_traits>

#include "cuda/launch.cuh"
#include "device/view.hpp"

namespace apb::cuda {

using Bf16 = __nv_bfloat16;
using F16 = __half;

/// Rows of a view whose elements are `Element`.
template <typename Element>
struct Rows {
  Element* data = nullptr;
  std::int64_t stride = 0;

  __device__ Element* row(std::int64_t index) const { return data + index * stride; }
};

template <typename Element>
Rows<const Element> rows_of(const ConstView& view) {
  return {reinterpret_cast<const Element*>(view.data), view.stride};
}
template <typename Element>
Rows<Element> rows_of(const View& view) {
  return {reinterpret_cast<Element*>(view.data), view.stride};
}

/// body(element) with a zero of the type that stands for `type`: f32 or bf16.
template <typename Body>
cudaError_t with_element(DataType type, const Body& body) {
  if (type == DataType::f32) return body(float{});
  if (type == DataType::bf16) return body(Bf16{});
  return cudaErrorInvalidValue;
}

// --- several elements at a time -------------------------------------------------------------------------------------

/// The type of one memory access of so many bytes.
template <int Bytes>
using Word =
    std::conditional_t<Bytes == 16, uint4,
                       std::conditional_t<Bytes == 8, uint2, std::conditional_t<Bytes == 4, unsigned, unsigned short>>>;

template <int Count>
struct Floats {
  float at[Count];
};

__device__ inline float to_float(float value) { return value; }
__device__ inline float to_float(Bf16 value) { return __bfloat162float(value); }
__device__ inline float to_float(F16 value) { return __half2float(value); }

template <typename Element>
__device__ Element from_float(float value) {
  if constexpr (std::is_same_v<Element, Bf16>) {
    return __float2bfloat16_rn(value);
  } else {
    return value;
  }
}

/// `Count` elements in one access, of at most 16 bytes; `from` is a multiple of its size.
template <int Count, typename Element>
__device__ Floats<Count> load(const Element* from) {
  constexpr int bytes = Count * static_cast<int>(sizeof(Element));
  static_assert(bytes <= 16);
  const auto word = *reinterpret_cast<const Word<bytes>*>(from);
  Element elements[Count];
  memcpy(elements, &word, bytes);
  Floats<Count> result;
#pragma unroll
  for (int i = 0; i < Count; ++i) result.at[i] = to_float(elements[i]);
  return result;
}

template <int Count, typename Element>
__device__ void store(Element* to, const Floats<Count>& values) {
  constexpr int bytes = Count * static_cast<int>(sizeof(Element));
  static_assert(bytes <= 16);
  Element elements[Count];
#pragma unroll
  for (int i = 0; i < Count; ++i) elements[i] = from_float<Element>(values.at[i]);
  Word<bytes> word;
  memcpy(&word, elements, bytes);
  *reinterpret_cast<Word<bytes>*>(to) = word;
}

/// Whether the rows of a view can be accessed `Count` elements at a time.
template <int Count>
bool allows(const ConstView& view) {
  const std::size_t bytes = Count * size_of(view.type);
  return view.columns % Count == 0 && reinterpret_cast<std::uintptr_t>(view.data) % bytes == 0 &&
         (view.rows <= 1 || view.stride % Count == 0);
}

/// body(std::integral_constant) with the elements of one access: `Count` if all views allow it, else 1.
template <int Count, typename Body>
cudaError_t with_width(std::initializer_list<ConstView> views, const Body& body) {
  if (std::all_of(views.begin(), views.end(), allows<Count>)) return body(std::integral_constant<int, Count>{});
  return body(std::integral_constant<int, 1>{});
}

// --- operations on single elements ----------------------------------------------------------------------------------

inline constexpr int elementwise_threads = 256;

/// operation(row, column) for the first of every `Operation::width` columns of every row.
/// Budget: 64 registers, no shared memory.
template <typename Operation>
__global__ void __launch_bounds__(elementwise_threads, 4)
    elementwise(const __grid_constant__ Operation operation, std::int64_t rows, int columns) {
  const std::int64_t row = static_cast<std::int64_t>(blockIdx.x) * blockDim.y + threadIdx.y;
  const int column = static_cast<int>(blockIdx.y * blockDim.x + threadIdx.x) * Operation::width;
  if (row < rows && column < columns) operation(row, column);
}

/// Rows narrower than a block share one.
template <typename Operation>
cudaError_t launch_elementwise(cudaStream_t stream, std::int64_t rows, std::int64_t columns,
                               const Operation& operation) {
  if (rows == 0 || columns == 0) return cudaSuccess;
  const auto accesses = static_cast<unsigned>(columns / Operation::width);
  const unsigned whole_warps = std::min<unsigned>((accesses + 31) / 32 * 32, elementwise_threads);
  const unsigned across = accesses < 32 ? std::bit_ceil(accesses) : whole_warps;
  const dim3 block(across, elementwise_threads / across);
  const dim3 grid(static_cast<unsigned>((rows + block.y - 1) / block.y), (accesses + block.x - 1) / block.x);
  return launch(stream, {grid, block}, elementwise<Operation>, operation, rows, static_cast<int>(columns));
}

}  // namespace apb::cuda
