// The CUDA runtime's stand-in holds programs to what the runtime promises, and to no more.
#include "standin/runtime.hpp"

#include <cuda_runtime_api.h>
#include <gtest/gtest.h>

#include <cmath>
#include <cstring>
#include <vector>

namespace apb::emulation {
namespace {

constexpr std::size_t count = 64;
constexpr std::size_t bytes = count * sizeof(float);

class RuntimeTest : public testing::TestWithParam<Order> {
 protected:
  void SetUp() override {
    runtime_.scheduler.set_order(GetParam());
    ASSERT_EQ(cudaStreamCreateWithFlags(&first_, cudaStreamNonBlocking), cudaSuccess);
    ASSERT_EQ(cudaStreamCreateWithFlags(&second_, cudaStreamNonBlocking), cudaSuccess);
    ASSERT_EQ(cudaEventCreateWithFlags(&event_, cudaEventDisableTiming), cudaSuccess);
    device_ = device_memory();
    other_ = device_memory();
    ASSERT_EQ(cudaMallocHost(reinterpret_cast<void**>(&pinned_), bytes), cudaSuccess);
  }
  void TearDown() override {
    runtime_.revive();
    for (float* memory : {device_, other_}) EXPECT_EQ(cudaFree(memory), cudaSuccess);
    EXPECT_EQ(cudaFreeHost(pinned_), cudaSuccess);
    EXPECT_EQ(cudaEventDestroy(event_), cudaSuccess);
    EXPECT_EQ(cudaStreamDestroy(first_), cudaSuccess);
    EXPECT_EQ(cudaStreamDestroy(second_), cudaSuccess);
    runtime_.scheduler.set_order(Order::immediate);
  }
  static float* device_memory() {
    void* memory = nullptr;
    EXPECT_EQ(cudaMalloc(&memory, bytes), cudaSuccess);
    return static_cast<float*>(memory);
  }
  void fill_pinned(float value) { std::fill_n(pinned_, count, value); }

  Runtime& runtime_ = Runtime::instance();
  cudaStream_t first_ = nullptr, second_ = nullptr;
  cudaEvent_t event_ = nullptr;
  float *device_ = nullptr, *other_ = nullptr, *pinned_ = nullptr;
};

INSTANTIATE_TEST_SUITE_P(Orders, RuntimeTest, testing::Values(Order::immediate, Order::late, Order::contrary));

TEST_P(RuntimeTest, CopiesThereAndBack) {
  fill_pinned(3.0F);
  EXPECT_EQ(cudaMemcpyAsync(device_, pinned_, bytes, cudaMemcpyHostToDevice, first_), cudaSuccess);
  EXPECT_EQ(cudaMemcpyAsync(other_, device_, bytes, cudaMemcpyDeviceToDevice, first_), cudaSuccess);
  EXPECT_EQ(cudaStreamSynchronize(first_), cudaSuccess);
  fill_pinned(0.0F);
  EXPECT_EQ(cudaMemcpyAsync(pinned_, other_, bytes, cudaMemcpyDeviceToHost, first_), cudaSuccess);
  EXPECT_EQ(std::isnan(pinned_[0]), GetParam() != Order::immediate);
  EXPECT_EQ(cudaStreamSynchronize(first_), cudaSuccess);
  EXPECT_EQ(pinned_[0], 3.0F);
  EXPECT_EQ(pinned_[count - 1], 3.0F);
}

TEST_P(RuntimeTest, CopiesRowsAndNothingBetween) {
  const std::vector<float> source{1, 2, 3, 4, 5, 6};
  EXPECT_EQ(cudaMemsetAsync(device_, 0, bytes, first_), cudaSuccess);
  EXPECT_EQ(cudaMemcpy2DAsync(device_, 5 * sizeof(float), source.data(), 3 * sizeof(float), 2 * sizeof(float), 2,
                              cudaMemcpyHostToDevice, first_),
            cudaSuccess);
  std::vector<float> back(10);
  EXPECT_EQ(cudaMemcpyAsync(back.data(), device_, 10 * sizeof(float), cudaMemcpyDeviceToHost, first_), cudaSuccess);
  EXPECT_EQ(back, (std::vector<float>{1, 2, 0, 0, 0, 4, 5, 0, 0, 0}));
}

TEST_P(RuntimeTest, APageableSourceMayChangeAtOnce) {
  std::vector<float> source(count, 4.0F);
  EXPECT_EQ(cudaMemcpyAsync(device_, source.data(), bytes, cudaMemcpyHostToDevice, first_), cudaSuccess);
  source.assign(count, 5.0F);
  EXPECT_EQ(cudaMemcpyAsync(source.data(), device_, bytes, cudaMemcpyDeviceToHost, first_), cudaSuccess);
  EXPECT_EQ(source[7], 4.0F);
}

TEST_P(RuntimeTest, APinnedSourceMustNotChangeBeforeItsCopyHasRun) {
  if (GetParam() == Order::immediate) return;
  fill_pinned(1.0F);
  EXPECT_EQ(cudaMemcpyAsync(device_, pinned_, bytes, cudaMemcpyHostToDevice, first_), cudaSuccess);
  fill_pinned(2.0F);
  EXPECT_NE(cudaStreamSynchronize(first_), cudaSuccess);
  EXPECT_NE(cudaGetLastError(), cudaSuccess);
  EXPECT_NE(runtime_.revive().find("pinned source"), std::string::npos);
}

// What the host forgets to wait for, it does not get.
TEST_P(RuntimeTest, AMissingSynchronizeIsSeen) {
  if (GetParam() == Order::immediate) return;
  EXPECT_EQ(cudaMemsetAsync(device_, 0, bytes, first_), cudaSuccess);
  EXPECT_EQ(cudaMemcpyAsync(pinned_, device_, bytes, cudaMemcpyDeviceToHost, first_), cudaSuccess);
  EXPECT_TRUE(std::isnan(pinned_[3]));
}

// Streams that ought to wait for each other and do not: one order or the other shows it.
TEST_P(RuntimeTest, AMissingStreamWaitIsSeen) {
  if (GetParam() == Order::immediate) return;
  fill_pinned(1.0F);
  EXPECT_EQ(cudaMemcpyAsync(device_, pinned_, bytes, cudaMemcpyHostToDevice, first_), cudaSuccess);
  EXPECT_EQ(cudaEventRecord(event_, first_), cudaSuccess);
  // cudaStreamWaitEvent(second_, event_, 0) is missing.
  std::vector<float> back(count);
  EXPECT_EQ(cudaMemcpyAsync(other_, device_, bytes, cudaMemcpyDeviceToDevice, second_), cudaSuccess);
  EXPECT_NE(cudaMemcpyAsync(back.data(), other_, bytes, cudaMemcpyDeviceToHost, second_), cudaSuccess);
  EXPECT_FALSE(runtime_.revive().empty());
}

TEST_P(RuntimeTest, AStreamWaitsForAnEvent) {
  fill_pinned(6.0F);
  EXPECT_EQ(cudaMemcpyAsync(device_, pinned_, bytes, cudaMemcpyHostToDevice, first_), cudaSuccess);
  EXPECT_EQ(cudaEventRecord(event_, first_), cudaSuccess);
  EXPECT_EQ(cudaStreamWaitEvent(second_, event_, 0), cudaSuccess);
  std::vector<float> back(count);
  EXPECT_EQ(cudaMemcpyAsync(back.data(), device_, bytes, cudaMemcpyDeviceToHost, second_), cudaSuccess);
  EXPECT_EQ(back[5], 6.0F);
}

TEST_P(RuntimeTest, ReadingWhatNobodyWroteFails) {
  std::vector<float> back(count);
  EXPECT_NE(cudaMemcpyAsync(back.data(), device_, bytes, cudaMemcpyDeviceToHost, first_), cudaSuccess);
  EXPECT_FALSE(runtime_.revive().empty());
}

TEST_P(RuntimeTest, ReadingPastAnAllocationFails) {
  EXPECT_EQ(cudaMemsetAsync(device_, 0, bytes, first_), cudaSuccess);
  std::vector<float> back(count + 1);
  EXPECT_EQ(cudaMemcpyAsync(back.data(), device_, bytes + 4, cudaMemcpyDeviceToHost, first_), cudaErrorIllegalAddress);
  EXPECT_FALSE(runtime_.revive().empty());
}

TEST_P(RuntimeTest, TheHostsMemoryIsNoDeviceMemory) {
  std::vector<float> host(count);
  EXPECT_EQ(cudaMemcpyAsync(host.data(), pinned_, bytes, cudaMemcpyHostToDevice, first_),
            cudaErrorInvalidMemcpyDirection);
  EXPECT_EQ(cudaGetLastError(), cudaErrorInvalidMemcpyDirection);
  EXPECT_EQ(cudaGetLastError(), cudaSuccess);
  EXPECT_EQ(cudaMemsetAsync(host.data(), 0, bytes, first_), cudaErrorInvalidValue);
}

TEST_P(RuntimeTest, AnEventIsDoneWhenWhatCameBeforeItIs) {
  EXPECT_EQ(cudaMemsetAsync(device_, 0, bytes, first_), cudaSuccess);
  EXPECT_EQ(cudaEventRecord(event_, first_), cudaSuccess);
  EXPECT_EQ(cudaEventQuery(event_), GetParam() == Order::immediate ? cudaSuccess : cudaErrorNotReady);
  EXPECT_EQ(cudaEventQuery(event_), cudaSuccess);
}

TEST_P(RuntimeTest, TimeGoesFromEventToEvent) {
  cudaEvent_t start = nullptr, end = nullptr;
  EXPECT_EQ(cudaEventCreate(&start), cudaSuccess);
  EXPECT_EQ(cudaEventCreate(&end), cudaSuccess);
  float milliseconds = -1;
  EXPECT_EQ(cudaEventElapsedTime(&milliseconds, start, end), cudaErrorInvalidResourceHandle);
  EXPECT_EQ(cudaEventRecord(start, first_), cudaSuccess);
  EXPECT_EQ(cudaMemsetAsync(device_, 0, bytes, first_), cudaSuccess);
  EXPECT_EQ(cudaEventRecord(end, first_), cudaSuccess);
  EXPECT_EQ(cudaEventElapsedTime(&milliseconds, start, end),
            GetParam() == Order::immediate ? cudaSuccess : cudaErrorNotReady);
  EXPECT_EQ(cudaEventSynchronize(end), cudaSuccess);
  EXPECT_EQ(cudaEventElapsedTime(&milliseconds, start, end), cudaSuccess);
  EXPECT_TRUE(milliseconds >= 0 && milliseconds < 60000);
  EXPECT_EQ(cudaEventElapsedTime(&milliseconds, event_, end), cudaErrorInvalidResourceHandle);
  EXPECT_EQ(cudaEventDestroy(start), cudaSuccess);
  EXPECT_EQ(cudaEventDestroy(end), cudaSuccess);
}

TEST_P(RuntimeTest, HandlesAreUsableUntilTheyAreDestroyed) {
  cudaStream_t stream = nullptr;
  EXPECT_EQ(cudaStreamCreate(&stream), cudaSuccess);
  EXPECT_EQ(cudaStreamDestroy(stream), cudaSuccess);
  EXPECT_EQ(cudaStreamSynchronize(stream), cudaErrorInvalidResourceHandle);
  EXPECT_EQ(cudaFree(pinned_), cudaErrorInvalidValue);
  EXPECT_EQ(cudaFreeHost(device_), cudaErrorInvalidValue);
}

TEST_P(RuntimeTest, ThereIsSoMuchMemory) {
  std::size_t free = 0, total = 0;
  EXPECT_EQ(cudaMemGetInfo(&free, &total), cudaSuccess);
  EXPECT_LE(free, total - 2 * bytes);
  void* memory = nullptr;
  EXPECT_EQ(cudaMalloc(&memory, total), cudaErrorMemoryAllocation);
  EXPECT_EQ(cudaGetLastError(), cudaErrorMemoryAllocation);
}

}  // namespace
}  // namespace apb::emulation
