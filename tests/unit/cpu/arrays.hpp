// Device memory filled and read back for tests: padded rows, all NaN where nothing has been written.
#pragma once

#include <gtest/gtest.h>

#include <bit>
#include <cstdint>
#include <cstring>
#include <random>
#include <vector>

#include "cpu/cpu_device.hpp"
#include "device/device.hpp"

namespace apb {

using Numbers = std::vector<double>;

/// Both types that the device computes in, with the error that one rounding to them may make.
struct TypeCase {
  DataType type;
  double tolerance;
};
inline constexpr TypeCase type_cases[] = {{DataType::f32, 1e-6}, {DataType::bf16, 0.004}};

/// A matrix in device memory, three elements longer from row to row than it is wide.
struct Matrix {
  Buffer buffer;
  View view;
};

inline Matrix poisoned(Device& device, DataType type, std::int64_t rows, std::int64_t columns) {
  const std::int64_t stride = columns + 3;
  Matrix matrix;
  matrix.buffer = device.allocate(static_cast<std::size_t>(rows * stride) * size_of(type));
  std::memset(matrix.buffer.data(), 0xFF, matrix.buffer.bytes());
  matrix.view = {matrix.buffer.data(), type, Space::device, rows, columns, stride};
  return matrix;
}

/// The numbers that `count` elements of f32, bf16 or i32 stand for.
inline Numbers read_elements(const std::byte* data, DataType type, std::int64_t count) {
  Numbers result;
  for (std::int64_t i = 0; i < count; ++i) {
    std::uint32_t bits = 0;
    std::memcpy(&bits, data + static_cast<std::size_t>(i) * size_of(type), size_of(type));
    if (type == DataType::i32) {
      result.push_back(std::bit_cast<std::int32_t>(bits));
    } else {
      result.push_back(std::bit_cast<float>(type == DataType::bf16 ? bits << 16U : bits));
    }
  }
  return result;
}

/// The view's numbers, row after row; fails the test if anything was written between its rows.
inline Numbers read(const ConstView& view) {
  Numbers result;
  for (std::int64_t row = 0; row < view.rows; ++row) {
    const Numbers numbers = read_elements(view.row(row), view.type, view.columns);
    result.insert(result.end(), numbers.begin(), numbers.end());
    for (const std::byte* gap = view.row(row) + static_cast<std::size_t>(view.columns) * size_of(view.type);
         gap < view.row(row + 1); ++gap) {
      EXPECT_EQ(*gap, std::byte{0xFF}) << "written behind row " << row;
    }
  }
  return result;
}

/// A matrix with these numbers, rounded to `type`.
inline Matrix filled(Device& device, DataType type, std::int64_t rows, std::int64_t columns, const Numbers& numbers) {
  Matrix matrix = poisoned(device, type, rows, columns);
  if (type == DataType::i32) {
    const std::vector<std::int32_t> values(numbers.begin(), numbers.end());
    device.upload(host_view(values.data(), rows, columns), matrix.view);
  } else {
    const std::vector<float> values(numbers.begin(), numbers.end());
    device.upload(host_view(values.data(), rows, columns), matrix.view);
  }
  device.synchronize();
  return matrix;
}

/// Numbers between -scale and scale, the same on every machine.
inline Numbers random_numbers(std::int64_t count, double scale, unsigned seed) {
  std::mt19937 generator(seed);
  Numbers numbers;
  for (std::int64_t i = 0; i < count; ++i) numbers.push_back((static_cast<double>(generator()) / 0x1p31 - 1.0) * scale);
  return numbers;
}

inline Matrix random_matrix(Device& device, DataType type, std::int64_t rows, std::int64_t columns, double scale,
                            unsigned seed) {
  return filled(device, type, rows, columns, random_numbers(rows * columns, scale, seed));
}

/// The matrix as a weight of its own.
inline std::unique_ptr<Weight> pack_matrix(Device& device, const Matrix& matrix) {
  ConstView source = matrix.view;
  source.space = Space::host;
  return device.pack({&source, 1}, {});
}

/// body(device) on one thread and on two, which must agree in every bit; returns what both say.
template <typename Body>
Numbers on_one_and_two_threads(DataType type, const Body& body) {
  const auto one = make_cpu_device({.threads = 1, .compute_type = type});
  const auto two = make_cpu_device({.threads = 2, .compute_type = type});
  const Numbers result = body(*one);
  const Numbers again = body(*two);
  EXPECT_EQ(result.size(), again.size());
  EXPECT_TRUE(result.empty() || std::memcmp(result.data(), again.data(), result.size() * sizeof(double)) == 0)
      << "threads change the result";
  return result;
}

}  // namespace apb
