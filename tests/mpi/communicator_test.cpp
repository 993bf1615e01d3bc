#include <gtest/gtest.h>

#include <array>
#include <numeric>
#include <random>

#include "comm/mpi_communicator.hpp"
#include "cpu/cpu_device.hpp"
#include "error.hpp"

namespace apb {
namespace {

class CommunicatorTest : public testing::Test {
 protected:
  MpiCommunicator world_{MPI_COMM_WORLD};
  std::unique_ptr<Device> device_ = make_cpu_device({});
};

TEST_F(CommunicatorTest, AllGatherBringsEveryPartToItsPlace) {
  for (const int part : {1, 7, 1000}) {
    const Buffer buffer = device_->allocate(static_cast<std::size_t>(world_.size() * part) * 4);
    const View parts = buffer.view(DataType::i32, world_.size(), part);
    auto* values = reinterpret_cast<std::int32_t*>(parts.data);
    std::fill_n(values, world_.size() * part, -1);
    for (int i = 0; i < part; ++i) values[world_.rank() * part + i] = 10000 * world_.rank() + i;
    device_->wait_for(world_.start_all_gather(*device_, parts));
    device_->synchronize();
    for (int i = 0; i < world_.size() * part; ++i) EXPECT_EQ(values[i], 10000 * (i / part) + i % part);
  }
}

TEST_F(CommunicatorTest, AllToAllDealsOutTheParts) {
  for (const int part : {1, 5, 1003}) {
    const int count = world_.size() * part;
    const Buffer send = device_->allocate(static_cast<std::size_t>(count) * 4);
    const Buffer receive = device_->allocate(static_cast<std::size_t>(count) * 4);
    auto* sent = reinterpret_cast<std::int32_t*>(send.data());
    auto* received = reinterpret_cast<std::int32_t*>(receive.data());
    std::fill_n(received, count, -1);
    for (int i = 0; i < count; ++i) sent[i] = 100000 * world_.rank() + i;
    device_->wait_for(world_.start_all_to_all(*device_, send.view(DataType::i32, world_.size(), part),
                                              receive.view(DataType::i32, world_.size(), part)));
    device_->synchronize();
    for (int i = 0; i < count; ++i) EXPECT_EQ(received[i], 100000 * (i / part) + world_.rank() * part + i % part);
  }
}

TEST_F(CommunicatorTest, ShiftsGoAllTheWayAround) {
  const int part = 777;
  const std::array<Buffer, 2> buffers = {device_->allocate(part * 4), device_->allocate(part * 4)};
  std::fill_n(reinterpret_cast<std::int32_t*>(buffers[0].data()), part, world_.rank());
  for (int step = 1; step <= world_.size(); ++step) {
    const auto& from = buffers.at(static_cast<std::size_t>((step + 1) % 2));
    const auto& to = buffers.at(static_cast<std::size_t>(step % 2));
    device_->wait_for(world_.start_shift(*device_, from.view(DataType::i32, 1, part), to.view(DataType::i32, 1, part)));
    device_->synchronize();
    const auto* values = reinterpret_cast<const std::int32_t*>(to.data());
    for (int i = 0; i < part; ++i)
      ASSERT_EQ(values[i], (world_.rank() + world_.size() - step % world_.size()) % world_.size());
  }
}

TEST_F(CommunicatorTest, AllGatherRefusesPartsThatAreNotOneARank) {
  const Buffer buffer = device_->allocate(4096);
  EXPECT_THROW(world_.start_all_gather(*device_, buffer.view(DataType::i32, world_.size() + 1, 2)),
               std::invalid_argument);
}

TEST_F(CommunicatorTest, BroadcastAndGather) {
  const int root = world_.size() - 1;
  std::string text = world_.rank() == root ? "the last rank's text" : "other";
  broadcast_text(world_, text, root);
  EXPECT_EQ(text, "the last rank's text");

  const auto texts = gather_texts(world_, std::string(static_cast<std::size_t>(world_.rank()), 'x'));
  ASSERT_EQ(texts.size(), world_.rank() == 0 ? static_cast<std::size_t>(world_.size()) : 0U);
  for (std::size_t rank = 0; rank < texts.size(); ++rank) EXPECT_EQ(texts[rank].size(), rank);
  EXPECT_EQ(world_.max(world_.rank() * 3), (world_.size() - 1) * 3);
}

TEST_F(CommunicatorTest, AFailureOfOneIsADecisionOfAll) {
  for (int failing = 0; failing < world_.size(); ++failing) {
    try {
      agree(world_, [&] {
        if (world_.rank() >= failing) fail_usage("rank {} cannot", world_.rank());
      });
      ADD_FAILURE() << "nothing thrown";
    } catch (const CommonError& error) {
      EXPECT_EQ(error.what(), "rank " + std::to_string(failing) + " cannot");
      EXPECT_EQ(error.exit_code(), ExitCode::wrong_usage);
    }
  }
  EXPECT_NO_THROW(agree(world_, [] {}));
}

}  // namespace
}  // namespace apb
