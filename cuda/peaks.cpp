// What the GPU can do: a large matrix product, and a large copy.
#include <algorithm>

#include "cuda/cuda_device.hpp"

namespace apb::cuda {
namespace {

constexpr std::int64_t largest_side = 8192;
constexpr int product_repeats = 100;
constexpr std::size_t least_copied = std::size_t{256} << 20U;  // more than any cache
constexpr int copy_repeats = 20;

/// Seconds that one of the repetitions takes, after one that does not count.
template <typename Action>
double seconds_of(cudaStream_t stream, int repeats, const Action& action) {
  const Event begin = make_timed_event();
  const Event end = make_timed_event();
  action();
  check(cudaEventRecord(begin.get(), stream), "cudaEventRecord");
  for (int i = 0; i < repeats; ++i) action();
  check(cudaEventRecord(end.get(), stream), "cudaEventRecord");
  check(cudaEventSynchronize(end.get()), "cudaEventSynchronize");
  float milliseconds = 0.0F;
  check(cudaEventElapsedTime(&milliseconds, begin.get(), end.get()), "cudaEventElapsedTime");
  return static_cast<double>(milliseconds) / 1000.0 / repeats;
}

}  // namespace

Peaks CudaDevice::measure_peaks(std::size_t bytes) {
  return {.flops_per_second = measure_product(),
          .bytes_per_second = measure_copy(bytes),
          .instructions = "cuBLASLt bf16, cudaMemcpy"};
}

/// Of random numbers: on zeros the clock stays higher.
double CudaDevice::measure_product() {
  std::int64_t side = largest_side;
  const auto matrix_bytes = [&](DataType type) { return view_bytes(type, side, side); };
  while (2 * matrix_bytes(DataType::f32) + 2 * matrix_bytes(DataType::bf16) > available_memory()) side /= 2;
  const Buffer numbers_memory = allocate(matrix_bytes(DataType::f32));
  const Buffer x_memory = allocate(matrix_bytes(DataType::bf16));
  const Buffer out_memory = allocate(matrix_bytes(DataType::bf16));
  const View numbers = numbers_memory.view(DataType::f32, side, side);
  const View x = x_memory.view(DataType::bf16, side, side);
  const View out = out_memory.view(DataType::bf16, side, side);
  const CudaWeight weight({side, side, false}, *arena_);
  score_random({.seed = 1}, 0, numbers);
  check(convert(stream(), numbers, x), "convert");
  check(convert(stream(), numbers, weight.matrix()), "convert");
  const double seconds = seconds_of(stream(), product_repeats, [&] { linear(x, weight, out, false); });
  return 2.0 * static_cast<double>(side * side * side) / seconds;
}

double CudaDevice::measure_copy(std::size_t bytes) {
  const std::size_t half = std::min(std::max(bytes, least_copied), available_memory() / 2) / 2;
  const Buffer from = allocate(half);
  const Buffer to = allocate(half);
  const double seconds = seconds_of(stream(), copy_repeats, [&] {
    check(cudaMemcpyAsync(to.data(), from.data(), half, cudaMemcpyDeviceToDevice, stream()), "cudaMemcpyAsync");
  });
  return 2.0 * static_cast<double>(half) / seconds;
}

}  // namespace apb::cuda
