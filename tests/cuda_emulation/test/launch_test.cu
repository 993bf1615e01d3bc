// Kernels that nvcc compiled are launched on the emulated GPU as on a real one, within its limits.
#include <cuda_runtime.h>
#include <gtest/gtest.h>

#include <vector>

#include "standin/runtime.hpp"

namespace apb::emulation {
namespace {

constexpr int count = 200;

struct Pair {
  float factor;
  int offset;
};

__device__ int table[4] = {10, 20, 30, 40};

__global__ void scale(const float* in, float* out, Pair pair, int elements) {
  const int i = static_cast<int>(blockIdx.x * blockDim.x + threadIdx.x);
  if (i < elements) out[i] = in[i] * pair.factor + static_cast<float>(pair.offset + table[i % 4]);
}

/// out[i] = in of the thread that stands opposite in the block; through dynamic shared memory.
__global__ void __launch_bounds__(64) reverse(const float* in, float* out) {
  extern __shared__ float numbers[];
  numbers[threadIdx.x] = in[threadIdx.x];
  __syncthreads();
  out[threadIdx.x] = numbers[blockDim.x - 1 - threadIdx.x];
}

class LaunchTest : public testing::TestWithParam<Order> {
 protected:
  void SetUp() override {
    runtime_.scheduler.set_order(GetParam());
    for (float** memory : {&in_, &out_}) ASSERT_EQ(cudaMalloc(memory, count * sizeof(float)), cudaSuccess);
    ASSERT_EQ(cudaStreamCreateWithFlags(&stream_, cudaStreamNonBlocking), cudaSuccess);
    ASSERT_EQ(cudaStreamCreateWithFlags(&other_, cudaStreamNonBlocking), cudaSuccess);
    for (int i = 0; i < count; ++i) numbers_.push_back(static_cast<float>(i));
  }
  void TearDown() override {
    runtime_.revive();
    for (float* memory : {in_, out_}) EXPECT_EQ(cudaFree(memory), cudaSuccess);
    EXPECT_EQ(cudaStreamDestroy(stream_), cudaSuccess);
    EXPECT_EQ(cudaStreamDestroy(other_), cudaSuccess);
    runtime_.scheduler.set_order(Order::immediate);
  }
  void upload(cudaStream_t stream) {
    EXPECT_EQ(cudaMemcpyAsync(in_, numbers_.data(), count * sizeof(float), cudaMemcpyHostToDevice, stream),
              cudaSuccess);
  }
  cudaError_t download(std::vector<float>& result, int elements) {
    result.resize(static_cast<std::size_t>(elements));
    return cudaMemcpyAsync(result.data(), out_, result.size() * sizeof(float), cudaMemcpyDeviceToHost, stream_);
  }

  Runtime& runtime_ = Runtime::instance();
  std::vector<float> numbers_;
  float *in_ = nullptr, *out_ = nullptr;
  cudaStream_t stream_ = nullptr, other_ = nullptr;
};

INSTANTIATE_TEST_SUITE_P(Orders, LaunchTest, testing::Values(Order::immediate, Order::late, Order::contrary));

TEST_P(LaunchTest, AKernelRunsWithItsArgumentsAsTheyWere) {
  upload(stream_);
  Pair pair{2.0F, 3};
  scale<<<4, 64, 0, stream_>>>(in_, out_, pair, count);
  EXPECT_EQ(cudaGetLastError(), cudaSuccess);
  pair = {0.0F, 0};
  std::vector<float> result;
  ASSERT_EQ(download(result, count), cudaSuccess);
  for (int i = 0; i < count; ++i) {
    EXPECT_EQ(result[static_cast<std::size_t>(i)], static_cast<float>(2 * i + 3 + 10 * (i % 4 + 1)));
  }
}

TEST_P(LaunchTest, AKernelCountsWhatItDid) {
  runtime_.machine.reset_counters();
  upload(stream_);
  scale<<<4, 64, 0, stream_>>>(in_, out_, Pair{1.0F, 0}, count);
  EXPECT_EQ(cudaStreamSynchronize(stream_), cudaSuccess);
  ASSERT_EQ(runtime_.machine.counters().size(), 1U);
  const ptx::Counters& counters = runtime_.machine.counters().begin()->second;
  EXPECT_EQ(counters.launches, 1U);
  EXPECT_EQ(counters.blocks, 4U);
  EXPECT_EQ(counters.global_store.accesses, 7U);  // 200 threads are 7 warps
  EXPECT_EQ(counters.global_store.bytes, count * sizeof(float));
  EXPECT_EQ(counters.global_store.sectors, counters.global_store.least_sectors);
}

TEST_P(LaunchTest, ALaunchBeyondTheLimitsIsRefused) {
  upload(stream_);
  scale<<<1, 1025, 0, stream_>>>(in_, out_, Pair{}, count);
  EXPECT_EQ(cudaGetLastError(), cudaErrorInvalidConfiguration);
  scale<<<dim3(1, 65536), 32, 0, stream_>>>(in_, out_, Pair{}, count);
  EXPECT_EQ(cudaGetLastError(), cudaErrorInvalidConfiguration);
  scale<<<0, 32, 0, stream_>>>(in_, out_, Pair{}, count);
  EXPECT_EQ(cudaGetLastError(), cudaErrorInvalidConfiguration);
  reverse<<<1, 96, 4 * 96, stream_>>>(in_, out_);  // more threads than its launch bounds
  EXPECT_NE(cudaGetLastError(), cudaSuccess);
  EXPECT_EQ(cudaStreamSynchronize(stream_), cudaSuccess);
}

TEST_P(LaunchTest, MoreThan48KiBOfSharedMemoryMustBeAskedFor) {
  upload(stream_);
  constexpr int much = 64 * 1024;
  ASSERT_EQ(cudaFuncSetAttribute(reverse, cudaFuncAttributeMaxDynamicSharedMemorySize, 48 * 1024), cudaSuccess);
  reverse<<<1, 64, much, stream_>>>(in_, out_);
  EXPECT_EQ(cudaGetLastError(), cudaErrorInvalidValue);
  EXPECT_EQ(cudaFuncSetAttribute(reverse, cudaFuncAttributeMaxDynamicSharedMemorySize, 164 * 1024),
            cudaErrorInvalidValue);
  EXPECT_EQ(cudaGetLastError(), cudaErrorInvalidValue);
  EXPECT_EQ(cudaFuncSetAttribute(reverse, cudaFuncAttributeMaxDynamicSharedMemorySize, much), cudaSuccess);
  reverse<<<1, 64, much, stream_>>>(in_, out_);
  EXPECT_EQ(cudaGetLastError(), cudaSuccess);
  std::vector<float> result;
  ASSERT_EQ(download(result, 64), cudaSuccess);
  EXPECT_EQ(result[0], 63.0F);
  int blocks = 0;
  EXPECT_EQ(cudaOccupancyMaxActiveBlocksPerMultiprocessor(&blocks, reverse, 64, much), cudaSuccess);
  EXPECT_EQ(blocks, 2);
}

// The kernel reads what a copy of another stream has not brought yet.
TEST_P(LaunchTest, AMissingStreamWaitIsSeen) {
  if (GetParam() == Order::immediate) return;
  scale<<<4, 64, 0, stream_>>>(in_, out_, Pair{1.0F, 0}, count);
  upload(other_);
  std::vector<float> result;
  const bool seen_by_kernel = download(result, count) != cudaSuccess;
  // Of two that do not wait for each other, one order hides the mistake and the other shows it.
  EXPECT_EQ(seen_by_kernel, GetParam() == Order::late);
}

TEST_P(LaunchTest, AKernelThatFailsFailsEveryLaterCall) {
  upload(stream_);
  scale<<<4, 64, 0, stream_>>>(in_, out_, Pair{1.0F, 0}, count + 1);  // one past the end
  EXPECT_EQ(cudaStreamSynchronize(stream_), cudaErrorIllegalAddress);
  EXPECT_EQ(cudaMemsetAsync(out_, 0, 4, stream_), cudaErrorIllegalAddress);
  EXPECT_EQ(cudaGetLastError(), cudaErrorIllegalAddress);
  const std::string message = runtime_.revive();
  EXPECT_NE(message.find("launch_test.cu"), std::string::npos) << message;
  EXPECT_NE(message.find("scale"), std::string::npos) << message;
}

}  // namespace
}  // namespace apb::emulation
