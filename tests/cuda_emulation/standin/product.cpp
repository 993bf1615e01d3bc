#include "product.hpp"

#include <algorithm>
#include <bit>
#include <cstddef>

namespace apb::emulation {
namespace {

constexpr std::int64_t tile_rows = 6;
constexpr std::int64_t tile_columns = 32;

float widened(std::uint16_t bits) { return std::bit_cast<float>(static_cast<std::uint32_t>(bits) << 16U); }

/// Rows [first, first + count) as columns: [columns, width] f32, zeros where there is no row.
void pack(const Bf16Matrix& matrix, std::int64_t first, std::int64_t width, std::vector<float>& packed) {
  packed.assign(static_cast<std::size_t>(matrix.columns * width), 0.0F);
  const std::int64_t count = std::min(width, matrix.rows - first);
  for (std::int64_t row = 0; row < count; ++row) {
    const std::uint16_t* const from = matrix.data + (first + row) * matrix.stride;
    for (std::int64_t k = 0; k < matrix.columns; ++k)
      packed[static_cast<std::size_t>(k * width + row)] = widened(from[k]);
  }
}

/// sums [tile_rows, tile_columns] of packed rows and columns, in ascending k.
__attribute__((target_clones("arch=x86-64-v4", "arch=x86-64-v3", "default"))) void multiply_tile(
    const float* __restrict rows, const float* __restrict columns, std::int64_t k_count, float* __restrict sums) {
  float accumulators[tile_rows][tile_columns] = {};
  for (std::int64_t k = 0; k < k_count; ++k) {
    for (std::int64_t i = 0; i < tile_rows; ++i) {
#pragma omp simd
      for (std::int64_t j = 0; j < tile_columns; ++j) {
        accumulators[i][j] += rows[k * tile_rows + i] * columns[k * tile_columns + j];
      }
    }
  }
  std::copy(&accumulators[0][0], &accumulators[0][0] + tile_rows * tile_columns, sums);
}

}  // namespace

std::vector<float> product(const Bf16Matrix& left, const Bf16Matrix& right) {
  std::vector<float> result(static_cast<std::size_t>(left.rows * right.rows));
  std::vector<std::vector<float>> packed_rows;
  for (std::int64_t row = 0; row < left.rows; row += tile_rows) {
    pack(left, row, tile_rows, packed_rows.emplace_back());
  }
  std::vector<float> packed_columns;
  float sums[tile_rows * tile_columns];
  for (std::int64_t column = 0; column < right.rows; column += tile_columns) {
    pack(right, column, tile_columns, packed_columns);
    const std::int64_t columns = std::min(tile_columns, right.rows - column);
    for (std::int64_t row = 0; row < left.rows; row += tile_rows) {
      multiply_tile(packed_rows[static_cast<std::size_t>(row / tile_rows)].data(), packed_columns.data(), left.columns,
                    sums);
      const std::int64_t rows = std::min(tile_rows, left.rows - row);
      for (std::int64_t i = 0; i < rows; ++i) {
        std::copy_n(sums + i * tile_columns, columns, result.data() + (row + i) * right.rows + column);
      }
    }
  }
  return result;
}

}  // namespace apb::emulation
