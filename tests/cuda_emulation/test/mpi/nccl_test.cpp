// The NCCL stand-in between ranks.
#include <cuda_runtime_api.h>
#include <gtest/gtest.h>
#include <mpi.h>
#include <nccl.h>
#include <sys/wait.h>
#include <unistd.h>

#include <chrono>
#include <future>
#include <thread>
#include <vector>

#include "standin/runtime.hpp"

namespace apb::emulation {
namespace {

constexpr std::size_t count = 100'000;  // several pieces of a message

class NcclTest : public testing::Test {
 protected:
  void SetUp() override {
    MPI_Comm_rank(MPI_COMM_WORLD, &rank_);
    MPI_Comm_size(MPI_COMM_WORLD, &size_);
    runtime_.scheduler.set_order(Order::late);
    ASSERT_EQ(cudaSetDevice(rank_), cudaSuccess);
    ASSERT_EQ(connect(), ncclSuccess);
    ASSERT_EQ(cudaStreamCreateWithFlags(&stream_, cudaStreamNonBlocking), cudaSuccess);
    void* memory = nullptr;
    ASSERT_EQ(cudaMalloc(&memory, all_bytes()), cudaSuccess);
    all_ = static_cast<float*>(memory);
  }
  void TearDown() override {
    runtime_.revive();
    EXPECT_EQ(ncclCommDestroy(comm_), ncclSuccess);
    EXPECT_EQ(cudaFree(all_), cudaSuccess);
    EXPECT_EQ(cudaStreamDestroy(stream_), cudaSuccess);
    MPI_Barrier(MPI_COMM_WORLD);
  }
  ncclResult_t connect() {
    ncclUniqueId id{};
    if (rank_ == 0) ncclGetUniqueId(&id);
    MPI_Bcast(&id, sizeof id, MPI_BYTE, 0, MPI_COMM_WORLD);
    return ncclCommInitRank(&comm_, size_, id, rank_);
  }
  std::size_t all_bytes() const { return count * sizeof(float) * static_cast<std::size_t>(size_); }
  float* part(int rank) const { return all_ + static_cast<std::size_t>(rank) * count; }
  static std::vector<float> numbers_of(int rank) {
    std::vector<float> numbers(count);
    for (std::size_t i = 0; i < count; ++i)
      numbers[i] = static_cast<float>(i % 1000) + 1000.0F * static_cast<float>(rank);
    return numbers;
  }
  void upload(float* to, const std::vector<float>& numbers) const {
    EXPECT_EQ(cudaMemcpyAsync(to, numbers.data(), numbers.size() * sizeof(float), cudaMemcpyHostToDevice, stream_),
              cudaSuccess);
  }
  std::vector<float> download(const float* from) const {
    std::vector<float> numbers(count);
    EXPECT_EQ(cudaMemcpyAsync(numbers.data(), from, count * sizeof(float), cudaMemcpyDeviceToHost, stream_),
              cudaSuccess);
    return numbers;
  }

  Runtime& runtime_ = Runtime::instance();
  int rank_ = 0, size_ = 1;
  ncclComm_t comm_ = nullptr;
  cudaStream_t stream_ = nullptr;
  float* all_ = nullptr;
};

TEST_F(NcclTest, AllGatherInPlaceGivesEverybodyEveryPart) {
  for (int repeat = 0; repeat < 3; ++repeat) {
    upload(part(rank_), numbers_of(rank_ + repeat));
    EXPECT_EQ(ncclAllGather(part(rank_), all_, count, ncclFloat32, comm_, stream_), ncclSuccess);
    for (int rank = 0; rank < size_; ++rank) EXPECT_EQ(download(part(rank)), numbers_of(rank + repeat));
  }
}

TEST_F(NcclTest, BroadcastGivesEverybodyTheRootsData) {
  const int root = size_ - 1;
  if (rank_ == root) upload(all_, numbers_of(root));
  EXPECT_EQ(ncclBroadcast(all_, all_, count, ncclFloat32, root, comm_, stream_), ncclSuccess);
  EXPECT_EQ(download(all_), numbers_of(root));
}

TEST_F(NcclTest, AGroupSendsAndReceivesAtOnce) {
  if (size_ == 1) return;
  const int next = (rank_ + 1) % size_, before = (rank_ + size_ - 1) % size_;
  upload(part(0), numbers_of(rank_));
  EXPECT_EQ(ncclGroupStart(), ncclSuccess);
  EXPECT_EQ(ncclSend(part(0), count, ncclFloat32, next, comm_, stream_), ncclSuccess);
  EXPECT_EQ(ncclRecv(part(1), count, ncclFloat32, before, comm_, stream_), ncclSuccess);
  EXPECT_EQ(ncclGroupEnd(), ncclSuccess);
  EXPECT_EQ(download(part(1)), numbers_of(before));
}

// A GPU would go on while the host is in MPI; so must operations that nobody on this host waits for.
TEST_F(NcclTest, LateStreamsDoNotBlockRanksThatWaitForThem) {
  upload(part(rank_), numbers_of(rank_));
  EXPECT_EQ(ncclAllGather(part(rank_), all_, count, ncclFloat32, comm_, stream_), ncclSuccess);
  if (rank_ != 0) cudaStreamSynchronize(stream_);
  MPI_Barrier(MPI_COMM_WORLD);
  EXPECT_EQ(download(part(size_ - 1)), numbers_of(size_ - 1));
}

TEST_F(NcclTest, WhatNobodyWroteIsUnwrittenElsewhereToo) {
  if (rank_ == 0) {
    upload(all_, {1.0F, 2.0F});
  } else {
    upload(all_, numbers_of(rank_));
  }
  EXPECT_EQ(ncclBroadcast(all_, all_, count, ncclFloat32, 0, comm_, stream_), ncclSuccess);
  float first[3] = {};
  EXPECT_EQ(cudaMemcpyAsync(first, all_, 8, cudaMemcpyDeviceToHost, stream_), cudaSuccess);
  EXPECT_EQ(first[1], 2.0F);
  EXPECT_NE(cudaMemcpyAsync(first, all_, 12, cudaMemcpyDeviceToHost, stream_), cudaSuccess);
  EXPECT_FALSE(runtime_.revive().empty());
}

TEST_F(NcclTest, CallsThatDoNotMatchAreAnError) {
  if (size_ == 1) return;
  upload(part(rank_), numbers_of(rank_));
  const std::size_t mine = rank_ == 0 ? count : count / 2;
  EXPECT_EQ(ncclAllGather(part(rank_), all_, mine, ncclFloat32, comm_, stream_), ncclSuccess);
  EXPECT_NE(cudaStreamSynchronize(stream_), cudaSuccess);
  ncclResult_t error = ncclSuccess;
  EXPECT_EQ(ncclCommGetAsyncError(comm_, &error), ncclSuccess);
  EXPECT_EQ(error, ncclInvalidUsage);
  EXPECT_NE(runtime_.revive().find("do not match"), std::string::npos);
}

TEST_F(NcclTest, RanksCannotShareAGpu) {
  if (size_ == 1) return;
  ncclCommDestroy(comm_);
  EXPECT_EQ(cudaSetDevice(0), cudaSuccess);
  EXPECT_EQ(connect(), ncclInvalidUsage);
  EXPECT_EQ(cudaSetDevice(rank_), cudaSuccess);
  EXPECT_EQ(connect(), ncclSuccess);
}

TEST_F(NcclTest, HostMemoryIsRefused) {
  std::vector<float> host(count);
  EXPECT_EQ(ncclBroadcast(host.data(), host.data(), count, ncclFloat32, 0, comm_, stream_), ncclInvalidArgument);
}

// As on hardware: the operation hangs, the error can be asked for, and abort ends it.
TEST_F(NcclTest, ARankThatIsGoneIsAnErrorAndAbortEndsTheWait) {
  if (size_ > 1) return;
  ncclUniqueId id{};
  ncclGetUniqueId(&id);
  const pid_t child = fork();
  if (child == 0) {
    cudaSetDevice(1);
    ncclComm_t comm = nullptr;
    ncclCommInitRank(&comm, 2, id, 1);
    _exit(0);
  }
  ncclComm_t comm = nullptr;
  ASSERT_EQ(ncclCommInitRank(&comm, 2, id, 0), ncclSuccess);
  waitpid(child, nullptr, 0);
  upload(all_, {1.0F});
  EXPECT_EQ(ncclBroadcast(all_, all_, 1, ncclFloat32, 1, comm, stream_), ncclSuccess);
  auto watchdog = std::async(std::launch::async, [comm] {
    ncclResult_t error = ncclSuccess;
    while (error == ncclSuccess) {
      std::this_thread::sleep_for(std::chrono::milliseconds(1));
      ncclCommGetAsyncError(comm, &error);
    }
    ncclCommAbort(comm);
    return error;
  });
  EXPECT_NE(cudaStreamSynchronize(stream_), cudaSuccess);
  EXPECT_NE(runtime_.revive().find("aborted"), std::string::npos);
  EXPECT_EQ(watchdog.get(), ncclRemoteError);
}

}  // namespace
}  // namespace apb::emulation
