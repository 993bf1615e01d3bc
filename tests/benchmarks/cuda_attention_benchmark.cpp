// How fast attention runs on this GPU: arithmetic of prefill, memory traffic of decoding, the time of one launch.
// Measured with events over several calls after a first one; heads of 64 in groups of 3, of 128 in groups of 4.
#include <cuda_runtime_api.h>

#include <cstddef>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <exception>
#include <memory>
#include <stdexcept>
#include <vector>

#include "cpu/bf16.hpp"
#include "cuda/kernels.hpp"

namespace apb::cuda {
namespace {

void check(cudaError_t error) {
  if (error != cudaSuccess) throw std::runtime_error(cudaGetErrorString(error));
}

struct Free {
  void operator()(std::byte* data) const { cudaFree(data); }
};
using Memory = std::unique_ptr<std::byte, Free>;

Memory allocate(std::size_t bytes) {
  void* data = nullptr;
  check(cudaMalloc(&data, bytes));
  return Memory(static_cast<std::byte*>(data));
}

/// Pseudo-random bf16 numbers in [-2, 2), the same sequence over and over.
Memory random_numbers(std::size_t bytes) {
  constexpr std::size_t period = (1U << 20U) + 38;
  std::vector<cpu::Bf16> numbers(period);
  std::uint32_t state = 1;
  for (auto& number : numbers) {
    state = state * 1664525U + 1013904223U;
    number = cpu::to_bf16(static_cast<float>(state >> 8U) / 0x1p22F - 2.0F);
  }
  Memory memory = allocate(bytes);
  for (std::size_t at = 0; at < bytes; at += 2 * period) {
    check(cudaMemcpy(memory.get() + at, numbers.data(), std::min(2 * period, bytes - at), cudaMemcpyHostToDevice));
  }
  return memory;
}

int attribute(cudaDeviceAttr name) {
  int value = 0;
  check(cudaDeviceGetAttribute(&value, name, 0));
  return value;
}

struct Work {
  HeadShape shape;
  int rows;
  int keys;
  bool causal;
};

/// Milliseconds of one call.
double measure(const Work& work, int calls) {
  const HeadShape& shape = work.shape;
  const std::size_t row_bytes = static_cast<std::size_t>(shape.query_columns()) * 2;
  const int capacity = (work.keys + tile - 1) / tile * tile;
  const auto rows = static_cast<std::size_t>(work.rows);
  const Memory query = random_numbers(rows * row_bytes);
  const Memory slot = random_numbers(slot_bytes(capacity, shape));
  const Memory output = allocate(rows * row_bytes);
  const int multiprocessors = attribute(cudaDevAttrMultiProcessorCount);
  const std::size_t workspace_bytes = attention_workspace(multiprocessors, shape);
  const Memory workspace = allocate(workspace_bytes);
  const View query_view{query.get(), DataType::bf16,        Space::device,
                        work.rows,   shape.query_columns(), shape.query_columns()};
  View output_view = query_view;
  output_view.data = output.get();
  const SlotRange range{{slot.get(), capacity}, work.keys};
  const std::vector<SlotRange> visible(work.causal ? 0 : 1, range);
  const AttentionArguments arguments{.shape = shape,
                                     .query = query_view,
                                     .visible = visible,
                                     .causal = work.causal ? range : SlotRange{},
                                     .causal_before = work.keys - work.rows,
                                     .output = output_view};
  const auto call = [&] { check(attention(nullptr, arguments, multiprocessors, {workspace.get(), workspace_bytes})); };
  cudaEvent_t begin = nullptr;
  cudaEvent_t end = nullptr;
  check(cudaEventCreate(&begin));
  check(cudaEventCreate(&end));
  call();
  check(cudaEventRecord(begin));
  for (int i = 0; i < calls; ++i) call();
  check(cudaEventRecord(end));
  check(cudaEventSynchronize(end));
  float milliseconds = 0.0F;
  check(cudaEventElapsedTime(&milliseconds, begin, end));
  check(cudaEventDestroy(begin));
  check(cudaEventDestroy(end));
  return static_cast<double>(milliseconds) / calls;
}

constexpr HeadShape small_heads{12, 4, 64};
constexpr HeadShape large_heads{32, 8, 128};

void print_prefill() {
  std::printf("%-10s %-7s %6s %10s %9s\n", "head dim", "mask", "keys", "ms", "TFLOP/s");
  for (const HeadShape& shape : {small_heads, large_heads}) {
    for (const bool causal : {false, true}) {
      for (const int keys : {4096, 16384, 65536}) {
        const double milliseconds = measure({shape, keys, keys, causal}, keys > 16384 ? 2 : 10);
        const double pairs = causal ? 0.5 * keys * (keys + 1.0) : 1.0 * keys * keys;
        std::printf("%-10d %-7s %6d %10.3f %9.1f\n", shape.head_dim, causal ? "causal" : "dense", keys, milliseconds,
                    4.0 * pairs * shape.query_columns() / milliseconds * 1e-9);
      }
    }
  }
}

void print_few_rows() {
  std::printf("%-10s %6s %7s %10s %9s\n", "head dim", "rows", "keys", "us", "GB/s");
  for (const HeadShape& shape : {small_heads, large_heads}) {
    for (const int rows : {1, 32, 128}) {
      for (const int keys : {64, 32768, 131072}) {
        const double microseconds = 1e3 * measure({shape, rows, keys, false}, 20);
        std::printf("%-10d %6d %7d %10.1f %9.0f\n", shape.head_dim, rows, keys, microseconds,
                    static_cast<double>(slot_bytes(keys, shape)) / microseconds * 1e-3);
      }
    }
  }
}

}  // namespace
}  // namespace apb::cuda

int main() try {
  apb::cuda::print_prefill();
  apb::cuda::print_few_rows();
  return EXIT_SUCCESS;
} catch (const std::exception& error) {
  std::fprintf(stderr, "%s\n", error.what());
  return EXIT_FAILURE;
}
