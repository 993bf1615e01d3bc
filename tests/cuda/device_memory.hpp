// Device memory for the kernels' tests: matrices that own it, poisoned, filled from and read back to numbers.
#pragma once

#include <cuda_runtime_api.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <memory>
#include <random>
#include <stdexcept>
#include <string>
#include <vector>

#include "cpu/bf16.hpp"
#include "device/view.hpp"

namespace apb::cuda {

using Numbers = std::vector<double>;

/// Throws if a call of the CUDA runtime, or a launcher, failed.
inline void check(cudaError_t error) {
  if (error != cudaSuccess) throw std::runtime_error(std::string("CUDA: ") + cudaGetErrorString(error));
}

/// Device memory of its own, every byte 0xFF: NaN as f32, bf16 and f16, -1 as i32.
class DeviceBytes {
 public:
  explicit DeviceBytes(std::size_t bytes) : bytes_(bytes) {
    if (bytes == 0) return;
    void* data = nullptr;
    check(cudaMalloc(&data, bytes));
    data_.reset(static_cast<std::byte*>(data));
    check(cudaMemset(data, 0xFF, bytes));
  }
  std::byte* data() const { return data_.get(); }
  std::size_t bytes() const { return bytes_; }

  void upload(const std::vector<std::byte>& source) {
    if (source.size() != bytes_) throw std::invalid_argument("upload of another size");
    if (bytes_ > 0) check(cudaMemcpy(data(), source.data(), bytes_, cudaMemcpyHostToDevice));
  }
  /// What it holds when all that was enqueued on any stream has run.
  std::vector<std::byte> download() const {
    check(cudaDeviceSynchronize());
    std::vector<std::byte> result(bytes_);
    if (bytes_ > 0) check(cudaMemcpy(result.data(), data(), bytes_, cudaMemcpyDeviceToHost));
    return result;
  }

 private:
  struct Free {
    void operator()(std::byte* data) const { cudaFree(data); }
  };
  std::unique_ptr<std::byte, Free> data_;
  std::size_t bytes_;
};

/// One number as it is stored; bf16 rounds to nearest. f16 is not needed.
inline void store_number(double number, DataType type, std::byte* out) {
  const auto put = [&](auto value) { std::memcpy(out, &value, sizeof(value)); };
  if (type == DataType::f32) put(static_cast<float>(number));
  if (type == DataType::bf16) put(cpu::to_bf16(static_cast<float>(number)));
  if (type == DataType::i32) put(static_cast<std::int32_t>(number));
}

inline double load_number(DataType type, const std::byte* data) {
  const auto get = [&](auto value) {
    std::memcpy(&value, data, sizeof(value));
    return value;
  };
  if (type == DataType::f32) return static_cast<double>(get(float{}));
  if (type == DataType::bf16) return static_cast<double>(cpu::to_float(get(cpu::Bf16{})));
  return static_cast<double>(get(std::int32_t{}));
}

/// Rows of a type on the device, `stride` elements from row to row, with one more row of poison behind them.
class DeviceMatrix {
 public:
  DeviceMatrix(DataType type, std::int64_t rows, std::int64_t columns, std::int64_t stride)
      : bytes_(static_cast<std::size_t>((rows + 1) * stride) * size_of(type)), view_{bytes_.data(), type,
                                                                                     Space::device, rows,
                                                                                     columns,       stride} {}
  DeviceMatrix(DataType type, std::int64_t rows, std::int64_t columns) : DeviceMatrix(type, rows, columns, columns) {}
  /// Holds the numbers (rows x columns, row by row), rounded to the type.
  DeviceMatrix(DataType type, std::int64_t rows, std::int64_t columns, std::int64_t stride, const Numbers& numbers)
      : DeviceMatrix(type, rows, columns, stride) {
    write(numbers);
  }

  const View& view() const { return view_; }

  void write(const Numbers& numbers) {
    if (numbers.size() != static_cast<std::size_t>(view_.rows * view_.columns)) {
      throw std::invalid_argument("numbers of another size");
    }
    std::vector<std::byte> host = bytes_.download();
    for_each([&](std::size_t index, std::size_t offset) { store_number(numbers[index], view_.type, &host[offset]); });
    bytes_.upload(host);
  }

  /// The rows x columns numbers; waits for the device.
  Numbers read() const {
    const std::vector<std::byte> host = bytes_.download();
    Numbers result(static_cast<std::size_t>(view_.rows * view_.columns));
    for_each([&](std::size_t index, std::size_t offset) { result[index] = load_number(view_.type, &host[offset]); });
    return result;
  }

  /// Every byte, for "two runs give the same".
  std::vector<std::byte> bytes() const { return bytes_.download(); }

  /// Nothing was written between the columns and the stride, nor behind the last row.
  bool poison_is_whole() const {
    std::vector<std::byte> host = bytes_.download();
    const std::size_t size = size_of(view_.type);
    for_each([&](std::size_t, std::size_t offset) { std::fill_n(&host[offset], size, std::byte{0xFF}); });
    return std::all_of(host.begin(), host.end(), [](std::byte byte) { return byte == std::byte{0xFF}; });
  }

 private:
  template <typename Action>
  void for_each(Action action) const {
    std::size_t index = 0;
    for (std::int64_t row = 0; row < view_.rows; ++row) {
      for (std::int64_t column = 0; column < view_.columns; ++column) {
        action(index++, static_cast<std::size_t>(row * view_.stride + column) * size_of(view_.type));
      }
    }
  }

  DeviceBytes bytes_;
  View view_;
};

/// Fresh random numbers for one test; APB_TEST_SEED repeats those that a failure named.
class Random {
 public:
  Random() : seed_(std::getenv("APB_TEST_SEED") ? std::stoull(std::getenv("APB_TEST_SEED")) : std::random_device{}()) {
    std::printf("APB_TEST_SEED=%llu\n", static_cast<unsigned long long>(seed_));
    generator_.seed(seed_);
  }
  /// Uniform in [-amplitude, amplitude).
  Numbers numbers(std::int64_t count, double amplitude = 1.0) {
    std::uniform_real_distribution<double> distribution(-amplitude, amplitude);
    Numbers result(static_cast<std::size_t>(count));
    for (double& number : result) number = distribution(generator_);
    return result;
  }
  /// Uniform in [low, high].
  std::int64_t integer(std::int64_t low, std::int64_t high) {
    return std::uniform_int_distribution<std::int64_t>(low, high)(generator_);
  }

 private:
  std::uint64_t seed_;
  std::mt19937_64 generator_;
};

/// Multiprocessors of the current device.
inline int multiprocessors() {
  int count = 0;
  check(cudaDeviceGetAttribute(&count, cudaDevAttrMultiProcessorCount, 0));
  return count;
}

}  // namespace apb::cuda
