// Messages move while the CPU device computes: when it calls Device::set_progress's function, and in which thread.
#include <gtest/gtest.h>

#include <cstring>
#include <stdexcept>
#include <thread>

#include "arrays.hpp"

namespace apb {
namespace {

constexpr HeadShape shape{.heads = 6, .kv_heads = 2, .head_dim = 16};
constexpr int rows = 700;
constexpr int tokens = 9000;  // 2,048 make a run of 256 KiB

struct Calls {
  int in_this_thread = 0;
  int elsewhere = 0;
};

class ProgressTest : public testing::TestWithParam<int> {
 protected:
  ProgressTest() {
    std::memset(slot_.data(), 0, slot_.bytes());
    const auto caller = std::this_thread::get_id();
    device_->set_progress([this, caller] {
      ++(std::this_thread::get_id() == caller ? calls_.in_this_thread : calls_.elsewhere);
      return true;
    });
  }
  void attend(std::int64_t count) {
    const SlotRange all{{slot_.data(), 9024}, tokens};
    device_->attention({.shape = shape,
                        .query = query_.view.row_range(0, count),
                        .visible = {&all, 1},
                        .output = output_.view.row_range(0, count)});
  }

  std::unique_ptr<Device> device_ = make_cpu_device({.threads = GetParam(), .compute_type = DataType::f32});
  Matrix query_ = random_matrix(*device_, DataType::f32, rows, shape.query_columns(), 1.0, 1);
  Matrix output_ = poisoned(*device_, DataType::f32, rows, shape.query_columns());
  Buffer slot_ = device_->allocate(device_->slot_bytes(9024, shape));
  Calls calls_;
};

TEST_P(ProgressTest, AttentionCallsItBetweenRunsOfKeysInTheCallersThreadAlone) {
  attend(rows);
  EXPECT_GT(calls_.in_this_thread, 0);
  EXPECT_EQ(calls_.elsewhere, 0);
  // Blocks of 512 / 3 positions, 2 KV heads, 5 runs, and the end. Where there are other threads, they take their share.
  if (GetParam() == 1) {
    EXPECT_EQ(calls_.in_this_thread, (rows / (512 / 3) + 1) * 2 * 5 + 1);
  }
}

TEST_P(ProgressTest, AttentionOfFewRowsCallsItToo) {
  attend(1);
  EXPECT_GT(calls_.in_this_thread, 0);
  EXPECT_EQ(calls_.elsewhere, 0);
}

TEST_P(ProgressTest, ProductsCallItAndShortOperationsDoNot) {
  device_->copy(query_.view, output_.view);
  device_->silu(output_.view);
  device_->mark(Phase::other);
  device_->synchronize();
  EXPECT_EQ(calls_.in_this_thread, 0);
  const std::vector<float> ones(16 * 96, 1.0F);
  const ConstView matrix = host_view(ones.data(), 16, 96);
  const auto weight = device_->pack({&matrix, 1}, {});
  const Matrix out = poisoned(*device_, DataType::f32, rows, 16);
  device_->linear(query_.view, *weight, out.view, false);
  EXPECT_EQ(calls_.in_this_thread, 1);
  EXPECT_EQ(calls_.elsewhere, 0);
}

TEST_P(ProgressTest, WhatItThrowsReachesTheCaller) {
  device_->set_progress([]() -> bool { throw std::runtime_error("the network is gone"); });
  EXPECT_THROW(attend(rows), std::runtime_error);
  device_->set_progress({});
  EXPECT_NO_THROW(attend(rows));
}

INSTANTIATE_TEST_SUITE_P(Threads, ProgressTest, testing::Values(1, 3));

}  // namespace
}  // namespace apb
