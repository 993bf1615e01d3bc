// Operations that treat each row, or each element, for itself: bound by memory traffic, which the accesses keep to the
// least. Their C++ counterparts are src/cpu/elementwise.cpp and merge.cpp.
#include <cuda_runtime.h>

#include <climits>
#include <cmath>

#include "cuda/block.cuh"
#include "cuda/kernels.hpp"
#include "cuda/rows.cuh"

namespace apb::cuda {
namespace {

/// out[row] = table[tokens[row]], or table[row] without tokens. A token that the table does not have makes NaN.
template <typename Source, typename Destination, int Width>
struct Convert {
  static constexpr int width = Width;
  Rows<const Source> table;
  std::int64_t table_rows;
  Rows<const std::int32_t> tokens;
  Rows<Destination> out;

  __device__ void operator()(std::int64_t row, int column) const {
    const std::int64_t from = tokens.data == nullptr ? row : *tokens.row(row);
    Floats<Width> values;
    if (from >= 0 && from < table_rows) {
      values = load<Width>(table.row(from) + column);
    } else {
      for (float& value : values.at) value = __int_as_float(0x7FFFFFFF);
    }
    store(out.row(row) + column, values);
  }
};

template <typename Source, typename Destination>
cudaError_t convert_rows(cudaStream_t stream, ConstView tokens, ConstView source, View out) {
  constexpr int count = 16 / static_cast<int>(std::max(sizeof(Source), sizeof(Destination)));
  return with_width<count>({source, out}, [&](auto width) {
    return launch_elementwise(
        stream, out.rows, out.columns,
        Convert<Source, Destination, width()>{rows_of<Source>(source), source.rows, rows_of<std::int32_t>(tokens),
                                              rows_of<Destination>(out)});
  });
}

cudaError_t convert_rows(cudaStream_t stream, ConstView tokens, ConstView source, View out) {
  return with_element(out.type, [&]<typename Destination>(Destination) {
    if (source.type == DataType::f16) return convert_rows<F16, Destination>(stream, tokens, source, out);
    return with_element(source.type, [&]<typename Source>(Source) {
      return convert_rows<Source, Destination>(stream, tokens, source, out);
    });
  });
}

/// exp and the division keep to a few units in the last place of f32.
__device__ inline float silu_of(float x) { return __fdividef(x, 1.0F + __expf(-x)); }

template <typename Element, int Width>
struct Silu {
  static constexpr int width = Width;
  Rows<Element> x;

  __device__ void operator()(std::int64_t row, int column) const {
    Element* at = x.row(row) + column;
    Floats<Width> values = load<Width>(at);
    for (float& value : values.at) value = silu_of(value);
    store(at, values);
  }
};

template <typename Element, int Width>
struct SiluMultiply {
  static constexpr int width = Width;
  Rows<const Element> gate;
  Rows<const Element> up;
  Rows<Element> out;

  __device__ void operator()(std::int64_t row, int column) const {
    const Floats<Width> gates = load<Width>(gate.row(row) + column);
    Floats<Width> values = load<Width>(up.row(row) + column);
#pragma unroll
    for (int i = 0; i < Width; ++i) values.at[i] *= silu_of(gates.at[i]);
    store(out.row(row) + column, values);
  }
};

/// The partials of a merge, by value: `Capacity` entries, of which `count` are used.
template <int Capacity>
struct Partials {
  const float* output[Capacity];
  const float* log_sum_exp[Capacity];
  int output_stride[Capacity];
  int log_sum_exp_stride[Capacity];
  int count;
};

template <typename Element, int Width, int Capacity>
struct Merge {
  static constexpr int width = Width;
  Partials<Capacity> partials;
  int head_dim;
  Rows<Element> out;

  __device__ float log_sum_exp(int partial, std::int64_t row, int head) const {
    return partials.log_sum_exp[partial][row * partials.log_sum_exp_stride[partial] + head];
  }

  __device__ void operator()(std::int64_t row, int column) const {
    const int head = column / head_dim;
    float largest = -INFINITY;
#pragma unroll 2
    for (int i = 0; i < partials.count; ++i) largest = fmaxf(largest, log_sum_exp(i, row, head));
    Floats<Width> sum{};
    float weights = 0.0F;
#pragma unroll 2
    for (int i = 0; i < partials.count; ++i) {
      const auto values = load<Width>(partials.output[i] + row * partials.output_stride[i] + column);
      const float exponent = log_sum_exp(i, row, head);
      const bool counts = exponent != -INFINITY;
      const float weight = counts ? expf(exponent - largest) : 0.0F;
      weights += weight;
#pragma unroll
      for (int k = 0; k < Width; ++k) sum.at[k] += counts ? weight * values.at[k] : 0.0F;
    }
    const float factor = weights == 0.0F ? 0.0F : 1.0F / weights;
    for (float& value : sum.at) value *= factor;
    store(out.row(row) + column, sum);
  }
};

template <int Capacity>
Partials<Capacity> table_of(std::span<const PartialAttention> partials) {
  Partials<Capacity> table;
  table.count = 0;
  for (const auto& [output, log_sum_exp] : partials) {
    table.output[table.count] = reinterpret_cast<const float*>(output.data);
    table.log_sum_exp[table.count] = reinterpret_cast<const float*>(log_sum_exp.data);
    table.output_stride[table.count] = static_cast<int>(output.stride);
    table.log_sum_exp_stride[table.count] = static_cast<int>(log_sum_exp.stride);
    ++table.count;
  }
  return table;
}

/// Threads of a row's block at most.
constexpr int row_threads = 512;

/// One block a row, which stays in the first-level cache for its second reading. Budget: 40 registers, 128 bytes
/// shared.
template <typename Element, int Width>
__global__ void __launch_bounds__(row_threads, 3)
    rms_norm_rows(Rows<const float> x, const float* weight, float epsilon, int columns, Rows<Element> out) {
  const float* values = x.row(blockIdx.x);
  const int step = static_cast<int>(blockDim.x) * Width;
  const int first = static_cast<int>(threadIdx.x) * Width;
  float squares = 0.0F;
#pragma unroll 4
  for (int column = first; column < columns; column += step) {
    for (const float value : load<Width>(values + column).at) squares += value * value;
  }
  const float scale = 1.0F / sqrtf(block_sum(squares) / static_cast<float>(columns) + epsilon);
#pragma unroll 4
  for (int column = first; column < columns; column += step) {
    Floats<Width> result = load<Width>(values + column);
    const Floats<Width> weights = load<Width>(weight + column);
#pragma unroll
    for (int i = 0; i < Width; ++i) result.at[i] *= scale * weights.at[i];
    store(out.row(blockIdx.x) + column, result);
  }
}

/// The larger value, the lower column among equal ones; NaN is never larger.
struct Largest {
  float value = -INFINITY;
  int column = INT_MAX;

  __device__ void consider(const Largest& other) {
    if (other.value > value || (other.value == value && other.column < column)) *this = other;
  }
  __device__ void consider_lanes() {
#pragma unroll
    for (int distance = 16; distance > 0; distance /= 2) {
      consider({__shfl_xor_sync(all_lanes, value, distance), __shfl_xor_sync(all_lanes, column, distance)});
    }
  }
};

constexpr int argmax_threads = 1024;

/// One block a row. Budget: 64 registers, 256 bytes shared.
template <int Width>
__global__ void __launch_bounds__(argmax_threads)
    argmax_rows(Rows<const float> x, int columns, Rows<std::int32_t> out) {
  __shared__ float values[32];
  __shared__ int at[32];
  const float* row = x.row(blockIdx.x);
  Largest largest;
#pragma unroll 4
  for (int column = static_cast<int>(threadIdx.x) * Width; column < columns; column += argmax_threads * Width) {
    const Floats<Width> found = load<Width>(row + column);
#pragma unroll
    for (int i = 0; i < Width; ++i) largest.consider({found.at[i], column + i});
  }
  largest.consider_lanes();
  const unsigned lane = threadIdx.x % 32;
  if (lane == 0) {
    values[threadIdx.x / 32] = largest.value;
    at[threadIdx.x / 32] = largest.column;
  }
  __syncthreads();
  largest = {values[lane], at[lane]};
  largest.consider_lanes();
  if (threadIdx.x == 0) *out.row(blockIdx.x) = largest.column < columns ? largest.column : 0;
}

}  // namespace

cudaError_t embed(cudaStream_t stream, ConstView tokens, ConstView table, View out) {
  return convert_rows(stream, tokens, table, out);
}

cudaError_t convert(cudaStream_t stream, ConstView source, View destination) {
  return convert_rows(stream, {}, source, destination);
}

cudaError_t silu(cudaStream_t stream, View x) {
  return with_element(x.type, [&]<typename Element>(Element) {
    return with_width<16 / sizeof(Element)>({x}, [&](auto width) {
      return launch_elementwise(stream, x.rows, x.columns, Silu<Element, width()>{rows_of<Element>(x)});
    });
  });
}

cudaError_t silu_multiply(cudaStream_t stream, ConstView gate_up, View out) {
  ConstView gate = gate_up;
  gate.columns = out.columns;
  ConstView up = gate;
  up.data += static_cast<std::size_t>(out.columns) * size_of(up.type);
  return with_element(out.type, [&]<typename Element>(Element) {
    return with_width<16 / sizeof(Element)>({gate, up, out}, [&](auto width) {
      return launch_elementwise(
          stream, out.rows, out.columns,
          SiluMultiply<Element, width()>{rows_of<Element>(gate), rows_of<Element>(up), rows_of<Element>(out)});
    });
  });
}

cudaError_t merge(cudaStream_t stream, const HeadShape& shape, std::span<const PartialAttention> partials, View out) {
  if (partials.size() > largest_slot_table) return cudaErrorInvalidValue;
  const bool vectors = shape.head_dim % 4 == 0 && allows<4>(out) &&
                       std::all_of(partials.begin(), partials.end(), [](auto& p) { return allows<4>(p.output); });
  return with_element(out.type, [&]<typename Element>(Element) {
    const auto run = [&](auto width, auto capacity) {
      return launch_elementwise(
          stream, out.rows, out.columns,
          Merge<Element, width(), capacity()>{table_of<capacity()>(partials), shape.head_dim, rows_of<Element>(out)});
    };
    constexpr std::integral_constant<int, 16> few{};  // a small table is launched faster
    constexpr std::integral_constant<int, largest_slot_table> many{};
    constexpr std::integral_constant<int, 4> four{};
    constexpr std::integral_constant<int, 1> one{};
    if (partials.size() <= std::size_t{few()}) return vectors ? run(four, few) : run(one, few);
    return vectors ? run(four, many) : run(one, many);
  });
}

cudaError_t rms_norm(cudaStream_t stream, ConstView x, ConstView weight, float epsilon, View out) {
  if (x.empty()) return cudaSuccess;
  return with_element(out.type, [&]<typename Element>(Element) {
    return with_width<4>({x, weight, out}, [&](auto width) {
      const std::int64_t accesses = x.columns / width();
      const auto threads = static_cast<unsigned>(std::min<std::int64_t>(row_threads, (accesses + 31) / 32 * 32));
      return launch(stream, {dim3(static_cast<unsigned>(x.rows)), dim3(threads)}, rms_norm_rows<Element, width()>,
                    rows_of<float>(x), reinterpret_cast<const float*>(weight.data), epsilon,
                    static_cast<int>(x.columns), rows_of<Element>(out));
    });
  });
}

cudaError_t argmax(cudaStream_t stream, ConstView x, View out) {
  if (x.rows == 0) return cudaSuccess;
  return with_width<4>({x}, [&](auto width) {
    return launch(stream, {dim3(static_cast<unsigned>(x.rows)), dim3(argmax_threads)}, argmax_rows<width()>,
                  rows_of<float>(x), static_cast<int>(x.columns), rows_of<std::int32_t>(out));
  });
}

}  // namespace apb::cuda
