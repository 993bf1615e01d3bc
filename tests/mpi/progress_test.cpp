// Messages between ranks move while they compute.
#include <gtest/gtest.h>

#include <cstring>

#include "comm/mpi_communicator.hpp"
#include "cpu/cpu_device.hpp"

namespace apb {
namespace {

constexpr HeadShape shape{.heads = 3, .kv_heads = 1, .head_dim = 64};
constexpr std::int64_t numbers = 4 << 20;  // 16 MiB: far more than MPI sends by itself
constexpr int most_calls = 1000;

/// A large message is sent around; then all ranks attend, and none waits.
TEST(Progress, ALargeMessageArrivesDuringAttention) {
  MpiCommunicator world(MPI_COMM_WORLD);
  const auto device = make_cpu_device({});
  device->set_progress([&] { return world.progress(); });
  const int rows = 512;
  const Buffer sent = device->allocate(numbers * 4);
  const Buffer received = device->allocate(numbers * 4);
  const Buffer slot = device->allocate(device->slot_bytes(2048, shape));
  const Buffer query = device->allocate(rows * 3 * 64 * 2);
  const Buffer output = device->allocate(query.bytes());
  for (const auto* buffer : {&slot, &query, &output}) std::memset(buffer->data(), 0, buffer->bytes());
  std::fill_n(reinterpret_cast<std::int32_t*>(sent.data()), numbers, world.rank());
  std::memset(received.data(), 0xFF, received.bytes());
  world.take_message_seconds();

  const auto transfer =
      world.start_shift(*device, sent.view(DataType::i32, 1, numbers), received.view(DataType::i32, 1, numbers));
  EXPECT_EQ(world.under_way(), 1U);
  EXPECT_EQ(world.take_message_seconds(), 0.0);
  for (int call = 0; call < most_calls && world.under_way() > 0; ++call) {
    device->attention({.shape = shape,
                       .query = query.view(DataType::bf16, rows, shape.query_columns()),
                       .causal = {{slot.data(), 2048}, 2048},
                       .causal_before = 1000,
                       .output = output.view(DataType::bf16, rows, shape.query_columns())});
  }
  EXPECT_EQ(world.under_way(), 0U);
  EXPECT_GT(world.take_message_seconds(), 0.0);
  const auto* values = reinterpret_cast<const std::int32_t*>(received.data());
  const int before = (world.rank() + world.size() - 1) % world.size();
  EXPECT_TRUE(std::all_of(values, values + numbers, [&](std::int32_t value) { return value == before; }));

  transfer->finish();
  EXPECT_EQ(world.take_message_seconds(), 0.0) << "counted twice";
  world.max(0);  // nobody leaves a rank alone that still attends
}

TEST(Progress, WhatNobodyWaitedForIsNotUnderWayAnyMore) {
  MpiCommunicator world(MPI_COMM_WORLD);
  const auto device = make_cpu_device({});
  const Buffer buffer = device->allocate(static_cast<std::size_t>(world.size()) * 4);
  std::memset(buffer.data(), 0, buffer.bytes());
  EXPECT_FALSE(world.progress());
  { const auto transfer = world.start_all_gather(*device, buffer.view(DataType::i32, world.size(), 1)); }
  EXPECT_EQ(world.under_way(), 0U);
  EXPECT_FALSE(world.progress());
}

}  // namespace
}  // namespace apb
